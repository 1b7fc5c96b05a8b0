"""Real sealer processes on one database: never one number twice, and a kill at any moment leaves a right chain."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from django.conf import settings as django_settings
from django.db import connection

from fleetops.audit import chain
from fleetops.audit.chain import Sealer, verify
from fleetops.audit.models import AuditEvent, AuditSeal, SealerLease
from fleetops.audit.record import record

from .support import numbers

# Small batches, so that there are many moments between two of them; it says when it has sealed for the first time.
SEALER = """
import django; django.setup()
from fleetops.audit import chain
chain.BATCH_ROWS = 3
sealer = chain.Sealer()
sealed = 0
while True:
    sealed = sealed + sealer.seal(seconds=0.02)
    if sealed:
        print("sealed", flush=True)
"""


@contextmanager
def sealers(count: int, home):
    facts = connection.settings_dict
    url = f"sqlite://{facts['NAME']}"
    if connection.vendor == "postgresql":
        host, port = facts["HOST"], facts["PORT"]
        url = f"postgresql://{facts['USER']}:{quote(facts['PASSWORD'])}@{quote(host, safe='')}:{port}/{facts['NAME']}"
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "fleetops.settings",
        "FLEETOPS_DATABASE_URL": url,
        "FLEETOPS_HOME": str(home),
        "FLEETOPS_AUDIT_KEY": django_settings.AUDIT_KEY,
    }
    command = [sys.executable, "-c", SEALER]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait(5)
            process.stdout.close()


def fill(count: int) -> None:
    for number in range(count):
        record("sessions.open", actor="worker", place=number)


def wait_until_all_are_sealed(seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while AuditEvent.objects.filter(seal=None).exists():
        assert time.monotonic() < deadline, f"{AuditSeal.objects.count()} of {AuditEvent.objects.count()} are sealed"
        time.sleep(0.02)


def test_two_sealers_in_two_processes_number_each_row_once(transactional_db, own_home):
    total = 0
    with sealers(2, own_home) as running:
        for process in running:
            os.set_blocking(process.stdout.fileno(), False)
        silent = list(running)
        deadline = time.monotonic() + 60
        while silent or total < 150:  # until both have sealed something
            assert time.monotonic() < deadline, f"{len(silent)} sealers never got the lease"
            fill(15)
            total += 15
            silent = [process for process in silent if not process.stdout.read()]
        wait_until_all_are_sealed()
    assert numbers() == list(range(1, total + 1))
    assert verify().ok


def test_a_sealer_killed_in_the_middle_leaves_a_right_chain_and_another_goes_on(transactional_db, own_home):
    moments = random.Random(7)
    total = 0
    for _ in range(4):
        fill(60)
        total += 60
        with sealers(1, own_home) as (process,):
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.04))  # the moment of the kill
            process.send_signal(signal.SIGKILL)
            process.wait(5)
        result = verify()
        assert result.ok and result.sealed + result.unsealed == total, result
        # A sealer that was killed keeps the lease for a little; nobody waits for it here.
        SealerLease.objects.update(until="2026-01-01T00:00:00Z")
    Sealer().seal(seconds=30)
    assert numbers() == list(range(1, total + 1))
    assert verify().ok and chain.read_head().number == total


@pytest.mark.parametrize("behind", [0, 5])
def test_a_kill_between_the_commit_and_the_head_is_mended_by_the_next_batch(transactional_db, own_home, behind):
    fill(5)
    Sealer().seal()
    head = chain.read_head()
    if behind:
        fill(behind)
        Sealer().seal()
        chain.write_head(head)
    assert verify().ok
    fill(1)
    Sealer().seal()
    assert verify().ok and chain.read_head().number == 5 + behind + 1
