"""The whole product, and the real command beside it with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.stack import A_PAGE, ADMIN_PASSWORD, ROOT, Stack, running_stack, until

COMMAND = [sys.executable, "-m", "fleetops.cli.main"]


@dataclass
class Shell:
    """Somebody's terminal: their configuration directory, and what they have exported."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_"))}
        # No FleetOps on this machine but the one that is named.
        here = {"XDG_CONFIG_HOME": str(self.config), "FLEETOPS_HOME": str(self.config / "nowhere")}
        return {**kept, **here, **self.environment}

    def run(self, *words: str, typed: str = "", **exported: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            input=typed,
            text=True,
            capture_output=True,
            timeout=60,
            cwd=ROOT,
            env={**self.env, **exported},
        )

    def ok(self, *words: str, **more: str) -> str:
        """What it printed; it must have ended well."""
        done = self.run(*words, **more)
        assert done.returncode == 0, (words, done.returncode, done.stderr)
        return done.stdout

    @property
    def file(self) -> Path:
        return self.config / "fleetops" / "profiles.json"


@pytest.fixture(scope="package")
def stack(tmp_path_factory) -> Stack:
    with running_stack(
        tmp_path_factory.mktemp("fo"), FLEETOPS_API_LOGINS_PER_MINUTE="1000", FLEETOPS_API_CALLS_PER_MINUTE="10000"
    ) as running:
        person = running.log_in()

        def is_online() -> bool:
            rows = json.loads(person.get("/fleet/palette/"))["instances"]
            return any(row["status"] == "Online" for row in rows)

        until(is_online, seconds=60, what="an instance is online", every=A_PAGE)
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def log_in(stack: Stack, shell: Shell) -> Callable[..., Shell]:
    """Log the shell in as the administrator, with the password from standard input."""

    def do(*words: str) -> Shell:
        line = ("login", "--url", stack.url, "--username", "admin", "--password-stdin", *words)
        shell.ok(*line, typed=ADMIN_PASSWORD + "\n")
        return shell

    return do
