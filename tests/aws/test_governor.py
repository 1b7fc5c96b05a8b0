"""The budget of AWS calls: who goes first, who waits, what is learned, and that nobody waits for book-keeping."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings as product
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.aws import clients, governor, ssm, sts
from fleetops.aws.errors import Unavailable
from fleetops.aws.governor import Bucket, Priority
from tests.support.endpoint import until
from tests.support.faults import Faults
from tests.support.valkey import running_valkey

REGION = "eu-west-1"
ROOT = Path(__file__).resolve().parents[2]
START, CEILING = 5.0, 20.0  # calls a second of what BUDGETS does not name


@pytest.fixture(scope="module", autouse=True)
def as_it_was():
    """Afterwards the budget is where the product's settings have it, for whoever comes next in this process."""
    yield
    governor.configure(product.AWS_BUDGET_URL, start=product.AWS_CALLS_PER_SECOND)


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[str]:
    """The address of a Valkey of this room's own."""
    with running_valkey(tmp_path_factory.mktemp("governor")) as socket:
        yield f"unix://{socket}?db=3"


@pytest.fixture
def paced(broker) -> Iterator[redis.Redis]:
    """Calls are paced; nothing has been learned."""
    governor.configure(broker)
    client = redis.Redis.from_url(broker, decode_responses=True)
    client.flushdb()
    yield client
    client.close()
    governor.configure("")


@pytest.fixture
def bucket() -> Bucket:
    return Bucket("111122223333", REGION, f"ssm:Op{uuid.uuid4().hex[:8]}")


class Steps:
    """A bucket, step by step, at moments that the test chooses."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        # Half an hour ago, so that the minutes after it are among those told.
        self.now = governor._book.client.time()[0] - 1800.0

    def take(self, priority: Priority, who: str = "", *, waited: float = 0.0, must: bool = False) -> float | None:
        """None if the call may go; else the seconds after which to ask again."""
        number = str(list(Priority).index(priority) + 1)
        given = (number, number, who or uuid.uuid4().hex, f"{waited * 1000:.0f}", "1" if must else "")
        answer = governor._book.ask("take", self.bucket, *given, at=self.now)
        return None if answer[0] == "1" else float(answer[1])

    def goes(self, priority: Priority, **more) -> bool:
        return self.take(priority, **more) is None

    def leave(self, priority: Priority, who: str, *, waited: float) -> None:
        number = str(list(Priority).index(priority) + 1)
        governor._book.ask("leave", self.bucket, number, number, who, f"{waited * 1000:.0f}", at=self.now)

    def answer(self, what: str) -> float:
        """Tell of an answer, "throttled" or "went"; the rate after it."""
        return float(governor._book.ask(what, self.bucket, at=self.now)[2])

    def at_once(self, priority: Priority) -> int:
        """How many calls go now, one after the other."""
        number = 0
        while self.goes(priority, who="the last"):
            number += 1
        self.leave(priority, "the last", waited=0)
        return number

    def run(self, priority: Priority, seconds: float, *, allowed: float = 1e9) -> int:
        """Call as fast as it goes for so long, at an AWS that allows so many a second; how many it refused."""
        tokens, filled, refused, until_ = 5.0, self.now, 0, self.now + seconds
        waited, me = 0.0, uuid.uuid4().hex
        while self.now < until_:
            pause = self.take(priority, me, waited=waited)
            if pause is not None:
                self.now, waited = self.now + pause, waited + pause
                continue
            waited, me = 0.0, uuid.uuid4().hex
            tokens, filled = min(5.0, tokens + (self.now - filled) * allowed), self.now
            if tokens >= 1:
                tokens -= 1
                self.answer("went")
            else:
                refused += 1
                self.answer("throttled")
            self.now += 0.01
        return refused


@pytest.fixture
def steps(paced, bucket) -> Steps:
    return Steps(bucket)


def only(bucket: Bucket) -> governor.OperationUse:
    (found,) = [each for each in governor.use([bucket.account_id]) if each.operation == bucket.operation]
    return found


def counted(bucket: Bucket) -> governor.MinuteUse:
    """All minutes of an operation as one."""
    minutes = only(bucket).minutes
    names = [name for name in governor.MinuteUse.__slots__ if name != "at"]
    return governor.MinuteUse(minutes[0].at, **{name: sum(getattr(m, name) for m in minutes) for name in names})


# --- who goes first --------------------------------------------------------------------------------------------------


def test_polls_leave_two_fifths_of_a_bucket_and_runs_a_fifth(steps):
    assert steps.at_once(Priority.POLL) == 3
    assert steps.at_once(Priority.RUN) == 1
    assert steps.at_once(Priority.PERSON) == 3  # the last of them on credit
    assert not steps.goes(Priority.POLL)


def test_a_person_goes_on_credit_before_all_that_wait_already(steps):
    steps.at_once(Priority.POLL)
    for number in range(20):
        assert not steps.goes(Priority.POLL, who=f"poll {number}")
        assert not steps.goes(Priority.RUN, who=f"run {number}") or number == 0
    assert steps.goes(Priority.PERSON)
    assert steps.goes(Priority.PERSON)


def test_the_credit_has_a_bound_and_is_paid_back(steps):
    assert steps.at_once(Priority.PERSON) == 7  # five, and half of a bucket below nothing
    pause = steps.take(Priority.PERSON, "late")
    assert pause == pytest.approx(0.1, abs=0.01)
    steps.now += pause
    assert steps.goes(Priority.PERSON, who="late", waited=pause)
    steps.now += 0.9  # four and a half tokens, of which two and a half were owed
    assert not steps.goes(Priority.POLL, who="poll")
    steps.now += 0.3
    assert steps.goes(Priority.POLL, who="poll", waited=0.3)


def test_who_comes_later_does_not_overtake_those_of_its_class_who_wait(steps):
    steps.at_once(Priority.POLL)
    assert not steps.goes(Priority.POLL, who="first")
    steps.now += 0.2  # room for one
    assert not steps.goes(Priority.POLL, who="second")
    assert steps.goes(Priority.POLL, who="first", waited=0.2)


def test_a_run_does_not_wait_behind_polls(steps):
    steps.at_once(Priority.POLL)
    assert not steps.goes(Priority.POLL, who="poll")
    assert steps.goes(Priority.RUN)


def test_one_that_is_killed_while_it_waits_holds_nobody_up(steps):
    steps.at_once(Priority.POLL)
    assert not steps.goes(Priority.POLL, who="killed")
    steps.now += 3
    assert steps.goes(Priority.POLL)


@pytest.mark.parametrize("above", [Priority.PERSON, Priority.RUN])
def test_polls_do_not_starve_whatever_else_calls(steps, above):
    waited, gone = 0.0, 0
    for _ in range(400):  # 20 seconds, in which as many calls of others are made as there can be
        steps.at_once(above)
        if steps.goes(Priority.POLL, who="patient", waited=waited):
            gone, waited = gone + 1, 0.0
        steps.now, waited = steps.now + 0.05, waited + 0.05
    assert gone in (3, 4)


def test_as_many_go_as_the_rate_says_in_the_long_run(steps):
    refused = steps.run(Priority.POLL, 10, allowed=5.0)
    assert refused <= 2
    assert counted(steps.bucket).poll == pytest.approx(5 * 10, abs=10)


# --- what is learned -------------------------------------------------------------------------------------------------


def test_a_throttle_takes_the_rate_down_once_a_second_and_empties_the_bucket(steps):
    assert steps.answer("throttled") == pytest.approx(START * 0.7)
    assert steps.answer("throttled") == pytest.approx(START * 0.7)  # others that were on their way
    assert not steps.goes(Priority.POLL)
    steps.now += 1.1
    assert steps.answer("throttled") == pytest.approx(START * 0.49)
    assert counted(steps.bucket).throttled == 3


def test_the_rate_never_falls_below_one_call_in_two_seconds(steps):
    for _ in range(40):
        steps.now += 2
        steps.answer("throttled")
    assert only(steps.bucket).rate == 0.5


def test_the_rate_grows_to_the_ceiling_while_it_is_used(steps):
    assert steps.run(Priority.POLL, 30) == 0
    assert only(steps.bucket).rate == CEILING
    steps.run(Priority.POLL, 5)
    assert only(steps.bucket).rate == CEILING


def test_a_rate_that_nobody_uses_proves_nothing(steps):
    for _ in range(200):
        steps.now += 0.5
        assert steps.goes(Priority.POLL)
        steps.answer("went")
    assert only(steps.bucket).rate == START


def test_it_settles_below_what_aws_allows(steps):
    steps.run(Priority.POLL, 30, allowed=8.0)
    refused = steps.run(Priority.POLL, 120, allowed=8.0)
    assert refused <= 12  # of about 900
    assert 0.6 * 8 < only(steps.bucket).rate < 1.3 * 8


def test_lessons_tell_both_directions_and_are_few(steps):
    steps.answer("throttled")
    steps.run(Priority.POLL, 90)
    told = governor.lessons([steps.bucket.account_id], limit=500)
    mine = [each for each in reversed(told) if each.operation == steps.bucket.operation]
    assert (mine[0].before, mine[0].after) == (START, pytest.approx(3.5))
    assert mine[-1].after == CEILING
    assert all(up.after > up.before for up in mine[1:])
    assert len(mine) < 15
    assert governor.lessons(["999999999999"]) == []


def test_a_learned_rate_is_forgotten_after_an_idle_hour(steps, paced):
    steps.answer("throttled")
    key = steps.bucket.keys()[0]
    assert 3590 <= paced.ttl(key) <= 3600
    assert only(steps.bucket).learned_at is not None
    paced.pexpire(key, 1)
    until(lambda: not paced.exists(key))
    assert only(steps.bucket).rate == START
    assert only(steps.bucket).learned_at is None


def test_a_clock_put_back_stops_nothing(steps):
    steps.answer("throttled")
    steps.now -= 7200
    steps.answer("throttled")
    assert only(steps.bucket).rate == pytest.approx(START * 0.49)
    steps.now += 1.5
    assert steps.goes(Priority.POLL)


# --- what a person sets ----------------------------------------------------------------------------------------------


def test_a_persons_ceiling_holds_at_once_and_hides_what_was_learned(steps):
    place = (steps.bucket.account_id, steps.bucket.region, steps.bucket.operation)
    governor.set_ceiling(*place, 1.0)
    assert (only(steps.bucket).rate, only(steps.bucket).limit) == (1.0, 1.0)  # before its first call
    steps.run(Priority.RUN, 20)
    assert counted(steps.bucket).run == pytest.approx(20, abs=4)
    governor.set_ceiling(*place, None)
    assert (only(steps.bucket).rate, only(steps.bucket).ceiling, only(steps.bucket).limit) == (START, CEILING, None)


def test_a_persons_ceiling_may_lie_above_ours(steps):
    governor.set_ceiling(steps.bucket.account_id, steps.bucket.region, steps.bucket.operation, 40)
    steps.run(Priority.POLL, 60)
    assert only(steps.bucket).rate == 40


@pytest.mark.parametrize("wrong", [0, 0.09, -1, 1001, float("nan"), float("inf")])
def test_a_ceiling_that_is_none_is_refused(paced, wrong):
    with pytest.raises(ValueError, match=r"from 0\.1 to 1000"):
        governor.set_ceiling("111122223333", REGION, "ssm:StartSession", wrong)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_minutes_are_told_apart_and_old_ones_left_out(steps, paced):
    seconds, _ = paced.time()
    for ago in (130, 70, 61, 10, 1):
        steps.now = seconds - ago * 60
        steps.goes(Priority.RUN)
    steps.goes(Priority.POLL)
    told = only(steps.bucket).minutes
    assert [(each.run, each.poll) for each in told] == [(1, 0), (1, 1)]
    assert (told[1].at - told[0].at).total_seconds() == 9 * 60
    (longer,) = governor.use([steps.bucket.account_id], minutes=500)
    assert sum(each.run for each in longer.minutes) == 4  # 10 minutes ago has the place of 130 minutes ago


def test_only_the_accounts_asked_for_are_told(steps):
    steps.goes(Priority.RUN)
    assert governor.use(["999999999999"]) == []
    assert governor.use([]) == []


def test_keys_are_few_and_end_by_themselves(steps, paced):
    steps.at_once(Priority.POLL)
    steps.take(Priority.POLL, "waiting")
    steps.answer("throttled")
    for _ in range(300):
        steps.now += 61
        steps.answer("throttled")
        steps.goes(Priority.RUN)
    governor.set_ceiling(steps.bucket.account_id, steps.bucket.region, steps.bucket.operation, 2)
    keys = paced.keys("*")
    assert len(keys) <= 5 + 3
    assert all(paced.ttl(key) > 0 for key in keys)
    assert paced.llen(f"fleetops:governor:{steps.bucket.account_id}:lessons") <= 100
    assert paced.hlen(steps.bucket.keys()[1]) <= 120


def test_who_waits_now_is_told(steps, paced):
    steps.now = paced.time()[0]
    steps.at_once(Priority.PERSON)
    steps.take(Priority.POLL, "one")
    steps.take(Priority.POLL, "two")
    steps.take(Priority.PERSON, "three")
    assert only(steps.bucket).waiting == {Priority.PERSON: 1, Priority.RUN: 0, Priority.POLL: 2}
    steps.leave(Priority.POLL, "one", waited=1.5)
    assert only(steps.bucket).waiting[Priority.POLL] == 1
    assert (counted(steps.bucket).waited, counted(steps.bucket).waited_ms) == (1, 1500)


_STEP = st.tuples(
    st.sampled_from(["person", "run", "poll", "must", "throttled", "went", "leave"]),
    st.floats(0, 5, allow_nan=False),
    st.integers(0, 3),
    st.floats(0, 20, allow_nan=False),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STEP, max_size=60), st.one_of(st.none(), st.floats(0.1, 1000)))
def test_whatever_happens_tokens_and_rate_stay_within_their_bounds(broker, plan, limit):
    governor.configure(broker)
    steps = Steps(Bucket("111122223333", REGION, f"ssm:Op{uuid.uuid4().hex}"))
    if limit is not None:
        governor.set_ceiling(steps.bucket.account_id, REGION, steps.bucket.operation, limit)
    ceiling = CEILING if limit is None else limit
    gone = 1
    steps.goes(Priority.RUN)
    for what, passed, who, waited in plan:
        steps.now += passed
        if what in ("throttled", "went"):
            steps.answer(what)
        elif what == "leave":
            steps.leave(Priority.POLL, f"caller {who}", waited=waited)
        else:
            priority = Priority.PERSON if what == "must" else Priority(what)
            gone += steps.goes(priority, who=f"caller {who}", waited=waited, must=what == "must")
        told = only(steps.bucket)
        assert min(0.5, ceiling, START) - 1e-6 <= told.rate <= ceiling + 1e-6
        tokens = float(governor._book.client.hget(steps.bucket.keys()[0], "tokens"))
        most = max(3.0, CEILING if limit is None else ceiling)
        assert -most / 2 - 1e-6 <= tokens <= most + 1e-6
    told = counted(steps.bucket)
    assert told.person + told.run + told.poll == gone
    governor.configure("")


# --- calls -----------------------------------------------------------------------------------------------------------


def test_every_call_is_counted_for_whom_it_is_made_and_assume_role_with_it(access, paced):
    sts.get_caller_identity(access, REGION, session_name="maria")
    with governor.acting_for(Priority.POLL):
        list(ssm.instance_pages(access, REGION, session_name="poller"))
    # Of all minutes: the next one may begin between two calls.
    told = {each.operation: each.minutes for each in governor.use([access.account_id])}
    assert set(told) == {"sts:AssumeRole", "sts:GetCallerIdentity", "ssm:DescribeInstanceInformation"}
    counted = {name: (sum(m.person for m in each), sum(m.poll for m in each)) for name, each in told.items()}
    assert (counted["sts:GetCallerIdentity"][0], counted["ssm:DescribeInstanceInformation"][1]) == (1, 1)
    assert counted["sts:AssumeRole"] == (1, 1)
    assert all(minute.waited == 0 for each in told.values() for minute in each)


def test_a_call_is_signed_after_it_has_waited(access, paced):
    client = clients.client("ssm", access, REGION, session_name="maria")
    order = []
    client.meta.events.register_first(
        "before-sign.ssm", lambda **_: order.append(counted(Bucket(access.account_id, REGION, "ssm:DescribeSessions")))
    )
    client.describe_sessions(State="Active")
    assert [each.person for each in order] == [1]


def test_an_assume_role_for_a_poll_queues_as_a_persons_does(access, paced):
    role = Steps(Bucket(access.account_id, REGION, "sts:AssumeRole"))
    role.now = paced.time()[0]
    while role.goes(Priority.POLL):
        pass
    with governor.acting_for(Priority.POLL):
        sts.get_caller_identity(access, REGION, session_name="poller")
    assert counted(role.bucket).waited == 0


def test_each_throttled_attempt_is_learned_from_also_one_that_botocore_repeats(access, endpoint, paced):
    with Faults(endpoint.handover).on("throttle", match={"operation": "DescribeSessions"}, rate=0.01, burst=1, times=2):
        for _ in range(2):
            list(ssm.describe_sessions(access, REGION, session_name="maria"))  # nobody is told of a throttle
    told = only(Bucket(access.account_id, REGION, "ssm:DescribeSessions"))
    assert sum(each.throttled for each in told.minutes) == 2
    assert sum(each.person for each in told.minutes) == 4
    assert told.rate < START
    assert told.learned_at is not None


def test_a_poll_that_has_waited_long_enough_is_told_so_and_its_place_is_free(bucket, paced, monkeypatch):
    monkeypatch.setitem(governor.BOUND_SECONDS, Priority.POLL, 0.3)
    governor.set_ceiling(bucket.account_id, REGION, bucket.operation, 0.1)
    with governor.acting_for(Priority.POLL):
        governor.pace(bucket, {})
        with pytest.raises(Unavailable, match=r"Other calls of ssm:Op\w+ in 111122223333 .* tried again") as refused:
            governor.pace(bucket, {})
            governor.pace(bucket, {})
    assert refused.value.is_paced
    assert not refused.value.is_outcome_unknown
    assert only(bucket).waiting[Priority.POLL] == 0
    assert counted(bucket).poll_waited == 1


def test_a_repeated_attempt_does_not_wait_anew_for_the_whole_time(bucket, paced, monkeypatch):
    monkeypatch.setitem(governor.BOUND_SECONDS, Priority.POLL, 0.3)
    governor.set_ceiling(bucket.account_id, REGION, bucket.operation, 0.1)
    call = {"fleetops_waited": 0.3, "retries": {"attempt": 2}}
    with governor.acting_for(Priority.POLL), pytest.raises(Unavailable) as refused:
        for _ in range(3):
            governor.pace(bucket, call)
    assert refused.value.is_outcome_unknown  # the first attempt may have got through
    assert counted(bucket).waited == 0


def test_a_person_goes_after_a_short_wait_in_any_case(bucket, paced, monkeypatch):
    monkeypatch.setitem(governor.BOUND_SECONDS, Priority.PERSON, 0.2)
    governor.set_ceiling(bucket.account_id, REGION, bucket.operation, 0.1)
    for _ in range(6):
        governor.pace(bucket, {})
    assert (counted(bucket).person, counted(bucket).person_waited) == (6, 2)
    assert only(bucket).waiting[Priority.PERSON] == 0


def test_no_lock_is_held_while_a_call_waits(access, paced, monkeypatch):
    monkeypatch.setitem(governor.BOUND_SECONDS, Priority.PERSON, 0.1)
    for operation in ("sts:AssumeRole", "sts:GetCallerIdentity"):
        governor.set_ceiling(access.account_id, REGION, operation, 0.1)
        bucket = Bucket(access.account_id, REGION, operation)
        for _ in range(5):
            governor.pace(bucket, {})
    free = []
    sleep = governor.time.sleep

    def look(seconds):
        free.append(clients._lock.acquire(blocking=False))
        if free[-1]:
            clients._lock.release()
        sleep(seconds)

    monkeypatch.setattr(governor.time, "sleep", look)
    sts.get_caller_identity(access, REGION, session_name="maria")
    assert len(free) >= 2
    assert all(free)


def test_whoever_waits_when_the_process_ends_is_told_so(bucket, paced):
    governor.set_ceiling(bucket.account_id, REGION, bucket.operation, 0.1)
    told = []

    def poll():
        with governor.acting_for(Priority.POLL):
            try:
                for _ in range(5):
                    governor.pace(bucket, {})
            except Unavailable as error:
                told.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    until(lambda: only(bucket).waiting[Priority.POLL], what="a poll waits")
    governor.stop()
    thread.join(10)
    assert "FleetOps is stopping" in str(told[0])
    governor.pace(bucket, {})  # a person still goes
    assert only(bucket).waiting[Priority.POLL] == 0


def test_a_stop_reaches_the_processes_that_were_forked_before_it(bucket, paced):
    pid = os.fork()
    if pid == 0:
        for _ in range(200):
            if governor._ending[0]:
                os._exit(7)
            governor.time.sleep(0.05)
        os._exit(1)
    governor.stop()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# --- without Valkey --------------------------------------------------------------------------------------------------


def test_without_a_valkey_nothing_is_paced_and_nothing_is_told(bucket):
    governor.configure("")
    for _ in range(50):
        governor.pace(bucket, {})
    with pytest.raises(Unavailable, match="not paced"):
        governor.use(["111122223333"])


def test_a_valkey_that_is_killed_paces_nothing_is_asked_once_and_said_once(bucket, tmp_path, caplog, monkeypatch):
    with running_valkey(tmp_path / "killed") as socket:
        governor.configure(f"unix://{socket}?db=3")
        governor.pace(bucket, {})
        assert counted(bucket).person == 1
    moment = [1000.0]
    monkeypatch.setattr(governor, "monotonic", lambda: moment[0])
    asked = []
    monkeypatch.setattr(governor._book, "_script", _counting(governor._book._script, asked))
    before = governor.metrics.AWS_UNPACED._value.get()
    caplog.set_level("INFO", logger="fleetops.aws.governor")
    for _ in range(50):
        governor.pace(bucket, {})
        governor.learn(bucket, {}, "ThrottlingException")
    assert len(asked) == 1
    moment[0] += 6
    governor.pace(bucket, {})
    assert len(asked) == 2
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert governor.metrics.AWS_UNPACED._value.get() == before + 51
    with pytest.raises(Unavailable, match="does not answer"):
        governor.use([bucket.account_id])
    with pytest.raises(Unavailable, match="does not answer"):
        governor.set_ceiling(bucket.account_id, REGION, bucket.operation, 3)
    moment[0] += 6
    with running_valkey(tmp_path / "killed"):
        governor.pace(bucket, {})
        assert counted(bucket).person == 1
        governor.configure("")
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]


def _counting(script, asked):
    def ask(**given):
        asked.append(given)
        return script(**given)

    return ask


def test_a_valkey_that_hangs_is_not_waited_for_by_each_call(bucket, tmp_path, monkeypatch):
    with running_valkey(tmp_path / "hangs") as socket:
        governor.configure(f"unix://{socket}?db=3")
        governor.pace(bucket, {})
        pid = int(redis.Redis(unix_socket_path=str(socket)).info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            asked = []
            monkeypatch.setattr(governor._book, "_script", _counting(governor._book._script, asked))
            monkeypatch.setattr(governor, "monotonic", lambda: 1000.0)
            for _ in range(50):
                governor.pace(bucket, {})
            assert len(asked) == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        governor.configure("")


# --- processes -------------------------------------------------------------------------------------------------------

_OTHER = """
import json, sys
from fleetops.aws import governor
governor.configure(sys.argv[1])
bucket = governor.Bucket(*json.loads(sys.argv[2]))
with governor.acting_for(governor.Priority.POLL):
    for _ in range(int(sys.argv[3])):
        governor.pace(bucket, {})
print(json.dumps([each.poll for use in governor.use([bucket.account_id]) for each in use.minutes]))
"""


def test_two_processes_share_one_bucket(paced, broker, bucket):
    told = json.dumps([bucket.account_id, bucket.region, bucket.operation])
    command = [sys.executable, "-c", _OTHER, broker, told, "8"]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "fleetops.settings"}
    others = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for other in others:
        assert other.wait(60) == 0
        other.stdout.close()
    seen = counted(bucket)
    assert seen.poll == 16
    # 3 of a bucket go at once, and either process alone would have had 3 of its own.
    assert seen.waited >= 9
