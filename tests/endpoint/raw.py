"""Requests that no client library would send, over a TLS connection of our own."""

import http.client
import ssl
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def json_headers(target: str) -> dict[str, str]:
    return {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}


def connect(aws, timeout: float = 30) -> http.client.HTTPSConnection:
    parts = urlsplit(aws.url)
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])
    return http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=timeout)


def signed(aws, service, *, method="POST", path="/", headers=None, body=b"", region="eu-west-1", keys=None):
    """The headers of a request signed by the administrator, or with `keys` as boto3 takes them."""
    if keys is None:
        pair = aws.account["try_credentials"]
        keys = Credentials(pair["access_key_id"], pair["secret_access_key"])
    else:
        keys = Credentials(*(keys[f"aws_{name}"] for name in ("access_key_id", "secret_access_key", "session_token")))
    request = AWSRequest(
        method, aws.url + path, data=body, headers={"Host": urlsplit(aws.url).netloc, **(headers or {})}
    )
    SigV4Auth(keys, service, region).add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def send(aws, service, *, method="POST", path="/", headers=None, body=b"", **how) -> tuple[int, bytes]:
    """Send one signed request; the status and body of the answer."""
    head = signed(aws, service, method=method, path=path, headers=headers, body=body, **how)
    connection = connect(aws)
    try:
        connection.request(method, path, body=body, headers=head)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
