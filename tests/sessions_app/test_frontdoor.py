"""The CLI's door, on demo nodes: signed requests by boto3 and the aws CLI, the stream by the wire's own client."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.identity import access_keys
from fleetops.identity.models import AccessKey
from fleetops.policy import services as policy
from sessions_app import recording, services
from sessions_app.models import TerminalSession
from sessions_app.states import Door, SessionKind
from tests.factories import make_account, make_instance, make_region, make_user

from .clients import PortClient, StreamClient, words_of
from .conftest import TerminalProcess, ended, until

COMMAND, PORT = "AWS-StartNonInteractiveCommand", "AWS-StartPortForwardingSession"


def rule(name: str, **fields):
    given = {"everybody": True, "targets": "all", "confirmed": True} | fields
    return policy.create_rule(actor="test", name=name, **given)


class Cli:
    """What somebody has who made an access key: boto3, and the aws command."""

    def __init__(self, terminal, user, **fields) -> None:
        fields = {"expires_at": now() + timedelta(days=1)} | fields
        self.key, self.secret = access_keys.create(user, actor=user, name="laptop", **fields)
        self.endpoint = f"http://127.0.0.1:{terminal.port}/aws/"

    def boto(self, service: str = "ssm", *, secret: str = "", key_id: str = "", headers: dict[str, str] | None = None):
        client = boto3.client(
            service,
            region_name="eu-west-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=key_id or self.key.key_id,
            aws_secret_access_key=secret or self.secret,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        if headers:
            client.meta.events.register("before-send", lambda request, **_: request.headers.update(headers))
        return client

    def start(self, target: str, document: str = "", **more) -> dict:
        if document:
            more["DocumentName"] = document
        return self.boto().start_session(Target=target, **more)

    def aws(self, *words: str) -> str:
        """What the real command prints."""
        given = {
            "AWS_ACCESS_KEY_ID": self.key.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_PAGER": "",
        }
        command = [Path(sys.executable).with_name("aws"), *words, "--endpoint-url", self.endpoint, "--output", "text"]
        done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def cli(terminal, operator):
    return Cli(terminal, operator)


@pytest.fixture
def shell(cli, demo_instance):
    """A shell at its prompt: (session, client, StartSession's answer)."""
    answer = cli.start(demo_instance.instance_id)
    client = StreamClient(answer).connect()
    client.until(lambda: b"$ " in client.output or b"# " in client.output, what="a prompt")
    yield TerminalSession.objects.get(pk=answer["SessionId"]), client, answer


@pytest.fixture
def echo():
    """A port of this machine that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


# Who may come in


def test_the_aws_command_asks_who_it_is_and_what_it_sees(cli, demo_instance):
    assert cli.aws("sts", "get-caller-identity", "--query", "Arn") == "arn:aws:iam::000000000000:user/mei.tanaka"
    listed = cli.aws("ssm", "describe-instance-information", "--query", "InstanceInformationList[].InstanceId")
    assert listed == demo_instance.instance_id
    target = demo_instance.instance_id
    assert cli.aws("ssm", "get-connection-status", "--target", target, "--query", "Status") == "connected"
    assert cli.aws("ssm", "describe-sessions", "--state", "Active", "--query", "length(Sessions)") == "0"
    cli.key.refresh_from_db()
    assert cli.key.last_used_address == "127.0.0.1"


def test_a_wrong_secret_an_unknown_key_and_one_that_ended_open_nothing(cli, operator, demo_instance):
    with pytest.raises(ClientError) as error:
        cli.boto(secret="wrong").describe_sessions(State="Active")
    assert words_of(error)[0] == "InvalidSignatureException"
    assert AuditEvent.objects.get(action="identity.access_key.refuse").reason == "wrong signature"
    with pytest.raises(ClientError) as error:
        cli.boto(key_id="FOAKAAAAAAAAAAAAAAAA").describe_sessions(State="Active")
    assert words_of(error)[0] == "UnrecognizedClientException"
    AccessKey.objects.update(expires_at=now() - timedelta(seconds=1))
    with pytest.raises(ClientError) as error:
        cli.boto().describe_sessions(State="Active")
    assert words_of(error)[0] == "ExpiredTokenException" and "expired on" in words_of(error)[1]
    AccessKey.objects.update(expires_at=now() + timedelta(days=1), networks=["203.0.113.0/24"])
    with pytest.raises(ClientError) as error:
        cli.boto().describe_sessions(State="Active")
    assert words_of(error)[0] == "AccessDeniedException" and "203.0.113.0/24 alone" in words_of(error)[1]
    assert not TerminalSession.objects.exists()


def posted(cli, at: datetime, body: bytes = b'{"State": "Active"}', *, region: str = "eu-west-1") -> tuple[int, str]:
    """A request signed at another moment than now."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.DescribeSessions"}
    request = AWSRequest("POST", cli.endpoint, data=body, headers=headers)
    signer = SigV4Auth(Credentials(cli.key.key_id, cli.secret), "ssm", region)
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signer._inject_signature_to_request(request, signer.signature(signer.string_to_sign(request, canonical), request))
    sent = urllib.request.Request(cli.endpoint, body, dict(request.headers.items()), method="POST")
    try:
        with urllib.request.urlopen(sent, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_clock_that_is_wrong_is_told_so(cli):
    moment = datetime.now(UTC)
    assert posted(cli, moment)[0] == 200
    status, text = posted(cli, moment - timedelta(minutes=6))
    assert status == 400 and "Signature expired" in text
    status, text = posted(cli, moment + timedelta(minutes=6))
    assert status == 400 and "Signature not yet current" in text


def test_what_is_no_session_is_not_offered(cli):
    with pytest.raises(ClientError) as error:
        cli.boto().list_documents()
    assert words_of(error)[0] == "AccessDeniedException" and "does not offer ListDocuments" in words_of(error)[1]
    with pytest.raises(ClientError) as error:
        cli.boto("sts").get_session_token()
    assert words_of(error)[0] == "AccessDenied"


# Which instance, and whether


def test_a_target_is_an_id_a_name_or_an_address_and_never_two_instances(cli, demo_instance):
    demo_instance.name = "web-01"
    demo_instance.save()
    status = cli.boto().get_connection_status
    other = make_account("444455556666")
    make_instance(region=make_region("us-east-1", account=other), instance_id="i-0123456789abcdef0", name="web-02")
    for target in ("web-01", demo_instance.instance_id, str(demo_instance.pk)):
        assert status(Target=target)["Status"] == "connected"
    make_instance(region=make_region("us-east-1", account=other), instance_id=demo_instance.instance_id, name="web-01")
    for target in ("web-01", demo_instance.instance_id):
        with pytest.raises(ClientError) as error:
            status(Target=target)
        code, words = words_of(error)
        assert code == "ValidationException" and "account:region:id" in words
    place = f"{demo_instance.account.account_id}:{demo_instance.region.name}:{demo_instance.instance_id}"
    assert place in words and status(Target=place)["Status"] == "connected"
    with pytest.raises(ClientError) as error:
        status(Target="nobody")
    assert words_of(error)[0] == "TargetNotConnected"


def test_the_policy_speaks_at_this_door_as_at_any_other(cli, demo_instance, terminal):
    with pytest.raises(ClientError) as error:
        cli.start(demo_instance.instance_id, PORT, Parameters={"portNumber": ["22"]})
    code, words = words_of(error)
    assert code == "AccessDeniedException" and "No rule of the access policy allows you to forward a port" in words
    assert AuditEvent.objects.get(action="sessions.open.refuse").source == "cli"
    policy.delete_rule(
        (shells := policy.Rule.objects.get(name="Operators and administrators open shells")),
        actor=cli.key.user,
        version=shells.version,
    )
    with pytest.raises(ClientError) as error:
        cli.start(demo_instance.instance_id)
    assert words_of(error)[0] == "AccessDeniedException"
    needy = rule("With a reason", deeds=["shell"], needs_reason=True)
    with pytest.raises(ClientError) as error:
        cli.start(demo_instance.instance_id)
    assert "--reason" in words_of(error)[1]
    policy.change_rule(
        needy,
        actor=cli.key.user,
        version=needy.version,
        confirmed=True,
        name="With a second factor",
        effect="allow",
        everybody=True,
        targets="all",
        deeds=["shell"],
        needs_mfa=True,
    )
    with pytest.raises(ClientError) as error:  # a key is none, whatever its owner has
        cli.start(demo_instance.instance_id, Reason="why not")
    assert words_of(error)[0] == "AccessDeniedException" and "second factor" in words_of(error)[1]
    with pytest.raises(ClientError) as error:
        cli.start(demo_instance.instance_id, COMMAND, Parameters={"command": ["true\x00"]})
    assert words_of(error) == ("ValidationException", "A parameter holds no NUL.")
    viewer = Cli(terminal, make_user("viewer", role="viewer"))
    with pytest.raises(ClientError) as error:
        viewer.start(demo_instance.instance_id)
    assert "open_terminalsession" in words_of(error)[1]
    assert not TerminalSession.objects.exists()


# Shells


def test_a_shell_is_recorded_and_listed_as_a_browsers(cli, shell, operator):
    session, client, answer = shell
    assert answer["StreamUrl"] == cli.endpoint.replace("http:", "ws:") + f"stream/{session.pk}"
    client.run("echo $((6*7))", b"42\r\n")
    client.channel.send_size(132, 43, now=now().timestamp())
    client.run("stty size", b"43 132")
    assert client.largest <= 1024
    session.refresh_from_db()
    assert (session.door, session.kind, session.user_id) == (Door.CLI, SessionKind.SHELL, operator.pk)
    listed = cli.boto().describe_sessions(State="Active")["Sessions"]
    assert [(each["SessionId"], each["Status"]) for each in listed] == [(str(session.pk), "Connected")]
    client.type(b"exit\r")
    assert client.ended() == ""  # the client has a farewell of its own
    ended(session)
    shown = "".join(text for _, code, text in recording.events(list(session.chunks.all())) if code == "o")
    assert "42\r\n" in shown and recording.verify(session).is_whole
    opened = AuditEvent.objects.get(action="sessions.open")
    assert (opened.source, opened.actor_name) == ("cli", operator.username)
    assert answer["TokenValue"] not in str(list(AuditEvent.objects.values()))
    history = cli.boto().describe_sessions(State="History", Filters=[{"key": "Status", "value": "Terminated"}])
    assert history["Sessions"][0]["Details"] == "The shell has ended."


def test_a_token_opens_its_own_session_once(terminal, shell, cli):
    session, _, answer = shell
    again = StreamClient(answer).connect()
    again.lost()
    assert not again.output and again.farewell is None
    fresh = cli.boto().resume_session(SessionId=str(session.pk))
    other = StreamClient(fresh)
    other.url = other.url.replace(str(session.pk), "01a22cc9-a1ef-7ed0-b6ae-caa60f216b1b")
    other.connect().lost()
    assert answer["TokenValue"] not in terminal.log.read_text()


def test_a_token_opens_nothing_once_its_key_is_revoked_nor_from_a_network_that_the_key_is_not_for(cli, shell):
    session, client, _ = shell
    client.close()
    fresh = [cli.boto().resume_session(SessionId=str(session.pk)) for _ in range(3)]
    AccessKey.objects.update(networks=["203.0.113.0/24"])
    StreamClient(fresh[0]).connect().lost()
    AccessKey.objects.update(networks=["127.0.0.0/8"])
    StreamClient(fresh[1]).connect().sees(b"$ ")
    access_keys.revoke(cli.key, actor=cli.key.user)
    StreamClient(fresh[2]).connect().lost()


def test_a_client_that_lost_its_websocket_goes_on_where_it_was(shell, cli):
    session, client, _ = shell
    client.type(b"for i in 1 2 3 4 5 6 7 8 9; do echo n$i; sleep 0.2; done; echo all''done\r")
    client.sees(b"n3\r\n")
    client.close()
    client.connect(cli.boto().resume_session(SessionId=str(session.pk)))
    client.sees(b"alldone")
    assert [b"n%d\r\n" % n in client.output for n in range(1, 10)] == [True] * 9
    assert client.output.count(b"\nn5\r\n") == 1


def test_ctrl_c_spares_a_client_what_it_has_not_seen_and_the_recording_has_it(shell):
    session, client, _ = shell
    client.type(b"seq 100000 300000; echo all''done\r")
    client.sees(b"100100\r\n")
    until(lambda: (session.refresh_from_db(), session.output_bytes > 1_000_000)[1], seconds=30, what="it floods")
    client.type(b"\x03")
    client.sees(b"not shown; in the recording")
    client.run("echo $((6*7))", b"42\r\n")
    client.type(b"exit\r")
    client.ended()
    ended(session)
    shown = "".join(text for _, code, text in recording.events(list(session.chunks.all())) if code == "o")
    assert "200000\r\n" in shown


def test_another_client_of_the_same_shell_begins_at_its_screen(shell, cli):
    """As when the plugin was started anew."""
    session, client, _ = shell
    client.run("echo $((40+2))", b"42\r\n")
    client.close()
    other = StreamClient(cli.boto().resume_session(SessionId=str(session.pk))).connect()
    other.sees(b"42\r\n")
    other.run("echo $((50+3))", b"53\r\n")


def test_a_killed_terminal_process_costs_a_client_nothing(terminal, shell, cli):
    """The client is silent about what it has already, as the plugin is."""
    session, client, _ = shell
    client.type(b"for i in $(seq 100 160); do echo n$i; sleep 0.05; done; echo all''done\r")
    client.sees(b"n120\r\n")
    terminal.kill()
    client.lost()
    terminal.start()
    client.connect(cli.boto().resume_session(SessionId=str(session.pk)))
    client.sees(b"alldone", seconds=30)
    numbers = [int(number) for number in re.findall(rb"n(1[0-9]{2})\r\n", client.output)]
    assert numbers == list(range(100, 161))
    client.run("echo $((40+2))", b"42\r\n")


def test_a_client_that_reaches_another_process_is_relayed_and_told_the_end(terminal, home, tmp_path, cli, shell):
    session, first, _ = shell
    second = TerminalProcess(home, tmp_path / "second.log")
    second.start()
    try:
        elsewhere = Cli(second, cli.key.user)
        first.close()
        answer = elsewhere.boto().resume_session(SessionId=str(session.pk))
        first.url = answer["StreamUrl"]
        first.connect(answer)
        first.run("echo relayed", b"relayed\r\n")
        session.refresh_from_db()
        assert session.owner_epoch == 1 and str(second.port) in first.url
        terminal.kill()
        first.lost()
        first.connect(elsewhere.boto().resume_session(SessionId=str(session.pk)))
        first.run("echo moved", b"moved\r\n")
        services.request_end(session, actor=cli.key.user)
        assert first.ended() == f"Ended by {cli.key.user.username}."
    finally:
        second.stop()


def test_who_ends_a_session_and_who_revokes_a_key_is_told_to_its_client(shell, cli, demo_instance, operator):
    session, client, _ = shell
    services.request_end(session, actor=operator)
    assert client.ended() == f"Ended by {operator.username}."
    second = StreamClient(cli.start(demo_instance.instance_id)).connect()
    second.until(lambda: b"$ " in second.output or b"# " in second.output, what="a prompt")
    access_keys.revoke(cli.key, actor=operator)
    assert second.ended() == "The key with which you came no longer holds."
    with pytest.raises(ClientError) as error:
        cli.boto().describe_sessions(State="Active")
    assert "was revoked on" in words_of(error)[1]


def test_terminate_session_ends_ones_own_alone(shell, cli, terminal):
    session, client, _ = shell
    stranger = Cli(terminal, make_user("stranger", role="operator"))
    with pytest.raises(ClientError) as error:
        stranger.boto().terminate_session(SessionId=str(session.pk))
    assert words_of(error)[0] == "DoesNotExistException"
    assert cli.boto().terminate_session(SessionId=str(session.pk))["SessionId"] == str(session.pk)
    assert client.ended().startswith("Ended by")
    ended(session)
    assert "TokenValue" not in cli.boto().resume_session(SessionId=str(session.pk))  # so the plugin ends


def test_behind_a_proxy_that_ends_tls_the_stream_is_told_with_wss(cli, demo_instance):
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}
    answer = cli.boto(headers=headers).start_session(Target=demo_instance.instance_id)
    assert answer["StreamUrl"].startswith("wss://127.0.0.1:")
    assert TerminalSession.objects.get(pk=answer["SessionId"]).source_address == "198.51.100.7"


# Commands and ports


def test_a_command_waits_for_its_client_and_tells_its_exit_code(cli, demo_instance):
    answer = cli.start(demo_instance.instance_id, COMMAND, Parameters={"command": ["sh -c 'echo out; exit 3'"]})
    client = StreamClient(answer).connect()
    client.until(lambda: client.farewell is not None, what="the end")
    assert bytes(client.output).strip() == b"out" and client.request.session_type == "NonInteractiveCommands"
    session = ended(TerminalSession.objects.get(pk=answer["SessionId"]))
    assert (session.kind, session.end_reason) == (SessionKind.COMMAND, "The command has ended.")


def test_a_forwarded_port_is_not_recorded_and_its_bytes_are_counted(cli, demo_instance, echo, terminal):
    rule("Forward", deeds=["forward"], destinations=[f"localhost:{echo}"])
    answer = cli.start(demo_instance.instance_id, PORT, Parameters={"portNumber": [str(echo)]})
    client = PortClient(answer).connect()
    client.until(lambda: client.is_ready, what="the end of the handshake")
    assert client.request.properties["portNumber"] == str(echo)
    first, second = client.dial(), client.dial()
    secret = b"nobody records this " * 200
    client.push(first, secret)
    client.push(second, b"two")
    client.until(lambda: client.streams[first] == secret and client.streams[second] == b"two", what="all came back")
    services.request_end(session := TerminalSession.objects.get(pk=answer["SessionId"]), actor=cli.key.user)
    assert client.ended() == f"Ended by {cli.key.user.username}."
    ended(session)
    assert session.connections == 2 and session.bytes_to_instance > len(secret)
    assert session.bytes_from_instance > len(secret)
    shown = [text for _, code, text in recording.events(list(session.chunks.all())) if code == "o"]
    assert not shown and recording.verify(session).is_whole


def test_a_forwarded_port_loses_and_doubles_nothing_when_its_owner_is_killed(cli, demo_instance, echo, terminal):
    rule("Forward", deeds=["forward"], destinations=["localhost:*"])
    answer = cli.start(demo_instance.instance_id, PORT, Parameters={"portNumber": [str(echo)]})
    client = PortClient(answer).connect()
    client.until(lambda: client.is_ready, what="the end of the handshake")
    stream = client.dial()
    data = b"".join(b"%06d\n" % n for n in range(20_000))
    client.push(stream, data[:70_000])
    client.until(lambda: len(client.streams[stream]) > 20_000, what="some of it")
    terminal.kill()
    client.lost()
    terminal.start()
    client.connect(cli.boto().resume_session(SessionId=answer["SessionId"]))
    client.push(stream, data[70_000:])
    client.until(lambda: len(client.streams[stream]) >= len(data), seconds=60, what="all of it")
    assert client.streams[stream] == data


def test_a_document_of_the_accounts_own_opens_no_port_under_another_name(cli, demo_endpoint, demo_instance):
    """The policy was asked about a shell."""
    keys = demo_endpoint["accounts"][0]["try_credentials"]
    ssm = boto3.client(
        "ssm",
        region_name=demo_instance.region.name,
        endpoint_url=demo_endpoint["endpoint_url"],
        verify=demo_endpoint["ca_file"],
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
    )
    content = {"schemaVersion": "1.0", "sessionType": "Port", "properties": {"portNumber": "22"}}
    ssm.create_document(Name="Only-A-Shell", DocumentType="Session", Content=json.dumps(content))
    rule("Its document", deeds=["shell"], session_documents=["Only-A-Shell"])
    client = StreamClient(cli.start(demo_instance.instance_id, "Only-A-Shell")).connect()
    assert client.ended().startswith("This document forwards a port.")
