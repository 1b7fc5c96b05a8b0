"""The engine over real rows, in any order: replies, workers that die at any line, pauses, retries, concurrent runs.

What must hold after each of them: no limit is broken, nothing is sent twice while AWS has it, nothing after the budget
is spent, and in the end nobody was left out.
"""

from collections import Counter
from random import Random

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops.errors import UserError
from fleetops.rollouts import advancing, clusters, evidence, limits, sending, steering
from fleetops.rollouts.models import ClusterRule, ClusterSlot, Run, RunTarget
from fleetops.rollouts.states import IN_FLIGHT
from fleetops.runcommand import orders
from fleetops.runcommand.models import Invocation
from fleetops.transitions import move

from .fleet import Aws, look, make_fleet, make_owner, make_run

pytestmark = pytest.mark.django_db

MOST_OUT = {"db": 1, "web": 2}


class Killed(BaseException):
    """The worker is gone at this line."""


class Undone(BaseException):
    """Ends an example, and with it its rows."""


class Play:
    """Two runs that share clusters, and everything that may happen to them."""

    def __init__(self, random, owner, monkeypatch):
        self.random, self.owner, self.patch, self.aws = random, owner, monkeypatch, Aws()
        fleet = make_fleet(12, tags={n: {"cluster": random.choice(["db", "web"])} for n in range(1, 10)})
        for value, most in MOST_OUT.items():
            ClusterRule.objects.create(tag="cluster", values=value, most_out=most)
        self.runs = [self.start(fleet[:6]), self.start(fleet[6:])]
        self.steered: set = set()

    def start(self, fleet):
        random, cut = self.random, self.random.randint(1, 4)
        steps = {name: [{"document": name}] for name in ("drain", "undrain", "probe") if random.random() < 0.5}
        return make_run(
            self.owner,
            [fleet[:cut], fleet[cut:]],
            concurrency=random.choice(["1", "2", "50%", "100%"]),
            budget=random.choice(["0", "1", "2"]),
            is_strict=random.random() < 0.5,
            wave_facts={2: {"concurrency": random.choice(["", "1", "3"]), "budget": random.choice(["", "0", "1"])}},
            steps_before=steps.get("drain", []),
            steps_after=steps.get("undrain", []),
            probes=steps.get("probe", []),
        )

    def act(self):
        random, run = self.random, self.random.choice(self.runs)
        choice = random.randrange(12)
        if choice < 4:
            self.look(run)
        elif choice == 4:
            self.die(run)
        elif choice == 5:
            self.aws.take()
        elif choice < 10 and (open_ := self.aws.open()):
            each = random.choice(open_)
            unwell = [("failed", "Failed"), ("timed_out", "DeliveryTimedOut"), ("cancelled", "Cancelled")]
            self.aws.answer(each, *(random.choice(unwell) if random.random() < 0.2 else ("succeeded", "")))
        elif choice == 10:
            self.steer(run)
        self.check()

    def look(self, run):
        before = set(Invocation.objects.values_list("pk", flat=True))
        look(run)
        made = Invocation.objects.exclude(pk__in=before).filter(command__origin=f"rollouts:{run.pk}")
        sent = made.filter(command__document_name__in=["say-it", "drain"]).exclude(state="cancelled")
        assert not sent.exists() or run.state == "running", "sent by a run that does not run"

    def die(self, run):
        """A worker dies at one of many lines: before its commit, so that nothing of its look stands."""
        where, name = self.random.choice(
            [
                (evidence, "take"),
                (sending, "carry_on"),
                (orders, "place"),
                (clusters, "take"),
                (clusters, "release"),
                (advancing, "_set_due"),
                (advancing, "record"),
            ]
        )
        real, left = getattr(where, name), self.random.randint(0, 2)

        def work(*args, **options):
            nonlocal left
            left -= 1
            answer = real(*args, **options)
            if left < 0:
                raise Killed
            return answer

        with self.patch.context() as patch:
            patch.setattr(where, name, work)
            try:
                look(run)
            except Killed:
                run.refresh_from_db()

    def steer(self, run):
        deed = self.random.choice(["pause", "resume", "retry", "forward", "skip"])
        try:
            match deed:
                case "pause":
                    steering.pause(run, actor=self.owner)
                case "resume":
                    steering.resume(run, actor=self.owner)
                case "retry":
                    steering.retry_failed(run, actor=self.owner)
                case "forward":
                    steering.roll_forward(run, actor=self.owner, reason="go on")
                case "skip":
                    target = self.random.choice(list(run.targets.all()))
                    steering.skip_target(target, actor=self.owner, reason="leave it")
            self.steered |= {run.pk} if deed != "pause" else set()
        except UserError:
            pass  # told in words, and nothing is done

    def check(self):
        for run in [Run.objects.get(pk=each.pk) for each in self.runs]:
            rows = list(run.targets.select_related("wave"))
            out = [each for each in rows if each.state in IN_FLIGHT]
            assert len(out) <= limits.concurrency(run.concurrency, len(rows))
            for wave in run.waves.exclude(concurrency=""):
                assert sum(each.wave_id == wave.pk for each in out) <= int(wave.concurrency)
            failed = [each for each in rows if each.state == "failed" or each.outcome == "bad"]
            if run.is_strict and run.pk not in self.steered:
                assert len(failed) <= int(run.budget) + 1
            open_ = Invocation.objects.filter(
                command__origin=f"rollouts:{run.pk}", state__in=["planned", "pending", "running"]
            )
            twice = [each for each, count in Counter(open_.values_list("instance_id", flat=True)).items() if count > 1]
            assert not twice, "sent while AWS has the one before"
            if run.state in {"stopped", "paused"}:
                unsent = open_.filter(state="planned", command__document_name="say-it")
                assert not unsent.exists(), "what had not gone was not called back"
        held = Counter(ClusterSlot.objects.values_list("cluster", flat=True))
        assert all(count <= MOST_OUT[cluster.partition("=")[2]] for cluster, count in held.items())
        away = RunTarget.objects.filter(state__in=list(IN_FLIGHT), instance_row__tags__has_key="cluster")
        assert sum(held.values()) == away.count(), "a slot without its target, or a target without its slot"

    def finish(self):
        """Everything answers well, and people let every run go on."""
        for _ in range(80):
            for run in self.runs:
                run.refresh_from_db()
                if run.state in {"paused", "stopped"}:
                    for deed in (steering.resume, steering.retry_failed):
                        try:
                            deed(run, actor=self.owner)
                            break
                        except UserError:
                            continue
                look(run)
            self.check()
            self.aws.take().answer_all()
            if all(run.is_over for run in self.runs):
                break
        for run in self.runs:
            assert run.is_over, f"{run.state} {run.waits_for} {list(run.targets.values_list('state', 'reason'))}"
            ends = set(run.targets.values_list("state", flat=True))
            assert ends <= {"succeeded", "failed", "skipped"}, "somebody was left out"
        assert not ClusterSlot.objects.exists()


def play(seed, owner, monkeypatch, acts):
    try:
        with transaction.atomic():
            one = Play(Random(seed), owner, monkeypatch)
            one.check()
            for _ in range(acts):
                one.act()
            one.finish()
            raise Undone
    except Undone:
        pass


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_no_order_of_events_breaks_a_limit_sends_twice_or_leaves_a_target_out(seed, owner, monkeypatch):
    play(seed, owner, monkeypatch, acts=35)


@pytest.mark.long
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.timeout(1800)
def test_the_same_for_long(seed, owner, monkeypatch):
    play(seed, owner, monkeypatch, acts=90)


@pytest.fixture
def owner(roles):
    return make_owner(roles)


def test_of_two_moves_of_one_row_one_is_lost(owner):
    from fleetops.rollouts.states import TARGET_MOVES
    from fleetops.transitions import LostRace

    run = make_run(owner, [make_fleet(1)])
    one, other = run.targets.get(), run.targets.get()
    move(one, "sent", TARGET_MOVES)
    with pytest.raises(LostRace):
        move(other, "sent", TARGET_MOVES)
