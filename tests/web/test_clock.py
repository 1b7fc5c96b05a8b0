"""Identifiers that sort by time; and the clock that a file shifts."""

import asyncio
import inspect
import json
import time
from datetime import UTC, datetime, timedelta

import botocore.auth
import botocore.compat
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, DeferredRefreshableCredentials

from fleetops import clock
from fleetops.clock import Shift, uuid7
from tests.support.clock import clock_file, following  # noqa: F401

DAY = 86_400.0


def test_ids_are_version_7_and_carry_the_time():
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_made_one_after_the_other_sort_in_that_order():
    made = []
    for _ in range(50):
        made.append(uuid7())
        until = time.perf_counter_ns() + 2_000  # two steps of the fraction and more
        while time.perf_counter_ns() < until:
            pass
    assert made == sorted(made)
    assert len(set(made)) == 50


# A shifted clock


def test_a_shift_goes_on_from_where_it_began_and_ends_at_years_that_can_be_written():
    assert Shift(offset_seconds=-5).moment(100.0) == 95.0
    assert Shift(offset_seconds=10, rate=60, since=100.0).moment(100.0) == 110.0
    assert Shift(offset_seconds=10, rate=60, since=100.0).moment(102.0) == 230.0
    assert Shift(rate=0, since=100.0).moment(500.0) == 100.0
    assert Shift(rate=1e9, since=0.0).moment(2e9) == clock._LATEST
    assert Shift(offset_seconds=-1e12).moment(1.0) == 0.0


def test_a_jump_and_a_rate_go_on_from_where_the_clock_stands(clock_file):  # noqa: F811
    real = clock.real_now()
    clock.set_shift(clock_file, jump=30 * DAY)
    assert clock.now() - real >= timedelta(days=30)
    clock.set_shift(clock_file, rate=0)
    stopped = clock.now()
    assert stopped - real >= timedelta(days=30)
    assert clock.now() == stopped
    clock.set_shift(clock_file, jump=-DAY)
    assert clock.now() - stopped == pytest.approx(timedelta(days=-1), abs=timedelta(milliseconds=1))
    clock.set_shift(clock_file, rate=1)
    assert clock.real_now() < clock.now() < clock.real_now() + timedelta(days=30)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"rate": "fast"}', '{"before": 3}', '{"before": [[]]}'])
def test_a_file_that_cannot_be_read_shifts_nothing(clock_file, text):  # noqa: F811
    clock_file.write_text(text)
    assert clock.shift() == Shift()
    clock_file.unlink()
    assert clock.shift() == Shift()


def test_ids_bear_the_shifted_moment(clock_file):  # noqa: F811
    before = uuid7()
    clock.set_shift(clock_file, jump=-DAY)
    assert uuid7() < before
    clock.set_shift(clock_file, jump=2 * DAY)
    assert uuid7() > before


def test_what_was_written_before_a_jump_is_still_of_the_last_minutes(clock_file):  # noqa: F811
    written = clock.now()
    assert clock.ago(60) <= written
    for jump in (5 * DAY, 5 * DAY, -3 * DAY):
        clock.set_shift(clock_file, jump=jump)
        assert clock.ago(60) <= written
    assert clock.ago(0) > written  # nothing but where it stands
    long_over = json.loads(clock_file.read_text())
    for each in (long_over, *long_over["before"]):
        each["since"] -= 3600
    clock_file.write_text(json.dumps(long_over))
    assert clock.ago(60) > written + timedelta(days=6)


def test_at_a_high_rate_a_real_minute_ago_is_long_ago(clock_file):  # noqa: F811
    real = time.time()
    clock_file.write_text(json.dumps({"offset_seconds": 0, "rate": 1000, "since": real - 60}))
    assert clock.now() - clock.ago(30) >= timedelta(seconds=29_000)
    assert clock.during(timedelta(seconds=2)) == timedelta(seconds=2000)


def test_who_was_on_the_way_during_a_jump_is_judged_by_when_they_set_out(clock_file):  # noqa: F811
    set_out = clock.now()
    clock.set_shift(clock_file, jump=DAY)
    assert clock.lately(set_out) == set_out
    never = set_out - timedelta(hours=1)
    assert clock.lately(never) > set_out + timedelta(hours=23)
    ahead = clock.now() + timedelta(minutes=4)
    assert clock.lately(ahead) < ahead


def test_without_a_file_nobody_has_set_out_at_another_moment():
    sent = clock.now() - timedelta(seconds=2)
    assert clock.lately(sent) > sent
    assert clock.during(timedelta(seconds=60)) == timedelta(seconds=60)
    assert clock.ago(60) < clock.now()


async def test_a_jump_wakes_who_sleeps_until_then(clock_file):  # noqa: F811
    sleeper = asyncio.create_task(clock.sleep(DAY))
    await asyncio.sleep(0)
    clock.set_shift(clock_file, jump=2 * DAY)
    await asyncio.wait_for(sleeper, 30)


# Signatures


def test_what_stands_in_for_botocores_clock_is_called_as_it_is():
    """If this fails, look at how botocore's signers take the time, and at clock.sign_by_this."""
    ours, theirs = (inspect.signature(each) for each in (clock.naive_now, botocore.compat.get_current_datetime))
    assert [(each.name, each.default) for each in ours.parameters.values()] == [
        (each.name, each.default) for each in theirs.parameters.values()
    ]
    assert clock.naive_now().tzinfo is botocore.compat.get_current_datetime().tzinfo is None


@pytest.mark.parametrize("version", ["v4", "v4-query", "s3v4", "s3v4-query"])
def test_every_signer_of_version_4_takes_the_moment_from_the_file(following, version):  # noqa: F811
    clock.set_shift(following, jump=-40 * DAY)
    clock.sign_by_this(botocore.auth)
    request = AWSRequest("GET", "https://127.0.0.1/", data=b"", headers={"Host": "127.0.0.1"})
    request.context["signing"] = {}
    before = clock.now().replace(microsecond=0)
    botocore.auth.AUTH_TYPE_MAPS[version](Credentials("AKIA", "secret"), "sts", "eu-west-1").add_auth(request)
    signed = request.context["timestamp"]
    assert before <= datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) <= clock.now()
    assert signed in request.url + str(dict(request.headers))


def test_signing_fails_loudly_where_botocore_has_another_name_for_its_clock(following, monkeypatch):  # noqa: F811
    monkeypatch.delattr(botocore.auth, "get_current_datetime")
    with pytest.raises(LookupError, match="get_current_datetime"):
        clock.sign_by_this(botocore.auth)


def test_without_a_file_botocore_is_left_as_it_is():
    before = botocore.auth.get_current_datetime
    clock.sign_by_this(botocore.auth)
    assert botocore.auth.get_current_datetime is before


def test_credentials_of_a_role_are_renewed_by_the_shifted_clock(clock_file):  # noqa: F811
    given = []

    def issue():
        given.append(clock.now() + timedelta(hours=1))
        return {"access_key": "A", "secret_key": "s", "token": "t", "expiry_time": given[-1].isoformat()}

    keys = DeferredRefreshableCredentials(refresh_using=issue, method="assume-role", time_fetcher=clock.now)
    keys.get_frozen_credentials()
    keys.get_frozen_credentials()
    assert len(given) == 1
    clock.set_shift(clock_file, jump=50 * 60 + 1)
    keys.get_frozen_credentials()
    assert len(given) == 2
