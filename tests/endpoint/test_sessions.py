"""Sessions of every type through the real gateway: what the agent is told, what the client sees, and how each ends."""

import json
import uuid

import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops import clock
from fleetops.wire import (
    ChallengeMet,
    ChallengeReceived,
    ExitCodeReceived,
    Flag,
    FlagReceived,
    HandshakeCompleted,
    HandshakeRequested,
    HandshakeResponded,
    InputReceived,
    OutputReceived,
    PayloadType,
    Role,
    SizeReceived,
    TaskAcknowledged,
    TerminationRequested,
    payloads,
    smux,
)
from fleetops.wire.blockcipher import BlockCipher, CountingNonce
from tests.endpoint.agent import AgentClient
from tests.endpoint.sessions import AGENT_VERSION, CLIENT_VERSION, SessionAgent, attach, until
from tests.support.endpoint import running_endpoint

NODE = "i-0cccccccccccccc01"
OTHER = "i-0cccccccccccccc02"
PREFERENCES = "SSM-SessionManagerRunShell"


@pytest.fixture
def agent(aws):
    agent = SessionAgent(aws, NODE).connect()
    yield agent
    agent.close()


def start(aws, agent, *, keys=None, **parameters):
    """Start a session; what StartSession answered, and what the agent was told."""
    client = aws.client("ssm", **(keys or {}))
    answer = client.start_session(Target=agent.instance_id, **parameters)
    task = agent.task()
    assert task.session_id == answer["SessionId"]
    return answer, task


def open_both(aws, agent, **parameters):
    answer, task = start(aws, agent, **parameters)
    return answer, task, agent.open(answer["SessionId"]), attach(aws, answer)


def state_of(aws, session_id):
    found = aws.client("ssm").describe_sessions(State="History", Filters=[{"key": "SessionId", "value": session_id}])[
        "Sessions"
    ]
    return found[0] if found else None


def shake_hands(task, agent_end, client_end, properties=None):
    """The handshake of a Port or NonInteractiveCommands session, as both real programs have it."""
    session_type = task.document_content["sessionType"]
    request = payloads.HandshakeRequest.for_session(AGENT_VERSION, session_type, properties)
    agent_end.channel.request_handshake(request, now=clock.steady())
    agent_end.send()
    (asked,) = until(lambda: client_end.of(HandshakeRequested), client_end)
    assert asked.request == request
    response = payloads.answer_handshake(asked.request, client_version=CLIENT_VERSION)
    client_end.channel.respond_handshake(response, now=clock.steady())
    client_end.send()
    (responded,) = until(lambda: agent_end.of(HandshakeResponded), agent_end)
    assert responded.response == response
    agent_end.channel.complete_handshake(now=clock.steady())
    agent_end.send()
    until(lambda: client_end.of(HandshakeCompleted), client_end)


def finish(aws, agent, answer, agent_end, client_end, **complete):
    """The agent closes its data channel and says that the session is over; the text for the client."""
    agent_end.socket.close()
    agent.complete(answer["SessionId"], **complete)
    return until(lambda: client_end.closed, client_end).output


def operator(aws, *statements):
    """Keys of a user with these statements."""
    iam = aws.client("iam")
    name = f"operator-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        "user": name,
        "aws_access_key_id": key["AccessKeyId"],
        "aws_secret_access_key": key["SecretAccessKey"],
    }


def code_of(call, **parameters):
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


# The types of session


def test_a_shell_has_no_handshake_and_ends_by_itself(aws, agent):
    answer, task, node, client = open_both(aws, agent)
    assert (task.document_name, task.document_content["sessionType"]) == (PREFERENCES, "Standard_Stream")
    assert task.session_owner.endswith(":user/admin")
    node.channel.send_output(b"$ ", now=clock.steady())
    node.send()
    until(lambda: client.output == b"$ ", client, node)
    client.channel.send_size(120, 40, now=clock.steady())
    client.channel.send_input(b"exit\r", now=clock.steady())
    client.send()
    until(lambda: node.of(InputReceived), node)
    assert node.of(SizeReceived) == [SizeReceived(120, 40)]
    node.channel.send_state("Terminating", now=clock.steady())
    node.send()
    assert finish(aws, agent, answer, node, client) == ""
    assert agent.next(TaskAcknowledged).task_id == answer["SessionId"]
    assert state_of(aws, answer["SessionId"])["Status"] == "Terminated"


def test_an_interactive_command_gets_its_parameters_as_plain_texts(aws, agent):
    _, task, node, client = open_both(
        aws, agent, DocumentName="AWS-StartInteractiveCommand", Parameters={"command": ["top"]}
    )
    assert task.document_content["sessionType"] == "InteractiveCommands"
    assert task.document_content["properties"]["linux"]["commands"] == "{{ command }}"
    assert task.parameters == {"command": "top"}
    node.channel.send_output(b"load", now=clock.steady())
    node.send()
    until(lambda: client.output == b"load", client)


def test_a_command_without_a_terminal_tells_its_exit_code(aws, agent):
    answer, task, node, client = open_both(
        aws, agent, DocumentName="AWS-StartNonInteractiveCommand", Parameters={"command": ["sh -c 'exit 3'"]}
    )
    shake_hands(task, node, client)
    now = clock.steady()
    node.channel.send_output(b"out", now=now)
    node.channel.send_output(b"err", payload_type=PayloadType.STDERR, now=now)
    node.channel.send_output(payloads.exit_code(3), payload_type=PayloadType.EXIT_CODE, now=now)
    node.channel.send_state("Terminating", now=now)
    node.send()
    until(lambda: client.of(ExitCodeReceived), client, node)
    assert client.of(ExitCodeReceived) == [ExitCodeReceived(3)]
    assert [(piece.data, piece.payload_type) for piece in client.of(OutputReceived)] == [
        (b"out", PayloadType.OUTPUT),
        (b"err", PayloadType.STDERR),
    ]
    assert finish(aws, agent, answer, node, client) == ""


@pytest.mark.parametrize(
    ("document", "given", "resolved"),
    [
        (
            "AWS-StartPortForwardingSession",
            {"portNumber": ["8080"]},
            {"portNumber": "8080", "localPortNumber": "0", "type": "LocalPortForwarding"},
        ),
        (
            "AWS-StartPortForwardingSessionToRemoteHost",
            {"host": ["db.internal"], "portNumber": ["5432"], "localPortNumber": ["15432"]},
            {
                "portNumber": "5432",
                "localPortNumber": "15432",
                "type": "LocalPortForwarding",
                "host": "db.internal",
            },
        ),
    ],
)
def test_a_forwarded_port_carries_many_connections(aws, agent, document, given, resolved):
    answer, task, node, client = open_both(aws, agent, DocumentName=document, Parameters=given)
    assert {name: task.parameters[name] for name in given} == {name: value[0] for name, value in given.items()}
    filled = {
        name: task.parameters.get(text.strip("{ }"), text) for name, text in task.document_content["properties"].items()
    }
    assert filled == resolved
    shake_hands(task, node, client, resolved)
    sent = {3: b"first " * 400, 5: b"second " * 400, 7: b"third " * 400}
    stream = b"".join(smux.SmuxFrame(smux.Command.SYN, each).serialize() for each in sent)
    stream += b"".join(piece for each, data in sent.items() for piece in smux.push(each, data))
    client.channel.send_input(stream, now=clock.steady())
    client.send()

    def arrived():
        return b"".join(event.data for event in node.of(InputReceived))

    until(lambda: len(arrived()) == len(stream), node, client)
    assert arrived() == stream
    node.channel.send_output(stream, now=clock.steady())
    node.send()
    until(lambda: len(client.output) == len(stream), client, node)
    assert client.output == stream
    client.channel.send_flag(Flag.TERMINATE_SESSION, now=clock.steady())
    client.send()
    until(lambda: node.of(FlagReceived), node)
    assert finish(aws, agent, answer, node, client) == ""


def test_ssh_is_a_raw_stream_to_port_22(aws, agent):
    _, task, node, client = open_both(aws, agent, DocumentName="AWS-StartSSHSession")
    assert task.document_content["properties"] == {"portNumber": "{{ portNumber }}"}
    assert task.parameters == {"portNumber": "22"}
    shake_hands(task, node, client, {"portNumber": "22"})
    client.channel.send_input(b"SSH-2.0-client\r\n", now=clock.steady())
    client.send()
    until(lambda: node.of(InputReceived), node)
    node.channel.send_output(bytes(range(256)) * 64, now=clock.steady())
    node.send()
    until(lambda: client.output == bytes(range(256)) * 64, client, node)


def test_a_session_that_fails_says_why_and_is_told_twice(aws, agent):
    answer, _, node, client = open_both(aws, agent)
    agent.complete(answer["SessionId"], "Failed", "Unable to start command: no shell\n")
    assert finish(aws, agent, answer, node, client, status="Failed") == "Unable to start command: no shell"
    for _ in range(2):
        assert agent.next(TaskAcknowledged).task_id == answer["SessionId"]
    session = state_of(aws, answer["SessionId"])
    assert (session["Status"], session["Details"]) == ("Failed", "Unable to start command: no shell")


# Documents and preferences


@pytest.fixture
def document(aws):
    """Make a session document of the account's own; all are deleted in the end."""
    ssm = aws.client("ssm")
    made = []

    def make(content, name=""):
        name = name or f"Session-{uuid.uuid4().hex[:8]}"
        ssm.create_document(Name=name, DocumentType="Session", Content=json.dumps(content))
        made.append(name)
        return name

    yield make
    for name in made:
        ssm.delete_document(Name=name)


def test_an_own_document_is_run_with_its_parameters_and_their_defaults(aws, agent, document):
    name = document(
        {
            "schemaVersion": "1.0",
            "sessionType": "InteractiveCommands",
            "parameters": {
                "logpath": {"type": "String", "default": "/var/log/messages", "allowedPattern": "^/[a-z/]+$"},
                "lines": {"type": "String", "default": "10"},
            },
            "properties": {"linux": {"commands": "tail -n {{ lines }} {{ logpath }}", "runAsElevated": True}},
        }
    )
    _, task = start(aws, agent, DocumentName=name, Parameters={"logpath": ["/tmp/x"]})
    assert task.parameters == {"logpath": "/tmp/x", "lines": "10"}
    assert task.document_content["properties"]["linux"]["runAsElevated"] is True
    refused = {"Target": NODE, "DocumentName": name, "Parameters": {"logpath": ["; rm -rf /"]}}
    assert code_of(aws.client("ssm").start_session, **refused) == "InvalidParameters"


def test_a_document_of_another_type_starts_no_session(aws, agent):
    refused = {"Target": NODE, "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["id"]}}
    assert code_of(aws.client("ssm").start_session, **refused) == "InvalidDocument"


def test_preferences_reach_the_agent_as_it_can_read_them(aws, agent, document):
    document(
        {
            "schemaVersion": "1.0",
            "sessionType": "Standard_Stream",
            "inputs": {
                "runAsEnabled": "true",
                "runAsDefaultUser": "deploy",
                "cloudWatchStreamingEnabled": "",
                "s3EncryptionEnabled": "false",
                "idleSessionTimeout": "5",
                "maxSessionDuration": "60",
                "shellProfile": {"linux": "cd /srv && exec bash", "windows": ""},
            },
        },
        PREFERENCES,
    )
    answer, task = start(aws, agent)
    inputs = task.document_content["inputs"]
    assert (inputs["runAsEnabled"], inputs["runAsDefaultUser"]) == (True, "deploy")
    assert (inputs["cloudWatchStreamingEnabled"], inputs["s3EncryptionEnabled"]) == (False, False)
    assert inputs["shellProfile"]["linux"] == "cd /srv && exec bash"
    (session,) = aws.client("ssm").describe_sessions(
        State="Active", Filters=[{"key": "SessionId", "value": answer["SessionId"]}]
    )["Sessions"]
    assert session["MaxSessionDuration"] == "60"
    # AWS's own documents say nothing of it: they are run as the account wants its sessions held.
    _, task = start(aws, agent, DocumentName="AWS-StartInteractiveCommand", Parameters={"command": ["id"]})
    assert task.document_content["inputs"] == inputs


def test_the_document_of_a_session_has_its_own_preferences(aws, agent, document):
    document(
        {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"runAsDefaultUser": "deploy"}},
        PREFERENCES,
    )
    name = document({"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"kmsKeyId": "alias/x"}})
    _, task = start(aws, agent, DocumentName=name)
    assert task.document_content["inputs"].get("kmsKeyId") == "alias/x"
    assert not task.document_content["inputs"].get("runAsDefaultUser")


def test_the_agent_is_told_the_user_of_a_session_tag(aws, agent):
    keys = aws.as_role(Tags=[{"Key": "SSMSessionRunAs", "Value": "maria"}])
    _, task = start(aws, agent, keys={"user": "tagged", **keys})
    assert task.run_as_user == "maria"
    _, task = start(aws, agent)
    assert task.run_as_user == ""


INSTANCES = {"Effect": "Allow", "Action": "ssm:StartSession", "Resource": "arn:aws:ec2:*:*:instance/*"}
CHECKED = {**INSTANCES, "Condition": {"BoolIfExists": {"ssm:SessionDocumentAccessCheck": "true"}}}


def on(document):
    return {"Effect": "Allow", "Action": "ssm:StartSession", "Resource": f"arn:aws:ssm:*:*:document/{document}"}


@pytest.mark.parametrize(
    ("statements", "document", "may"),
    [
        ([INSTANCES], "", True),  # nobody demands the check
        ([INSTANCES], "AWS-StartSSHSession", False),  # a document that is named is always checked
        ([INSTANCES, on("AWS-StartSSHSession")], "AWS-StartSSHSession", True),
        ([CHECKED], "", False),
        ([CHECKED, on(PREFERENCES)], "", True),
        ([CHECKED, on(PREFERENCES)], PREFERENCES, True),
        ([CHECKED, on(PREFERENCES)], "AWS-StartSSHSession", False),
        ([CHECKED, on("AWS-StartSSHSession")], "arn:aws:ssm:eu-west-1:111122223333:document/AWS-StartSSHSession", True),
    ],
)
def test_a_document_that_a_policy_does_not_name_starts_nothing(aws, agent, statements, document, may):
    client = aws.client("ssm", **operator(aws, *statements))
    parameters = {"Target": NODE, **({"DocumentName": document} if document else {})}
    if may:
        answer = client.start_session(**parameters)
        assert agent.task().session_id == answer["SessionId"]
    else:
        assert code_of(client.start_session, **parameters) == "AccessDeniedException"


def test_aws_documents_are_not_reached_under_an_accounts_own_name(aws, agent):
    """Who may use all documents of the account may not, by that, use AWS's."""
    own = {**on("*"), "Resource": "arn:aws:ssm:eu-west-1:111122223333:document/*"}
    client = aws.client("ssm", **operator(aws, INSTANCES, own))
    name = "arn:aws:ssm:eu-west-1:111122223333:document/AWS-StartSSHSession"
    assert code_of(client.start_session, Target=NODE, DocumentName=name) == "AccessDeniedException"


# KMS


@pytest.fixture
def kms(aws, document):
    """A key, a document that demands it, and a role for the node that may use it."""
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    iam = aws.client("iam")
    role = f"node-with-key-{uuid.uuid4().hex[:8]}"
    trust = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": key}],
    }
    iam.put_role_policy(RoleName=role, PolicyName="key", PolicyDocument=json.dumps(policy))
    name = document({"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"kmsKeyId": key}})
    return key, name, role


def generate(kms_client, key, context):
    answer = kms_client.generate_data_key(KeyId=key, NumberOfBytes=64, EncryptionContext=context)
    return answer["Plaintext"], payloads.DataKey(answer["CiphertextBlob"], has_challenge=True)


def block_cipher(data_key, role, start=bytes(12)):
    return BlockCipher(data_key, is_agent=role is Role.AGENT, cipher=AESGCM, next_nonce=CountingNonce(start))


def node_kms(aws, role):
    """KMS as the node's own credentials have it."""
    keys = AgentClient(aws).as_node(aws, NODE, role)._credentials
    return aws.client(
        "kms",
        user=f"node {role}",
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
    )


def ask_for_key(task, node, client):
    """The agent's handshake under the document's key; what the client reads of it."""
    key = task.document_content["inputs"]["kmsKeyId"]
    request = payloads.HandshakeRequest.for_session(
        AGENT_VERSION, "Standard_Stream", kms_key_id=key, challenge=bytes(range(16))
    )
    node.channel.request_handshake(request, now=clock.steady())
    node.send()
    return until(lambda: client.of(HandshakeRequested), client)[0].request


def test_a_session_under_a_kms_key_is_encrypted_end_to_end(aws, agent, kms):
    key, name, role = kms
    answer, task, node, client = open_both(aws, agent, DocumentName=name)
    session_id = answer["SessionId"]
    request = ask_for_key(task, node, client)
    assert request.kms_key_id == key

    # The client has KMS make a data key, bound to session, node and challenge, and answers with its ciphertext.
    context = payloads.encryption_context(session_id, NODE, challenge=request.kms_challenge)
    plain, data_key = generate(aws.client("kms"), key, context)
    client.channel.encrypt(block_cipher(plain, Role.CLIENT, bytes(11) + b"\x01"), refusals=(InvalidTag,))
    response = payloads.answer_handshake(request, client_version=CLIENT_VERSION, data_key=data_key)
    client.channel.respond_handshake(response, now=clock.steady())
    client.send()

    # The agent has KMS open it, under its own name, and puts the client to the proof.
    got = until(lambda: node.of(HandshakeResponded), node)[0].response.data_key
    opened = node_kms(aws, role).decrypt(CiphertextBlob=got.ciphertext, KeyId=key, EncryptionContext=context)
    assert opened["Plaintext"] == plain
    node.channel.encrypt(block_cipher(opened["Plaintext"], Role.AGENT), refusals=(InvalidTag,))
    node.channel.send_challenge(bytes(range(64)), now=clock.steady())
    node.send()
    (challenge,) = until(lambda: client.of(ChallengeReceived), client)
    client.channel.answer_challenge(challenge.challenge, now=clock.steady())
    client.send()
    until(lambda: node.of(ChallengeMet), node)
    node.channel.complete_handshake("This session is encrypted using AWS KMS.", now=clock.steady())
    node.send()
    (complete,) = until(lambda: client.of(HandshakeCompleted), client)
    assert complete.customer_message == "This session is encrypted using AWS KMS."

    node.channel.send_output(b"secret$ ", now=clock.steady())
    node.send()
    until(lambda: client.output == b"secret$ ", client, node)
    client.channel.send_input(b"whoami\r", now=clock.steady())
    client.send()
    assert until(lambda: node.of(InputReceived), node)[0].data == b"whoami\r"
    on_the_wire = b"".join(client.frames + node.frames)
    assert b"secret$" not in on_the_wire and b"whoami" not in on_the_wire
    # Nothing that CloudTrail shows holds the key.
    trail = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "GenerateDataKey"}]
    )
    (event,) = [
        json.loads(each["CloudTrailEvent"]) for each in trail["Events"] if session_id in each["CloudTrailEvent"]
    ]
    assert event["requestParameters"]["encryptionContext"]["aws:ssm:SessionId"] == session_id
    assert event["responseElements"] is None


def test_a_client_that_may_not_use_the_key_ends_the_session_in_words(aws, agent, kms):
    key, name, _ = kms
    document = on(name)
    keys = operator(aws, INSTANCES, document)
    answer, task, node, client = open_both(aws, agent, DocumentName=name, keys=keys)
    request = ask_for_key(task, node, client)
    with pytest.raises(ClientError) as refused:
        generate(aws.client("kms", **keys), key, payloads.encryption_context(answer["SessionId"], NODE))
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"
    response = payloads.answer_handshake(request, client_version=CLIENT_VERSION, kms_error=str(refused.value))
    client.channel.respond_handshake(response, now=clock.steady())
    client.send()
    words = until(lambda: node.of(HandshakeResponded), node)[0].response.refusal
    told = finish(aws, agent, answer, node, client, status="Failed", output=words)
    assert told.startswith("KMSEncryption failed on client with status 2 error: Failed to process action KMSEncryption")
    assert "is not authorized to perform: kms:GenerateDataKey" in told
    assert state_of(aws, answer["SessionId"])["Status"] == "Failed"


@pytest.mark.parametrize("wrong", ["role", "session", "node"])
def test_a_node_that_may_not_open_the_key_ends_the_session_in_words(aws, agent, kms, wrong):
    key, name, role = kms
    answer, task, node, client = open_both(aws, agent, DocumentName=name)
    request = ask_for_key(task, node, client)
    context = payloads.encryption_context(answer["SessionId"], NODE, challenge=request.kms_challenge)
    plain, data_key = generate(aws.client("kms"), key, context)
    client.channel.encrypt(block_cipher(plain, Role.CLIENT), refusals=(InvalidTag,))
    response = payloads.answer_handshake(request, client_version=CLIENT_VERSION, data_key=data_key)
    client.channel.respond_handshake(response, now=clock.steady())
    client.send()
    got = until(lambda: node.of(HandshakeResponded), node)[0].response.data_key
    context |= {"session": {"aws:ssm:SessionId": "other"}, "node": {"aws:ssm:TargetId": OTHER}}.get(wrong, {})
    with pytest.raises(ClientError) as refused:
        node_kms(aws, "ssm-core" if wrong == "role" else role).decrypt(
            CiphertextBlob=got.ciphertext, KeyId=key, EncryptionContext=context
        )
    expected = "AccessDeniedException" if wrong == "role" else "InvalidCiphertextException"
    assert refused.value.response["Error"]["Code"] == expected
    words = f"Fetching data key failed: {refused.value}"
    assert finish(aws, agent, answer, node, client, status="Failed", output=words) == words.strip()


# Connections that are lost


def test_both_ends_come_back_and_miss_nothing(aws, agent):
    answer, _, node, client = open_both(aws, agent)
    session_id = answer["SessionId"]
    node.channel.send_output(b"one ", now=clock.steady())
    node.send()
    until(lambda: client.output == b"one ", client, node)
    client.cut()
    node.channel.send_output(b"two ", now=clock.steady())
    node.send()
    resumed = aws.client("ssm").resume_session(SessionId=session_id)
    assert resumed["TokenValue"] != answer["TokenValue"]
    back = attach(aws, answer | {"TokenValue": resumed["TokenValue"]}, client.channel)
    until(lambda: back.output == b"two ", back, node)
    node.cut()
    back.channel.send_input(b"ls\r", now=clock.steady())
    back.send()
    again = agent.open(session_id, node.channel)
    assert until(lambda: again.of(InputReceived), again, back)[0].data == b"ls\r"


def test_a_session_that_is_over_gives_no_token_to_resume_with(aws, agent):
    answer, _, node, client = open_both(aws, agent)
    aws.client("ssm").terminate_session(SessionId=answer["SessionId"])
    assert until(lambda: client.closed, client).output == ""
    assert until(lambda: node.closed, node) is not None
    assert agent.next(TerminationRequested).session_id == answer["SessionId"]
    assert "TokenValue" not in aws.client("ssm").resume_session(SessionId=answer["SessionId"])
    status, body = AgentClient(aws).as_node(aws, NODE).post(f"/v1/data-channel/{answer['SessionId']}")
    assert (status, b"Session is already terminated" in body) == (404, True)


def test_an_endpoint_that_is_killed_finds_its_sessions_again(tmp_path):
    with running_endpoint(tmp_path / "home") as endpoint:
        agent = SessionAgent(endpoint, NODE).connect()
        answer, _, node, client = open_both(endpoint, agent)
        node.channel.send_output(b"before ", now=clock.steady())
        node.send()
        until(lambda: client.output == b"before ", client, node)
        port = endpoint.url.rpartition(":")[2]
        endpoint.kill()
        until(lambda: client.is_lost and node.is_lost, client, node)
        node.channel.send_output(b"meanwhile ", now=clock.steady())
        endpoint.arguments = ["--port", port, "--nodes", "none"]
        endpoint.start_again()
        endpoint.clients.clear()
        agent.close()
        agent = SessionAgent(endpoint, NODE).connect()
        again = agent.open(answer["SessionId"], node.channel)
        token = endpoint.client("ssm").resume_session(SessionId=answer["SessionId"])["TokenValue"]
        back = attach(endpoint, answer | {"TokenValue": token}, client.channel)
        until(lambda: back.output == b"meanwhile ", back, again)
        back.channel.send_input(b"exit\r", now=clock.steady())
        back.send()
        assert until(lambda: again.of(InputReceived), again)[0].data == b"exit\r"
        assert finish(endpoint, agent, answer, again, back) == ""
        assert state_of(endpoint, answer["SessionId"])["Status"] == "Terminated"
        agent.close()
