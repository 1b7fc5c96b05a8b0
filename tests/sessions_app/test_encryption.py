"""Terminals under a KMS key: demo nodes and KMS of the real endpoint, the product's own terminal process."""

import base64
import json
from types import SimpleNamespace
from uuid import uuid4

import boto3
import pytest

from fleetops.clock import steady
from fleetops.endpoint.seed import NODE_ROLE
from fleetops.policy import services as policy
from fleetops.wire import DataChannel, Role, payloads
from sessions_app import encryption
from sessions_app.states import SessionKind

from .conftest import ended, opened, shell_of, until
from .gateway import Shell

SHELL, COMMAND = "Encrypted-Shell", "Encrypted-Command"


@pytest.fixture(scope="module")
def admin(demo_endpoint):
    """Clients of the account's administrator."""
    given = demo_endpoint["accounts"][0]

    def client(service: str):
        return boto3.client(
            service,
            region_name=given["regions"][0],
            endpoint_url=demo_endpoint["endpoint_url"],
            verify=demo_endpoint["ca_file"],
            aws_access_key_id=given["try_credentials"]["access_key_id"],
            aws_secret_access_key=given["try_credentials"]["secret_access_key"],
        )

    return client


@pytest.fixture(scope="module")
def key_arn(admin):
    """A key that session documents of the account name; the nodes may have data keys decrypted."""
    key = admin("kms").create_key()["KeyMetadata"]["Arn"]
    allow(admin, NODE_ROLE, "Allow", "kms:Decrypt")
    contents = {
        SHELL: {"sessionType": "Standard_Stream"},
        COMMAND: {
            "sessionType": "NonInteractiveCommands",
            "properties": {"linux": {"commands": "sh -c 'echo sealed; exit 3'", "separateOutputStream": "true"}},
        },
    }
    for name, content in contents.items():
        text = json.dumps({"schemaVersion": "1.0", "inputs": {"kmsKeyId": key}, **content})
        admin("ssm").create_document(Name=name, Content=text, DocumentType="Session", DocumentFormat="JSON")
    return key


def allow(admin, role: str, effect: str, *actions: str) -> None:
    statement = {"Effect": effect, "Action": list(actions), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    admin("iam").put_role_policy(RoleName=role, PolicyName="kms", PolicyDocument=document)


@pytest.fixture
def person(operator, key_arn):
    """Somebody who may open sessions by those documents."""
    documents = {"deeds": ["shell"], "session_documents": [SHELL, COMMAND]}
    policy.create_rule(actor="test", name="Encrypted", everybody=True, targets="all", confirmed=True, **documents)
    return operator


@pytest.fixture
def refuse(admin, demo_endpoint):
    """Deny FleetOps's role what KMS does."""
    role = demo_endpoint["accounts"][0]["role_arn"].rpartition("/")[2]
    yield lambda *actions: allow(admin, role, "Deny", *actions)
    for name in admin("iam").list_role_policies(RoleName=role)["PolicyNames"]:
        if name == "kms":
            admin("iam").delete_role_policy(RoleName=role, PolicyName=name)


def test_a_shell_under_a_key_is_a_shell(terminal, demo_instance, person, key_arn):
    session = opened(demo_instance, person, document=SHELL)
    browser = terminal.browser(session, person)
    browser.type("echo typed $((40+2)) early\r")  # before there is a key: it waits, and leaves sealed
    assert browser.told("status", text="This session is encrypted using AWS KMS.")
    browser.until(r"[$#] ", seconds=15)
    browser.until(r"typed 42 early")
    browser.run("stty size", r"30 100")
    browser.run("sh -c 'echo \\ sleeps; exec sleep 60'", r"\r sleeps")
    since = len(browser.output)
    browser.type("\x03")
    browser.until(r"\^C[^$]*\$ ", since=since)
    browser.run("echo $((6*7))", r"[\r\n]42\r\n")
    browser.send({"type": "size", "cols": 120, "rows": 40})
    browser.run("stty size", r"40 120")
    session.refresh_from_db()
    assert session.encryption["key_id"] == key_arn
    assert len(base64.b64decode(session.encryption["ciphertext"])) > 64
    browser.type("exit\r")
    assert browser.told("ended")["text"]
    ended(session)


def test_a_killed_owner_is_followed_by_one_that_has_the_key_decrypted(terminal, demo_instance, person):
    session = opened(demo_instance, person, document=SHELL)
    browser = terminal.browser(session, person)
    browser.until(r"[$#] ", seconds=15)
    browser.run("before=$((6*7)); sleep 2; echo while away", r"sleep 2; echo while away")
    browser.close()
    terminal.kill()
    terminal.start()
    again = terminal.browser(session, person)
    again.until(r"\rwhile away", seconds=20)
    again.run("echo still $before", r"still 42")
    again.run("seq 1 20000 | tail -1", r"[\r\n]20000\r\n")
    again.type("exit\r")
    assert again.told("ended")["text"]
    ended(session)


def test_a_new_owner_that_may_not_decrypt_ends_the_session_and_says_what_is_missing(
    terminal, demo_instance, person, refuse
):
    session = opened(demo_instance, person, document=SHELL)
    browser = terminal.browser(session, person)
    browser.until(r"[$#] ", seconds=15)
    browser.close()
    terminal.kill()
    refuse("kms:Decrypt")
    terminal.start()
    assert "kms:Decrypt" in ended(session, seconds=30).end_reason


def test_who_may_get_no_data_key_is_told_which_permission_is_missing(terminal, demo_instance, person, refuse):
    refuse("kms:GenerateDataKey")
    session = opened(demo_instance, person, document=SHELL)
    browser = terminal.browser(session, person)
    text = browser.told("ended")["text"]
    assert "encrypted with a KMS key" in text and "kms:GenerateDataKey" in text
    assert ended(session).encryption == {}


def test_a_node_that_may_not_decrypt_says_so(terminal, demo_instance, person, admin):
    allow(admin, NODE_ROLE, "Deny", "kms:Decrypt")
    try:
        session = opened(demo_instance, person, document=SHELL)
        browser = terminal.browser(session, person)
        assert "Fetching data key failed" in browser.told("ended", seconds=20)["text"]
    finally:
        allow(admin, NODE_ROLE, "Allow", "kms:Decrypt")


def test_a_command_under_a_key_has_its_output_and_its_exit_code(terminal, demo_instance, person):
    session = opened(demo_instance, person, kind=SessionKind.COMMAND, document=COMMAND)
    browser = terminal.browser(session, person)
    browser.until(r"sealed", seconds=15)
    assert ended(session).exit_code == 3


class AskingShell(Shell):
    """An agent that asks for encryption, and does not come further."""

    def start(self) -> None:
        self.channel = DataChannel(Role.AGENT, new_id=uuid4, session_id=self.session_id)
        asked = payloads.HandshakeRequest.for_session("3.3.0.0", "Standard_Stream", kms_key_id="k", challenge=b"c")
        self.channel.request_handshake(asked, now=steady())

    def watch(self) -> None:
        """There is no shell whose output could come."""


def test_an_owner_that_dies_in_the_handshake_leaves_a_session_that_ends_in_words(terminal, gateway, instance, operator):
    gateway.kind = AskingShell
    gateway.hold.add("GenerateDataKey")
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    shell = shell_of(gateway, session)
    until(lambda: gateway.called("GenerateDataKey") and not shell.channel.unacknowledged)
    browser.type("password\r")  # it waits, and is never sent
    browser.close()
    terminal.kill()
    gateway.hold.clear()
    terminal.start()
    assert ended(session, seconds=20).end_reason == encryption.UNFINISHED
    assert bytes(shell.inputs) == b""


@pytest.mark.parametrize(
    ("row", "output_sequence", "shown", "is_open", "expected"),
    [
        ({}, -1, 0, True, False),  # nothing has come yet
        ({}, 0, 5, True, False),  # a shell without a handshake
        ({}, 0, 0, True, True),  # the agent has asked
        ({"key_id": "k"}, 1, 0, True, True),  # and wants to see the key
        ({"key_id": "k"}, 2, 0, True, False),  # it is over
        ({"key_id": "k"}, 9, 5, True, False),
        ({"key_id": "k"}, 1, 0, False, True),  # of a command, whose journal tells how far it came
        ({}, 0, 0, False, False),  # the same, and no key yet: it can be answered anew
    ],
)
def test_a_handshake_that_was_cut_is_known_by_the_journals_numbers(row, output_sequence, shown, is_open, expected):
    journal = SimpleNamespace(output_end=shown, state=SimpleNamespace(output_sequence=output_sequence))
    session = SimpleNamespace(encryption=row)
    assert encryption.is_unfinished(session, journal, is_open=is_open) is expected
