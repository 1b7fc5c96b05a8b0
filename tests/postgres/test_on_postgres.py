"""Models, claims and migrations on PostgreSQL too: the rooms' own tests, run again over a real server."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.postgres import running_postgres

ROOT = Path(__file__).resolve().parents[2]

# Rooms that hold rows, without pages, and what runs SQLite's own processes or a whole product.
ROOMS = [
    "tests/audit",
    "tests/identity/test_access_keys.py",
    "tests/identity/test_users.py",
    "tests/policy/test_services.py",
    "tests/approvals/test_services.py",
    "tests/calendars/test_services.py",
    "tests/notify/test_killed_worker.py",
    "tests/notify/test_order.py",
    "tests/notify/test_outbox.py",
    "tests/sessions_app/test_grants.py",
    "tests/review/test_search.py",
    "tests/review/test_session_chain.py",
    "tests/test_two_accounts.py",
    "tests/inventory/test_services.py",
    "tests/inventory/test_selection.py",
    "tests/inventory/test_accounts.py",
    "tests/inventory/test_link_account.py",
    "tests/library/test_services.py",
    "tests/runcommand/test_services.py",
    "tests/runcommand/test_dispatching.py",
    "tests/patching/test_groups.py",
    "tests/patching/test_mirror.py",
    "tests/roles/test_leases.py",
    "tests/roles/test_must.py",
    "tests/rollouts/test_advancing.py",
    "tests/rollouts/test_slots.py",
    "tests/rollouts/test_schedule_claims.py",
    "tests/rollouts/test_steering.py",
    "tests/sessions_app/delivery/test_logs.py",
    "tests/sessions_app/test_command_search.py",
]
# Compute for seconds, and ask the database nothing that the others do not.
LEFT_OUT = [
    "tests/calendars/test_services.py::test_for_ten_thousand_instances_calendars_are_expanded_once_a_set",
]


@pytest.mark.timeout(600)
def test_rows_claims_and_migrations_hold_on_postgresql():
    rooms = [room for room in ROOMS if (ROOT / room).exists()]
    assert rooms == ROOMS
    for file, _, name in (each.partition("::") for each in LEFT_OUT):
        assert f"{name and 'def '}{name}" in (ROOT / file).read_text()
    with (
        tempfile.TemporaryDirectory(prefix="fo-pg-") as directory,
        running_postgres(Path(directory)) as url,
    ):
        # Without what this run has set for itself: pytest-django would read it before the other run has its own home.
        own = ("FLEETOPS_", "AWS_", "DJANGO_", "PYTEST_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment["FLEETOPS_DATABASE_URL"] = url
        left_out = [word for each in LEFT_OUT for word in ("--deselect", each)]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *left_out, *rooms]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) > 50
