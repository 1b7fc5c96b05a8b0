"""The calls that only agents make, signed as they sign them."""

import http.client
import json
import ssl
from datetime import timedelta
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fleetops import clock
from fleetops.endpoint.calls import Principal
from fleetops.endpoint.credentials import TokenVault
from tests.support.endpoint import RunningEndpoint


class AgentClient:
    """Signs and sends, and says what came back."""

    def __init__(self, endpoint: RunningEndpoint, credentials: Credentials | None = None) -> None:
        keys = endpoint.account["try_credentials"]
        self._credentials = credentials or Credentials(keys["access_key_id"], keys["secret_access_key"])
        self._host = endpoint.url.removeprefix("https://")
        self._context = ssl.create_default_context(cafile=endpoint.handover["ca_file"])

    def as_node(
        self,
        endpoint: RunningEndpoint,
        instance_id: str,
        role: str = "ssm-core",
        node: tuple[str, str, str] | None = None,
    ) -> "AgentClient":
        """A client with the credentials that the endpoint would give this node."""
        vault = TokenVault((endpoint.home / "keys" / "token.key").read_bytes())
        role_id = endpoint.client("iam").get_role(RoleName=role)["Role"]["RoleId"]
        principal = Principal(
            kind="node",
            account_id="111122223333",
            arn=f"arn:aws:sts::111122223333:assumed-role/{role}/{instance_id}",
            user_id=f"{role_id}:{instance_id}",
            name=role,
            access_key_id="",
            session_name=instance_id,
            role_arn=f"arn:aws:iam::111122223333:role/{role}",
            node=node or ("111122223333", "eu-west-1", instance_id),
        )
        made = vault.issue(principal, timedelta(hours=1), clock.now())
        return AgentClient(endpoint, Credentials(made.access_key_id, made.secret_access_key, made.session_token))

    def call(self, target: str, parameters: dict[str, Any], service: str = "ssm") -> tuple[int, Any]:
        body = json.dumps(parameters).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        status, content = self._send("POST", "/", body, headers, service)
        return status, json.loads(content)

    def report(self, instance_id: str, **information: str) -> tuple[int, Any]:
        information = {"AgentName": "amazon-ssm-agent", "PlatformType": "Linux", **information}
        return self.call("AmazonSSM.UpdateInstanceInformation", {"InstanceId": instance_id, **information})

    def post(self, path: str) -> tuple[int, bytes]:
        body = json.dumps({"MessageSchemaVersion": "1.0", "RequestId": "c9b04fac-aaff-4f20-a086-8677a64bec10"}).encode()
        return self._send("POST", path, body, {"Content-Type": "application/json"}, "ssmmessages")

    def upgrade(self, path: str, *, signed: bool = True, secret: str | None = None) -> tuple[int, bytes]:
        """Ask for a websocket; the status and body of the answer."""
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        return self._send("GET", path, b"", headers, "ssmmessages" if signed else "", secret)

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], service: str, secret: str | None = None
    ) -> tuple[int, bytes]:
        signing = AWSRequest(method, f"https://{self._host}{path}", headers={"Host": self._host}, data=body)
        signed_headers = {name: value for name, value in headers.items() if name in {"Content-Type", "X-Amz-Target"}}
        for name, value in signed_headers.items():
            signing.headers[name] = value
        if service:
            credentials = self._credentials
            if secret is not None:
                credentials = Credentials(credentials.access_key, secret, credentials.token)
            SigV4Auth(credentials, service, "eu-west-1").add_auth(signing)
        connection = http.client.HTTPSConnection(self._host, context=self._context, timeout=30)
        try:
            connection.request(method, path, body or None, {**headers, **dict(signing.headers)})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
