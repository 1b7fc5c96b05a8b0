"""This machine as a managed node of a real endpoint: it registers, runs, renews its credentials and changes its key."""

import asyncio
import contextlib
import getpass
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fleetops import clock
from fleetops.endpoint.seed import HYBRID_ROLE
from fleetops.node.machine import Machine, NotRegistered, Registration, public_key
from tests.node.gateway import Client, eventually
from tests.node.test_encrypted import Door, close
from tests.support.endpoint import ROOT, RunningEndpoint, running_endpoint, until


@pytest.fixture(scope="module")
def aws(demo):
    return demo


def activation(aws: RunningEndpoint, **more) -> dict:
    return aws.client("ssm").create_activation(IamRole=HYBRID_ROLE, DefaultInstanceName="lab", **more)


def fleetops_node(*words: str, environment: dict | None = None, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fleetops.cli.main", "node", *words],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def register(aws: RunningEndpoint, home: Path, given: dict, **more) -> tuple[int, str, str]:
    process = fleetops_node(
        "register",
        *("--endpoint", aws.url, "--ca", aws.handover["ca_file"], "--region", "eu-west-1", "--home", str(home)),
        *("--id", given["ActivationId"], "--code", given["ActivationCode"]),
        **more,
    )
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@contextlib.contextmanager
def running(home: Path, **more):
    """`fleetops node run`, once it has said that it runs."""
    process = fleetops_node("run", "--home", str(home), **more)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " runs. " in line, process.communicate()
        yield line
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def is_online(aws: RunningEndpoint, instance_id: str) -> bool:
    return aws.client("ssm").get_connection_status(Target=instance_id)["Status"] == "connected"


def described(aws: RunningEndpoint, instance_id: str) -> dict:
    filters = [{"Key": "InstanceIds", "Values": [instance_id]}]
    (row,) = aws.client("ssm").describe_instance_information(Filters=filters)["InstanceInformationList"]
    return row


async def test_a_machine_registers_and_is_a_node_with_shells_of_whoever_started_it(aws, tmp_path):
    home = tmp_path / "node"
    given = activation(aws)
    status, stdout, stderr = await asyncio.to_thread(register, aws, home, given)
    assert status == 0, stderr
    registration = Registration(home)
    instance_id = registration.read()["instance_id"]
    assert instance_id.startswith("mi-") and instance_id in stdout
    assert given["ActivationCode"] not in "".join(path.read_text() for path in home.iterdir())
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in ("key.pem", "fingerprint.json")} == {0o600}
    assert registration.key().key_size == 2048

    with running(home) as said:
        assert f"{instance_id} runs." in said and f"run as {getpass.getuser()}" in said
        await asyncio.to_thread(until, lambda: is_online(aws, instance_id), seconds=30)
        row = await asyncio.to_thread(
            until, lambda: (row := described(aws, instance_id)).get("PlatformName") and row, seconds=30
        )
        assert (row["ResourceType"], row["Name"], row["IamRole"]) == ("ManagedInstance", "lab", HYBRID_ROLE)
        assert row["ActivationId"] == given["ActivationId"]
        assert row["ComputerName"] == os.uname().nodename

        ssm = aws.client("ssm")
        sent = ssm.send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Parameters={"commands": ["id -un; pwd; exit 194"]},
        )["Command"]["CommandId"]
        answer = await asyncio.to_thread(
            until,
            lambda: (
                (row := ssm.get_command_invocation(CommandId=sent, InstanceId=instance_id))["Status"] == "Failed"
                and row
            ),
            seconds=30,
        )
        assert answer["StandardOutputContent"] == f"{getpass.getuser()}\n{Path.home()}\n"
        assert "restarts no machine" in answer["StandardErrorContent"]

        session = ssm.start_session(Target=instance_id)
        client = Client(Door(aws), session["SessionId"])
        await client.connect(session["TokenValue"])
        await client.see(f"is in no sandbox, and runs as {getpass.getuser()}.")
        assert await client.run("echo $((6*7))") == "42\n"
        await client.type("exit\r")
        await client.see_end()
        await close(client)
    await asyncio.to_thread(until, lambda: not is_online(aws, instance_id), seconds=30)

    with running(home):  # again: the same node
        await asyncio.to_thread(until, lambda: is_online(aws, instance_id), seconds=30)
        aws.client("ssm").deregister_managed_instance(InstanceId=instance_id)
        await asyncio.to_thread(until, lambda: not is_online(aws, instance_id), seconds=30)


def test_a_machine_that_registers_again_keeps_its_fingerprint_and_gets_a_new_key(aws, tmp_path):
    home = tmp_path / "node"
    given = activation(aws, RegistrationLimit=2)
    assert register(aws, home, given)[0] == 0
    registration = Registration(home)
    before = registration.read()["instance_id"], (home / "key.pem").read_bytes(), registration.fingerprint()
    assert register(aws, home, given)[0] == 0
    assert registration.fingerprint() == before[2]
    assert registration.read()["instance_id"] != before[0]
    assert (home / "key.pem").read_bytes() != before[1]
    status, _, stderr = register(aws, home, given)
    assert status == 1 and "InvalidActivation" in stderr and "limit" in stderr
    assert registration.read()["instance_id"] != before[0]  # what holds is kept


def test_what_is_wrong_is_said(aws, tmp_path):
    status, _, stderr = register(aws, tmp_path / "node", {"ActivationId": "x" * 36, "ActivationCode": "y" * 20})
    assert status == 1 and "InvalidActivation" in stderr
    process = fleetops_node("run", "--home", str(tmp_path / "node"))
    assert "fleetops node register" in process.communicate(timeout=30)[1] and process.returncode == 1
    with pytest.raises(NotRegistered):
        Machine(tmp_path / "nothing")


def test_a_copied_disk_is_another_machine(tmp_path, monkeypatch):
    registration = Registration(tmp_path)
    first = registration.fingerprint()
    assert registration.fingerprint() == first
    monkeypatch.setattr("fleetops.node.machine._machine_id", lambda: "another")
    assert registration.fingerprint() != first


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """An endpoint whose clock a test moves, and the environment that moves a node's along with it."""
    directory = tmp_path_factory.mktemp("old")
    file = directory / "clock.json"
    clock.set_shift(file)
    environment = {"FLEETOPS_CLOCK_FILE": str(file)}
    with running_endpoint(directory / "home", **environment) as endpoint:
        yield endpoint, file, environment


def test_credentials_are_renewed_and_a_key_of_a_year_is_changed(old, tmp_path):
    aws, file, environment = old
    home = tmp_path / "node"
    # Of the shifted clock, as the endpoint's is: boto3 here signs by the real one.
    given = activation(aws, RegistrationLimit=1)
    told = register(aws, home, given, environment=environment)
    assert told[0] == 0, told
    instance_id = Registration(home).read()["instance_id"]
    key = (home / "key.pem").read_bytes()
    process = fleetops_node("run", "--home", str(home), environment=environment)
    try:
        until(lambda: is_online(aws, instance_id), seconds=30)
        clock.set_shift(file, jump=366 * 86_400)
        until(lambda: (home / "key.pem").read_bytes() != key, seconds=30)
        assert not (home / "key.next.pem").exists()
        clock.set_shift(file, jump=-366 * 86_400)
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert log.count("credentials fetched") >= 2
    assert "key changed" in log
    with running(home, environment=environment):
        until(lambda: is_online(aws, instance_id), seconds=30)


async def test_a_kill_between_the_two_keys_costs_nothing(aws, tmp_path):
    """The endpoint took the new key, and the process died before it had put it into the old one's place."""
    home = tmp_path / "node"
    assert (await asyncio.to_thread(register, aws, home, activation(aws)))[0] == 0
    registration = Registration(home)
    machine = Machine(home)
    await machine._token()
    old_key = registration.key()
    new_key = registration.begin_rotation()
    body = {"NewPublicKey": public_key(new_key), "NewPublicKeyType": "Rsa"}
    target = "AmazonSSM.UpdateManagedInstancePublicKey"
    await machine._endpoint.call_with_key(target, body, machine._signer(old_key))
    again = Machine(home)
    living = asyncio.create_task(again.run())
    try:
        await eventually(lambda: again.node.is_online, seconds=30)
    finally:
        living.cancel()
        await asyncio.wait([living])
    assert registration.next_key() is None
    assert registration.key().private_numbers() == new_key.private_numbers()
