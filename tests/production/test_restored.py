"""A product whose machine is gone: its backup, and its keys, are a working FleetOps on another one."""

import html
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.chaos.test_kills import assert_audit_verifies, end, open_shell, recorded
from tests.support.postgres import client_programs, postgres_server
from tests.support.stack import ROOT, Person, running_stack, until

pytestmark = pytest.mark.chaos


def backup(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "fleetops.backup", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ended(person: Person, session_id: str) -> str:
    """The page of a session's recording, once it is sealed to its end."""

    def page() -> str | None:
        text = html.unescape(person.get(f"/sessions/{session_id}/replay/"))
        return text if "Complete" in text else None

    return until(page, seconds=90, what="the recording is sealed to its end")


@pytest.mark.timeout(300)
def test_people_log_in_replay_and_open_shells_on_another_machine(tmp_path):
    with tempfile.TemporaryDirectory(prefix="fo-pg-") as directory, postgres_server(Path(directory)) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE other")
        settings = {"FLEETOPS_PG_BIN": str(client_programs())}
        with running_stack(tmp_path / "fo", FLEETOPS_DATABASE_URL=server.url, **settings) as stack:
            person = stack.log_in()
            done, terminal = open_shell(person)
            terminal.run("echo al''pha", "alpha\r")
            end(person, terminal)
            shown = bytes(terminal.output)
            ended(person, done)
            left_open, terminal = open_shell(person)
            terminal.run("echo be''fore", "before\r")
            backup(stack.environment, "make", str(tmp_path / "shelf"))
            terminal.run("echo af''ter", "after\r")

        (made,) = [path for path in (tmp_path / "shelf").iterdir() if path.name != ".lock"]
        home = tmp_path / "other"
        (home / "secrets").mkdir(parents=True, mode=0o700)
        for key in ("audit.key", "master.key", "django.key"):
            shutil.copy(tmp_path / "fo" / "secrets" / key, home / "secrets" / key)
        url = server.url_of("other")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_"))}
        environment |= settings | {"FLEETOPS_HOME": str(home), "FLEETOPS_DATABASE_URL": url}
        assert "a chain that is whole" in backup(environment, "restore", str(made), "--into", str(home))

        with running_stack(
            home, FLEETOPS_DATABASE_URL=url, FLEETOPS_ADMIN_PASSWORD="unused: it is there", **settings
        ) as stack:
            person = stack.log_in()  # with the password of before
            assert "is not what was sealed" not in ended(person, done)
            assert recorded(person, done) == shown
            page = ended(person, left_open)
            assert "is not what was sealed" not in page
            assert b"before\r" in recorded(person, left_open)
            assert b"after\r" not in recorded(person, left_open)
            assert "restored the backup" in html.unescape(person.get("/audit/?q=kind:backup"))
            _, terminal = open_shell(person)
            terminal.run("echo he''re", "here\r")
            end(person, terminal)
            assert_audit_verifies(stack)
