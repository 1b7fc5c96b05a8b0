"""Machines outside EC2: an activation, a registration, the node's own key, and its end."""

import base64
import hashlib
import http.client
import json
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fleetops import clock
from fleetops.awsapi import sigv4
from tests.endpoint.agent import AgentClient
from tests.endpoint.jobs import until

ROLE = "ssm-hybrid"
PRINT = "6f8e9a3c-0f6f-4a9a-8f0e-111111111111"


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["Error"]["Code"]


def public(key: rsa.RSAPrivateKey) -> str:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, spki)).decode()


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


class Machine:
    """A machine that registers and calls as amazon-ssm-agent does: unsigned, then with its own key, body chunked."""

    def __init__(self, aws, key: rsa.RSAPrivateKey, fingerprint: str = PRINT) -> None:
        self.aws, self.key, self.fingerprint = aws, key, fingerprint
        self.host = aws.url.removeprefix("https://")
        self.instance_id = ""

    def register(self, activation: dict, **change) -> tuple[int, dict]:
        body = {
            "ActivationId": activation["ActivationId"],
            "ActivationCode": activation["ActivationCode"],
            "PublicKey": public(self.key),
            "PublicKeyType": "Rsa",
            "Fingerprint": self.fingerprint,
        } | change
        status, answer = self._send("RegisterManagedInstance", body, {})
        self.instance_id = answer.get("InstanceId", self.instance_id)
        return status, answer

    def token(self, **change) -> tuple[int, dict]:
        return self.signed("RequestManagedInstanceRoleToken", {"Fingerprint": self.fingerprint} | change)

    def signed(
        self, operation: str, body: dict, *, at=None, claimed: str | None = None, other_body: dict | None = None
    ) -> tuple[int, dict]:
        moment = at or clock.now()
        sent = f"{moment:%Y%m%dT%H%M%SZ}"
        headers = {
            "Host": self.host,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Date": sent,
            "X-Amz-Target": f"AmazonSSM.{operation}",
        }
        names = ("content-type", "host", "x-amz-date", "x-amz-target")
        payload = json.dumps(body).encode()
        node = claimed or self.instance_id
        claim = sigv4.Claim(node, sent[:8], "eu-west-1", "ssm", names, "", sent, None)
        lowered = [(name.lower(), value) for name, value in headers.items()]
        lowered.append(("x-amz-content-sha256", hashlib.sha256(payload).hexdigest()))
        request = sigv4.Request("POST", "/", "", lowered, payload)
        text = sigv4.string_to_sign(request, claim).encode()
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        signature = base64.b64encode(self.key.sign(text, pss, hashes.SHA256())).decode()
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={node}/{sent[:8]}/eu-west-1/ssm/aws4_request, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        headers["X-Amz-Content-Sha256"] = hashlib.sha256(payload).hexdigest()
        return self._send(operation, other_body or body, headers)

    def _send(self, operation: str, body: dict, headers: dict) -> tuple[int, dict]:
        context = ssl.create_default_context(cafile=self.aws.handover["ca_file"])
        connection = http.client.HTTPSConnection(self.host, context=context, timeout=30)
        plain = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"AmazonSSM.{operation}"}
        try:
            connection.request("POST", "/", iter([json.dumps(body).encode()]), plain | headers, encode_chunked=True)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


def activate(ssm, **more) -> dict:
    return ssm.create_activation(IamRole=ROLE, **({"DefaultInstanceName": "till-7"} | more))


def test_a_code_is_no_option_of_a_command_line(aws):
    ssm = aws.client("ssm")
    codes = {ssm.create_activation(IamRole=ROLE)["ActivationCode"] for _ in range(20)}
    assert len(codes) == 20
    assert [each for each in codes if not re.fullmatch("[A-Za-z0-9]{20}", each)] == []


def test_a_machine_becomes_a_node_and_ceases_to_be_one(aws, ssm, keys):
    activation = activate(ssm, Tags=[{"Key": "shop", "Value": "lagos"}], RegistrationLimit=2)
    assert len(activation["ActivationCode"]) >= 20
    machine = Machine(aws, keys[0])
    assert machine.register(activation)[0] == 200
    assert machine.instance_id.startswith("mi-")
    status, token = machine.token()
    assert status == 200
    assert set(token) == {
        "AccessKeyId",
        "SecretAccessKey",
        "SessionToken",
        "TokenExpirationDate",
        "UpdateKeyPair",
    }
    assert token["UpdateKeyPair"] is False
    issued = Credentials(token["AccessKeyId"], token["SecretAccessKey"], token["SessionToken"])
    node = AgentClient(aws, issued)
    assert node.report(machine.instance_id, AgentVersion="3.3.987.0", ComputerName="till")[0] == 200
    assert node.report(aws.instance_id("lagos-pos-gw-011"), AgentVersion="1.0")[0] == 400
    (row,) = ssm.describe_instance_information(
        Filters=[{"Key": "ActivationIds", "Values": [activation["ActivationId"]]}]
    )["InstanceInformationList"]
    assert (row["InstanceId"], row["Name"], row["IamRole"]) == (machine.instance_id, "till-7", ROLE)
    assert row["ActivationId"] == activation["ActivationId"]
    tagged = ssm.describe_instance_information(Filters=[{"Key": "tag:shop", "Values": ["lagos"]}])
    assert machine.instance_id in {item["InstanceId"] for item in tagged["InstanceInformationList"]}
    ssm.deregister_managed_instance(InstanceId=machine.instance_id)
    assert code(ssm.deregister_managed_instance, InstanceId=machine.instance_id) == "InvalidInstanceId"
    status, refused = node.report(machine.instance_id, AgentVersion="3.3.987.0")
    assert (status, refused["__type"]) == (400, "UnrecognizedClientException")
    assert machine.token()[1]["__type"] == "AccessDeniedException"


def test_a_node_changes_its_key(aws, ssm, keys):
    machine = Machine(aws, keys[0])
    machine.register(activate(ssm))
    changed = {"NewPublicKey": public(keys[1]), "NewPublicKeyType": "Rsa"}
    assert machine.signed("UpdateManagedInstancePublicKey", changed) == (200, {})
    status, refused = machine.token()
    assert (status, refused["__type"]) == (400, "InvalidSignatureException")
    machine.key = keys[1]
    assert machine.token()[0] == 200


def test_an_activation_ends_at_its_limit_whoever_comes_at_once(aws, ssm, keys):
    activation = activate(ssm, RegistrationLimit=3)
    machines = [Machine(aws, keys[0], f"{PRINT[:-1]}{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda machine: machine.register(activation), machines))
    assert sorted(status for status, _ in answers) == [200] * 3 + [400] * 5
    refused = {answer["__type"] for status, answer in answers if status == 400}
    assert refused == {"InvalidActivation"}
    assert len({answer["InstanceId"] for status, answer in answers if status == 200}) == 3
    (row,) = ssm.describe_activations(
        Filters=[{"FilterKey": "ActivationIds", "FilterValues": [activation["ActivationId"]]}]
    )["ActivationList"]
    assert (row["RegistrationsCount"], row["RegistrationLimit"], row["Expired"]) == (3, 3, False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ActivationCode": "x" * 20}, "InvalidActivation"),
        ({"ActivationId": "6f8e9a3c-0f6f-4a9a-8f0e-000000000000"}, "InvalidActivation"),
        ({"ActivationId": "' or 1=1"}, "InvalidActivation"),
        ({"PublicKey": "bm8ga2V5"}, "ValidationException"),
        ({"PublicKeyType": "Dsa"}, "ValidationException"),
        ({"Fingerprint": ""}, "ValidationException"),
        ({"Fingerprint": "x" * 300}, "ValidationException"),
        ({"ActivationCode": 7}, "ValidationException"),
    ],
)
def test_what_does_not_prove_itself_is_refused_and_takes_no_place(aws, ssm, keys, change, expected):
    activation = activate(ssm)
    machine = Machine(aws, keys[0])
    status, answer = machine.register(activation, **change)
    assert (status, answer["__type"]) == (400, expected)
    assert machine.register(activation)[0] == 200


def test_an_activation_that_has_ended_takes_nobody(aws, ssm, keys):
    activation = activate(ssm, ExpirationDate=clock.now() + timedelta(seconds=3))
    this = [{"FilterKey": "ActivationIds", "FilterValues": [activation["ActivationId"]]}]
    until(lambda: ssm.describe_activations(Filters=this)["ActivationList"][0]["Expired"])
    status, answer = Machine(aws, keys[0]).register(activation)
    assert (status, answer["__type"]) == (400, "InvalidActivation")


def test_a_deleted_activation_takes_no_more_and_its_nodes_stay(aws, ssm, keys):
    activation = activate(ssm, RegistrationLimit=5)
    machine = Machine(aws, keys[0])
    machine.register(activation)
    ssm.delete_activation(ActivationId=activation["ActivationId"])
    assert Machine(aws, keys[1]).register(activation)[1]["__type"] == "InvalidActivation"
    assert machine.token()[0] == 200
    assert code(ssm.delete_activation, ActivationId=activation["ActivationId"]) == "InvalidActivation"


def test_signatures_that_are_not_the_nodes_now_are_refused(aws, ssm, keys):
    machine, other = Machine(aws, keys[0]), Machine(aws, keys[1])
    machine.register(activate(ssm))
    other.register(activate(ssm))
    body = {"Fingerprint": PRINT}
    operation = "RequestManagedInstanceRoleToken"
    past = clock.now() - timedelta(minutes=6)
    assert machine.signed(operation, body, at=past)[1]["__type"] == "InvalidSignatureException"
    assert machine.signed(operation, body, claimed=other.instance_id)[1]["__type"] == "InvalidSignatureException"
    assert machine.signed(operation, body, other_body=body | {"x": 1})[1]["__type"] == "InvalidSignatureException"
    assert machine.signed(operation, body, claimed="mi-00000000000000000")[1]["__type"] == "AccessDeniedException"
    assert machine.token(Fingerprint="another")[1]["__type"] == "MachineFingerprintDoesNotMatch"
    assert machine.signed("DescribeSessions", {"State": "Active"})[0] == 400


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"IamRole": "no-such-role"}, "ValidationException"),
        ({"IamRole": "ssm-core"}, "ValidationException"),  # EC2's, which SSM may not assume
        ({"RegistrationLimit": 1001}, "ValidationException"),
        ({"ExpirationDate": "2020-01-01T00:00:00Z"}, "ValidationException"),
        ({"ExpirationDate": "2099-01-01T00:00:00Z"}, "ValidationException"),
    ],
)
def test_activations_that_cannot_be_are_refused(ssm, change, expected):
    before = len(ssm.describe_activations()["ActivationList"])
    assert code(ssm.create_activation, **({"IamRole": ROLE} | change)) == expected
    assert len(ssm.describe_activations()["ActivationList"]) == before


def test_activations_of_one_account_and_region_are_its_own(aws, ssm, keys):
    activation = activate(ssm)
    elsewhere = aws.client("ssm", region="us-east-1")
    assert activation["ActivationId"] not in json.dumps(elsewhere.describe_activations(), default=str)
    assert code(elsewhere.delete_activation, ActivationId=activation["ActivationId"]) == "InvalidActivation"
    event = until(
        lambda: [
            item
            for item in aws.client("cloudtrail").lookup_events(
                LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateActivation"}]
            )["Events"]
            if activation["ActivationId"] in item["CloudTrailEvent"]
        ]
    )[0]
    assert activation["ActivationCode"] not in event["CloudTrailEvent"]
    page = ssm.describe_activations(MaxResults=1)
    assert len(page["ActivationList"]) == 1
    assert page["NextToken"]


def test_a_node_without_a_role_that_ssm_may_assume_gets_no_token(aws, ssm, keys):
    machine = Machine(aws, keys[0])
    machine.register(activate(ssm))
    assert code(ssm.update_managed_instance_role, InstanceId=machine.instance_id, IamRole="ssm-core") == (
        "ValidationException"
    )
    ssm.update_managed_instance_role(InstanceId=machine.instance_id, IamRole=ROLE)
    assert machine.token()[0] == 200
