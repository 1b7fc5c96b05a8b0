"""A month in a minute: a real endpoint and the product's own code go by one clock file."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import botocore.auth
import botocore.compat
import pytest
from botocore.exceptions import ClientError

from fleetops import clock
from fleetops.approvals import services as approvals
from fleetops.audit import chain
from fleetops.audit.models import AuditEvent, AuditSeal, SealerLease
from fleetops.aws import clients, renewal, sts
from fleetops.aws.errors import AccessDenied
from fleetops.calendars import services as calendars
from fleetops.identity import tokens
from fleetops.identity.scopes import SCOPES
from fleetops.inventory import services as inventory
from fleetops.inventory.models import Region
from fleetops.targets import TargetFacts
from tests.factories import make_user
from tests.support.endpoint import running_endpoint, until

HOUR, DAY = 3600.0, 86_400.0
REGION = "eu-west-1"


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """An endpoint under a clock file, and the file."""
    home = tmp_path_factory.mktemp("month")
    file = home / "clock.json"
    file.write_text(json.dumps({"offset_seconds": 100 * DAY}))  # and never stood where the system's clock stands
    with running_endpoint(home / "endpoint", nodes="none", FLEETOPS_CLOCK_FILE=str(file)) as endpoint:
        yield SimpleNamespace(endpoint=endpoint, file=file)


@pytest.fixture
def endpoint(db, shifted, monkeypatch, settings, tmp_path):
    """The endpoint, with this process by the same clock; it goes on from where the test before left it.

    With the database for all: pytest-django would put those without it behind other files, and start another endpoint.
    """
    settings.HOME = tmp_path  # the audit log's head
    monkeypatch.setattr(botocore.auth, "get_current_datetime", botocore.auth.get_current_datetime)
    clock.follow(shifted.file)
    clock.sign_by_this(botocore.auth)
    clients.forget_clients()
    yield shifted.endpoint
    clock.set_shift(shifted.file, rate=1)
    clients.forget_clients()
    clock.follow(None)


@pytest.fixture
def jump(endpoint, shifted):
    return lambda seconds: clock.set_shift(shifted.file, jump=seconds)


@pytest.fixture
def account(db, endpoint):
    """The endpoint's first account with its first region, linked; it has never been read."""
    credentials = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    found, *others = inventory.link_endpoint(endpoint.home / "handover.json", credentials, actor="tests")
    found.regions.exclude(name=REGION).delete()
    for other in others:
        other.delete()
    return found


def keys_of(access) -> str:
    """The access key with which a call of the product would be signed now."""
    return clients.client("sts", access, REGION, session_name="maria")._request_signer._credentials.access_key


def who(access):
    return sts.get_caller_identity(access, REGION, session_name="maria")


def read_inventory() -> list[str]:
    """Read what is due, as the worker does; what each region of it says."""
    due = inventory.claim_due_regions(now=clock.now())
    for pk in due:
        inventory.refresh_region(pk, now=clock.now())
    return [region.error for region in Region.objects.filter(pk__in=due)]


def is_admitted(text: str) -> bool:
    try:
        tokens.admit(text, address="127.0.0.1")
    except tokens.TokenRefused as refused:
        assert "expired" in str(refused)
        return False
    return True


@pytest.mark.usefixtures("roles", "valkey")
def test_in_a_month_everything_ends_on_its_day_and_the_rest_goes_on(endpoint, account, jump):
    maria, jonas = make_user(role="administrator"), make_user(role="administrator")
    began = clock.now()
    asked = approvals.ask(
        deed="demo.freeze.override",
        summary="Override the freeze",
        requested_by=maria,
        expires_at=began + timedelta(days=3, hours=12),
    )
    frozen = calendars.create_calendar(actor=maria, name="Freeze", kind="freeze", source="own")
    day = began.replace(tzinfo=None, second=0, microsecond=0)
    calendars.add_entry(
        frozen,
        actor=maria,
        title="Inventory",
        start=day + timedelta(days=9, hours=12),
        end=day + timedelta(days=11, hours=12),
    )
    _, text = tokens.create(
        actor=maria,
        owner=maria,
        name="ci",
        scopes=[next(iter(SCOPES))],
        networks=[],
        expires_at=began + timedelta(days=20, hours=12),
    )
    sealer, days, keys = chain.Sealer(), [], set()
    for number in range(31):
        approvals.expire_due()
        asked.refresh_from_db()
        gate = calendars.ask("patch", TargetFacts("i-1"), clock.now())
        days.append((read_inventory(), asked.state, gate.is_open, is_admitted(text)))
        keys.add(keys_of(account.access()))
        sealer.seal()
        if number < 30:
            jump(DAY)
    assert clock.now() - began >= timedelta(days=30)
    assert [errors for errors, *_ in days] == [[""]] * 31
    assert [state for _, state, *_ in days] == ["pending"] * 4 + ["expired"] * 27
    assert [number for number, (*_, is_open, _) in enumerate(days) if not is_open] == [10, 11]
    assert [admitted for *_, admitted in days] == [True] * 21 + [False] * 10
    assert len(keys) == 31  # one role for each hour, and of each day one
    assert jonas.pk  # who could have approved
    in_order = AuditSeal.objects.order_by("number").values_list("event__at", flat=True)
    assert list(in_order) == sorted(in_order)
    whole = chain.verify()
    assert (whole.ok, whole.unsealed, whole.first_bad) == (True, 0, "")
    assert whole.sealed == AuditEvent.objects.count()
    times = Counter(event["EventTime"].date() for event in assumed(endpoint, began))
    assert len(times) == 31


def assumed(endpoint, since):
    """The trail's events of roles that were assumed."""
    pages = endpoint.client("cloudtrail").get_paginator("lookup_events")
    wanted = [{"AttributeKey": "EventName", "AttributeValue": "AssumeRole"}]
    found = [each for page in pages.paginate(LookupAttributes=wanted, StartTime=since) for each in page["Events"]]
    return [each for each in found if each["EventTime"] >= since.replace(microsecond=0)]


def test_credentials_of_a_role_end_after_their_hour_and_are_renewed_before(endpoint, account, jump):
    by_hand, access = endpoint.as_role(), account.access()
    before = keys_of(access)
    assert endpoint.client("sts", **by_hand).get_caller_identity()["Account"] == account.account_id
    jump(HOUR + 1)
    with pytest.raises(ClientError, match="ExpiredToken"):
        endpoint.client("sts", **by_hand).get_caller_identity()
    assert who(access).arn.endswith("/maria")
    assert keys_of(access) != before


def test_what_is_in_use_is_renewed_well_before_its_end_and_no_call_has_to(endpoint, account, jump):
    access, began = account.access(), clock.now()
    assert who(access)
    first = keys_of(access)
    jump(20 * 60)
    assert who(access)
    jump(14 * 60)
    assert renewal.renew_due() == 0 and keys_of(access) == first
    jump(120)
    assert renewal.renew_due() == 1
    second = keys_of(access)
    assert second != first
    jump(30 * 60)  # the first have ended
    known = len(assumed(endpoint, began))
    assert who(access).arn.endswith("/maria")
    assert keys_of(access) == second and len(assumed(endpoint, began)) == known == 2


def test_nobodys_role_is_assumed_in_their_name_while_they_do_nothing(endpoint, account, jump):
    access, began = account.access(), clock.now()
    assert who(access)
    jump(36 * 60)
    assert renewal.renew_due() == 0
    jump(HOUR)
    assert renewal.renew_due() == 0
    assert len(assumed(endpoint, began)) == 1


def test_a_thread_of_the_process_renews_by_itself(endpoint, account, jump, monkeypatch):
    monkeypatch.setattr(renewal, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(renewal, "_thread", None)  # whoever was there before waits for longer
    access = account.access()
    assert who(access)
    first = keys_of(access)
    jump(20 * 60)
    assert who(access)
    jump(20 * 60)
    until(lambda: keys_of(access) != first, what="the thread has renewed it")


def test_base_credentials_that_have_expired_are_told_before_they_are_missed(endpoint, account, jump, caplog):
    given = endpoint.client("sts", user="fleetops").get_session_token(DurationSeconds=900)["Credentials"]
    file = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    with file.open("a") as profiles:
        profiles.write(f"\n[borrowed]\naws_access_key_id = {given['AccessKeyId']}\n")
        profiles.write(
            f"aws_secret_access_key = {given['SecretAccessKey']}\naws_session_token = {given['SessionToken']}\n"
        )
    access = replace(account.access(), profile="borrowed")
    assert who(access)
    jump(20 * 60)
    assert who(access)
    jump(20 * 60)
    assert renewal.renew_due() == 0
    assert "have expired (ExpiredToken); renew those of the account's profile" in caplog.text
    assert who(access).arn.endswith("/maria")  # what the role was given is good for 20 minutes yet
    jump(11 * 60)
    with pytest.raises(AccessDenied, match=r"credentials for sts:AssumeRole in \S+ have expired") as refused:
        who(access)
    assert given["SecretAccessKey"] not in str(refused.value) + caplog.text


def test_at_two_thousand_times_the_speed_no_call_is_late_and_keys_are_renewed(endpoint, account, shifted):
    access, began = account.access(), clock.now()
    clock.set_shift(shifted.file, rate=2000)
    keys: list[str] = []
    while len(keys) < 4:
        assert who(access).account_id == account.account_id
        if (key := keys_of(access)) not in keys:
            keys.append(key)
    assert clock.now() - began > 3 * timedelta(minutes=45)  # a call renews from ten minutes before the end


def test_at_a_month_a_minute_no_signature_is_too_old(endpoint, shifted):
    """Five minutes are 7 ms then. With a person's keys, which do not end: those of a role would live for 83."""
    clock.set_shift(shifted.file, rate=43_200)
    began = clock.now()
    while clock.now() - began < timedelta(days=1):
        assert endpoint.client("sts").get_caller_identity()


def test_calls_that_are_on_their_way_when_the_clock_is_put_arrive(endpoint, account, jump):
    """Eight minutes: more than a signature may be off, less than botocore leaves to a role's keys when it uses them."""
    access, stopped = account.access(), threading.Event()
    made, failed = Counter(), []

    def call(name: str) -> None:
        while not stopped.is_set():
            try:
                sts.get_caller_identity(access, REGION, session_name=name)
                made[name] += 1
            except Exception as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=call, args=(f"caller-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(12):
            before = made.total()
            jump(480 if number % 3 else -480)
            until(lambda before=before: failed or made.total() > before + 3, what="calls after the jump")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert not failed


def test_a_program_that_knows_nothing_of_the_file_is_refused_in_the_words_of_aws(endpoint, jump, monkeypatch):
    jump(HOUR)
    assert endpoint.client("sts").get_caller_identity()
    monkeypatch.setattr(botocore.auth, "get_current_datetime", botocore.compat.get_current_datetime)
    with pytest.raises(ClientError, match="Signature expired"):
        endpoint.client("sts").get_caller_identity()


def test_what_moto_holds_keeps_its_moments_when_it_is_read_back_on_another_day(endpoint, jump):
    iam = endpoint.client("iam")
    made_at = iam.create_user(UserName="of-that-day")["User"]["CreateDate"]
    assert abs(made_at - clock.now()) < timedelta(hours=1)
    jump(10 * DAY)
    os.kill(endpoint.child("fleetops.endpoint.moto_process"), signal.SIGKILL)

    def again():
        try:
            return iam.get_user(UserName="of-that-day")["User"]["CreateDate"]
        except ClientError as error:  # "the service is starting"
            assert error.response["Error"]["Code"] == "ServiceUnavailable"
            return None

    assert until(again, seconds=60, what="moto is back") == made_at


@pytest.mark.usefixtures("roles", "valkey")
def test_when_the_clock_is_put_back_work_goes_on_and_what_was_written_stays(endpoint, account, jump):
    user = make_user(role="administrator")
    sealer = chain.Sealer()
    assert read_inventory() == [""]
    sealer.seal()
    SealerLease.objects.update(holder="a worker that has died since")
    later = AuditEvent.objects.latest("id")
    read_at = Region.objects.get().refreshed_at
    jump(-20 * DAY)
    assert read_inventory() == [""]
    assert Region.objects.get().refreshed_at < read_at
    assert who(account.access()).account_id == account.account_id
    tokens.create(
        actor=user,
        owner=user,
        name="of the past",
        scopes=[next(iter(SCOPES))],
        networks=[],
        expires_at=clock.now() + timedelta(days=1),
    )
    assert chain.Sealer().seal()
    assert AuditEvent.objects.latest("id") == later  # by their moments; the chain says in which order they were written
    newest = AuditSeal.objects.latest("number").event
    assert (newest.action, newest.at < later.at) == ("identity.token.create", True)
    assert chain.verify().ok
    jump(20 * DAY)
    assert read_inventory() == [""]


def test_production_takes_no_clock_file(tmp_path):
    environment = {**os.environ, "FLEETOPS_PROFILE": "production", "FLEETOPS_CLOCK_FILE": str(tmp_path / "clock.json")}
    command = [sys.executable, "-m", "fleetops.endpoint", "--home", str(tmp_path), "--port", "0", "--nodes", "none"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "FLEETOPS_CLOCK_FILE shifts the clock for tests" in ended.stderr
