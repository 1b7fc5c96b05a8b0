"""Sessions under a KMS key: the real endpoint and its KMS, a demo node, and a client that gets its own data key."""

import asyncio
import base64
import json
import os
import ssl

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from websockets.asyncio.client import ClientConnection, connect

from fleetops import clock
from fleetops.endpoint.seed import ALL_MACHINES, NODE_ROLE
from fleetops.wire import ChallengeReceived, payloads
from fleetops.wire.blockcipher import BlockCipher
from tests.node.clients import VERSION, HandshakingClient
from tests.support.endpoint import RunningEndpoint, running_endpoint, until

PREFERENCES = "SSM-SessionManagerRunShell"


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("kms") / "home", nodes="demo") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def node(aws):
    account = aws.account["account_id"]
    instance_id = next(machine.instance_id for machine in ALL_MACHINES if machine.key[:2] == (account, "eu-west-1"))
    ssm = aws.client("ssm")
    until(lambda: ssm.get_connection_status(Target=instance_id)["Status"] == "connected", seconds=60)
    return instance_id


@pytest.fixture(scope="module")
def key_id(aws):
    """A key that the account's preferences name."""
    key = aws.client("kms").create_key()["KeyMetadata"]["KeyId"]
    content = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"kmsKeyId": key}}
    ssm = aws.client("ssm")
    text = json.dumps(content)
    ssm.create_document(Name=PREFERENCES, Content=text, DocumentType="Session", DocumentFormat="JSON")
    return key


def may_decrypt(aws: RunningEndpoint, effect: str) -> None:
    statement = {"Effect": effect, "Action": ["kms:Decrypt"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    aws.client("iam").put_role_policy(RoleName=NODE_ROLE, PolicyName="kms", PolicyDocument=policy)


class Door:
    """What a client needs to know of the endpoint."""

    def __init__(self, aws: RunningEndpoint) -> None:
        self.aws = aws
        self.sweeps: list[asyncio.Task] = []

    async def connect(self, path: str, *, signer: str = "") -> ClientConnection:
        context = ssl.create_default_context(cafile=self.aws.handover["ca_file"])
        return await connect(self.aws.url.replace("https", "wss") + path, ssl=context, compression=None, max_size=None)


class EncryptingClient(HandshakingClient):
    """It gets a data key of KMS, and proves that it has it."""

    target = ""
    has_challenge = True

    def answer(self, request: payloads.HandshakeRequest) -> None:
        challenge = request.kms_challenge if self.has_challenge else ""
        key = self.gateway.aws.client("kms").generate_data_key(
            KeyId=request.kms_key_id,
            NumberOfBytes=64,
            EncryptionContext=payloads.encryption_context(self.session_id, self.target, challenge=challenge),
        )
        cipher = BlockCipher(key["Plaintext"], is_agent=False, cipher=AESGCM, next_nonce=lambda: os.urandom(12))
        self.channel.encrypt(cipher, refusals=(InvalidTag,))
        data_key = payloads.DataKey(key["CiphertextBlob"], has_challenge=self.has_challenge)
        answer = payloads.answer_handshake(request, client_version=VERSION, data_key=data_key)
        self.channel.respond_handshake(answer, now=clock.steady())

    def happened(self, event: object) -> None:
        if isinstance(event, ChallengeReceived):
            self.channel.answer_challenge(event.challenge, now=clock.steady())
        else:
            super().happened(event)


async def open_session(aws: RunningEndpoint, node: str, *, kind=EncryptingClient, **changes) -> EncryptingClient:
    answer = await asyncio.to_thread(aws.client("ssm").start_session, Target=node)
    client = kind(Door(aws), answer["SessionId"])
    client.target = node
    for name, value in changes.items():
        setattr(client, name, value)
    await client.connect(answer["TokenValue"])
    return client


async def close(client: EncryptingClient) -> None:
    for sweep in client.gateway.sweeps:
        sweep.cancel()
    await client.close()


@pytest.mark.parametrize("has_challenge", [True, False])
async def test_a_shell_under_a_key_is_a_shell(aws, node, key_id, has_challenge):
    may_decrypt(aws, "Allow")
    client = await open_session(aws, node, has_challenge=has_challenge)
    await client.until(lambda: client.complete is not None or client.closed is not None, "the handshake")
    assert client.complete is not None, client.closed
    assert client.request.kms_key_id == key_id
    assert len(base64.b64decode(client.request.kms_challenge)) == 16
    assert client.complete.customer_message == "This session is encrypted using AWS KMS."
    await client.see("$ ")
    assert await client.run("echo $((6*7))") == "42\n"
    await client.type("exit\r")
    await client.see_end()
    await close(client)


async def test_another_nodes_context_opens_no_key(aws, node, key_id):
    may_decrypt(aws, "Allow")
    client = await open_session(aws, node, target="i-00000000000000000")
    assert "Fetching data key failed" in (await client.see_end()).output
    await close(client)


async def test_a_node_that_may_not_decrypt_says_so(aws, node, key_id):
    may_decrypt(aws, "Deny")
    client = await open_session(aws, node)
    output = (await client.see_end()).output
    assert "Fetching data key failed" in output
    assert "AccessDenied" in output
    await close(client)


async def test_a_client_that_cannot_encrypt_gets_no_shell(aws, node, key_id):
    client = await open_session(aws, node, kind=HandshakingClient)
    assert "KMSEncryption failed on client with status 3" in (await client.see_end()).output
    await close(client)
