"""Sessions as another user on a machine: `fleetops node run` as root, real users of this machine, the real endpoint."""

import asyncio
import grp
import json
import os
import pwd

import pytest

from fleetops.node.machine import Registration
from tests.node.clients import HandshakingClient
from tests.node.gateway import Client
from tests.node.test_encrypted import Door, close
from tests.node.test_machine import activation, is_online, register, running
from tests.support.endpoint import until

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as somebody else")

# Users that every Debian has, of which none is this process's.
DEFAULT, TAGGED = "daemon", "nobody"
WHO = "id -un; id -u; id -gn; grep -c ^CapEff:.0*$ /proc/self/status; echo $USER $LOGNAME $HOME"


def answers(user: str) -> str:
    entry = pwd.getpwnam(user)
    group = grp.getgrgid(entry.pw_gid).gr_name
    return f"{user}\n{entry.pw_uid}\n{group}\n1\n{user} {user} /home/{user}\n"


@pytest.fixture(scope="module")
def machine(demo, tmp_path_factory):
    """This machine as a node; its instance id."""
    home = tmp_path_factory.mktemp("machine") / "node"
    status, _, stderr = register(demo, home, activation(demo))
    assert status == 0, stderr
    instance_id = Registration(home).read()["instance_id"]
    with running(home):
        until(lambda: is_online(demo, instance_id), seconds=30)
        yield instance_id
    demo.client("ssm").deregister_managed_instance(InstanceId=instance_id)


def document(demo, name: str, **content) -> str:
    """A session document that runs as DEFAULT; its name."""
    inputs = {"runAsEnabled": True, "runAsDefaultUser": DEFAULT}
    text = json.dumps({"schemaVersion": "1.0", "inputs": inputs, **content})
    demo.client("ssm").create_document(Name=name, Content=text, DocumentType="Session", DocumentFormat="JSON")
    return name


@pytest.fixture(scope="module")
def shell(demo):
    return document(demo, "Run-As-Shell", sessionType="Standard_Stream")


async def open_session(demo, ssm, instance_id: str, name: str, kind=Client) -> Client:
    answer = await asyncio.to_thread(ssm.start_session, Target=instance_id, DocumentName=name)
    client = kind(Door(demo), answer["SessionId"])
    await client.connect(answer["TokenValue"])
    return client


async def test_a_shell_is_of_the_documents_default_user_and_of_nobody_else(demo, machine, shell):
    client = await open_session(demo, demo.client("ssm"), machine, shell)
    await client.see("$ ")
    assert await client.run(WHO) == answers(DEFAULT)
    assert "Permission denied" in await client.run("cat /etc/shadow")
    assert await client.run(
        "tty >/dev/null && echo on a terminal of its own; echo >$(tty) && echo and may write it"
    ) == ("on a terminal of its own\n\nand may write it\n")
    await client.type("exit\r")
    await client.see_end()
    await close(client)


async def test_the_tag_of_the_person_goes_before_the_default(demo, machine, shell):
    keys = demo.as_role(Tags=[{"Key": "SSMSessionRunAs", "Value": TAGGED}])
    client = await open_session(demo, demo.client("ssm", **keys), machine, shell)
    await client.see("$ ")
    assert await client.run(WHO) == answers(TAGGED)
    await close(client)


async def test_a_command_without_a_terminal_runs_as_that_user_too(demo, machine):
    properties = {"linux": {"commands": f"sh -c '{WHO}'"}}
    name = document(demo, "Run-As-Command", sessionType="NonInteractiveCommands", properties=properties)
    client = await open_session(demo, demo.client("ssm"), machine, name, HandshakingClient)
    await client.see_end()
    assert bytes(client.output).decode() == answers(DEFAULT)
    await close(client)


async def test_a_document_that_runs_elevated_is_of_the_nodes_own_user(demo, machine):
    properties = {"linux": {"commands": "id -un", "runAsElevated": True}}
    name = document(demo, "Run-As-Elevated", sessionType="InteractiveCommands", properties=properties)
    client = await open_session(demo, demo.client("ssm"), machine, name)
    await client.see_end()
    assert pwd.getpwuid(os.getuid()).pw_name in bytes(client.output).decode().splitlines()
    await close(client)
