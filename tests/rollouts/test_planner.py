"""The planner alone: what it decides from facts, and that no order of replies, pauses and retries breaks its limits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.rollouts.planner import Candidate, RunFacts, WaveFacts, next_step, pick
from fleetops.rollouts.states import GateState, RunState, WaveState

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def wave(**facts) -> WaveFacts:
    return WaveFacts(**{"position": 1, "state": WaveState.RUNNING, "queued": 10} | facts)


def run(*waves: WaveFacts, **facts) -> RunFacts:
    return RunFacts(**{"state": RunState.RUNNING, "concurrency": 4, "budget": 2} | facts, waves=waves or (wave(),))


def test_the_room_is_the_least_of_all_limits():
    assert next_step(run(), NOON).room == 4
    assert next_step(run(wave(undecided=3)), NOON).room == 1
    assert next_step(run(wave(undecided=2, returning=1)), NOON).room == 1  # who is brought back is out of service
    assert next_step(run(wave(concurrency=2)), NOON).room == 2
    assert next_step(run(wave(), wave(position=2, state=WaveState.PENDING, undecided=3)), NOON).room == 1


def test_a_budget_stops_at_the_failure_that_it_does_not_bear():
    assert next_step(run(wave(failed=2)), NOON).room == 4
    stopped = next_step(run(wave(failed=3, undecided=1)), NOON)
    assert stopped.stop == "3 targets failed, and the run's budget bears 2." and stopped.fail == 1
    of_wave = next_step(run(wave(failed=1, budget=0)), NOON)
    assert of_wave.stop == "1 target failed in wave 1, and its budget bears 0."
    assert not next_step(run(wave(failed=3, accepted=1)), NOON).stop  # a person rolled forward over one


def test_a_strict_budget_lets_out_what_it_has_left_and_one():
    assert next_step(run(is_strict=True), NOON).room == 3
    assert next_step(run(wave(undecided=1, failed=1), is_strict=True), NOON).room == 1
    assert next_step(run(wave(undecided=1, returning=1, failed=1), is_strict=True), NOON).room == 1
    assert next_step(run(wave(undecided=1), budget=0, is_strict=True), NOON).room == 0


def test_the_next_wave_waits_for_the_soak_and_the_gates_of_the_one_before():
    after = wave(position=2, state=WaveState.PENDING)
    done = wave(queued=0, succeeded=10, soak_seconds=60, gates=((GateState.PENDING, ""),))
    assert next_step(run(done, after), NOON).soak == 1
    soaking = replace(done, state=WaveState.SOAKING, soak_until=NOON + timedelta(seconds=60))
    decision = next_step(run(soaking, after), NOON)
    assert not decision.moves and decision.at == NOON + timedelta(seconds=60) and "soak" in decision.waits_for
    assert next_step(run(soaking, after), NOON + timedelta(seconds=60)).ask == 1
    gated = replace(done, state=WaveState.GATED, gates=((GateState.WAITING, "Waits for administrator."),))
    assert next_step(run(gated, after), NOON).waits_for == "Waits for administrator."
    assert next_step(run(replace(gated, gates=((GateState.OVERRULED, ""),)), after), NOON).succeed == 1
    no = replace(gated, gates=((GateState.PASSED, ""), (GateState.FAILED, "Denied by mei.")))
    assert next_step(run(no, after), NOON).stop == "A gate of wave 1 says no: Denied by mei."
    assert next_step(run(replace(done, state=WaveState.SUCCEEDED), after), NOON).start == 2


def test_an_alarm_that_rings_ends_a_soak_at_once():
    soaking = wave(queued=0, state=WaveState.SOAKING, soak_until=NOON + timedelta(hours=1))
    assert next_step(run(replace(soaking, gates=((GateState.FAILED, "It rings."),))), NOON).stop


def test_a_wave_that_nothing_was_done_in_does_not_soak():
    assert next_step(run(wave(queued=0, soak_seconds=60)), NOON).succeed == 1


def test_nothing_is_sent_before_the_start_nor_in_the_cut_off_before_the_end():
    early = next_step(run(wave(state=WaveState.PENDING), starts_at=NOON + timedelta(hours=1)), NOON)
    assert not early.moves and early.at == NOON + timedelta(hours=1)
    end = NOON + timedelta(minutes=20)
    held = next_step(run(ends_by=end, cutoff=timedelta(minutes=30)), NOON)
    assert held.room == 0 and held.may_send  # what has begun goes on
    assert next_step(run(ends_by=end, cutoff=timedelta(minutes=10)), NOON).room == 4
    over = next_step(run(wave(undecided=1), ends_by=end), end)
    assert not over.moves and not over.may_send
    assert next_step(run(ends_by=end), end).end == RunState.FAILED


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.STOPPED, RunState.ABORTING, RunState.DRAFT])
def test_only_a_run_that_runs_sends(state):
    decision = next_step(run(wave(undecided=1), state=state), NOON)
    assert decision.room == 0 and not decision.may_send and not decision.moves


def test_an_aborted_run_ends_when_nothing_is_out_any_more():
    assert next_step(run(wave(queued=0), state=RunState.ABORTING), NOON).end == RunState.ABORTED


def test_a_run_ends_well_only_if_all_of_its_targets_did():
    done = wave(queued=0, state=WaveState.SUCCEEDED)
    assert next_step(run(replace(done, succeeded=3)), NOON).end == RunState.SUCCEEDED
    assert next_step(run(replace(done, succeeded=3, failed=1)), NOON).end == RunState.FAILED
    assert next_step(run(replace(done, succeeded=3, cancelled=1)), NOON).end == RunState.FAILED


def test_what_is_freed_is_gathered():
    soon = NOON + timedelta(seconds=3)
    assert next_step(run(wave(undecided=1), sends_at=soon), NOON).at == soon
    assert next_step(run(wave(undecided=0), sends_at=soon), NOON).room == 4  # nothing is out: nothing will be freed


def test_who_is_held_or_finds_no_place_waits_and_others_go():
    picked = pick(
        [
            Candidate("a", free={"db": [1]}),
            Candidate("b", free={"db": [1]}),
            Candidate("c", held="Held: frozen.", until=NOON),
            Candidate("d"),
            Candidate("e"),
        ],
        2,
    )
    assert picked.going == {"a": {"db": 1}, "d": {}}
    assert picked.waiting == {"b": "Waits for a place in db.", "c": "Held: frozen."} and picked.at == NOON


def test_of_two_clusters_both_have_to_have_a_place():
    picked = pick([Candidate(1, free={"x": [0], "y": []}), Candidate(2, free={"x": [0]})], 5)
    assert picked.going == {2: {"x": 0}}  # the first took nothing of x


# --- a simulated fleet -----------------------------------------------------------------------------------------------


class Target:
    def __init__(self, name, cluster):
        self.name, self.cluster = name, cluster
        self.state = "queued"  # queued, out, returning, failed, succeeded
        self.is_bad = False
        self.slot = None


class Simulated:
    """One run over targets in memory; each step is what one transaction would do."""

    def __init__(self, fleet, targets, random, now):
        self.fleet, self.random = fleet, random
        sizes = [random.randint(1, 4) for _ in range(3)]
        self.waves = [targets[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(3)]
        self.waves = [each for each in [*self.waves, targets[sum(sizes) :]] if each]
        self.states = [WaveState.PENDING] * len(self.waves)
        self.accepted = [0] * len(self.waves)
        self.state = RunState.RUNNING
        self.concurrency = random.randint(1, 5)
        self.budget = random.randint(0, 3)
        self.is_strict = random.random() < 0.5
        self.of_wave = [(random.choice([None, 1, 2]), random.choice([None, 0, 1, 2])) for _ in self.waves]
        self.soak = random.choice([0, 30])
        self.soak_until = [None] * len(self.waves)
        self.sends_at = None
        self.may_send = False
        self.steered = False  # a person let more fail than the budget says

    @property
    def targets(self):
        return [target for each in self.waves for target in each]

    def facts(self):
        waves = []
        for number, members in enumerate(self.waves):
            count = {state: sum(each.state == state for each in members) for state in ("queued", "out", "returning")}
            at_once, budget = self.of_wave[number]
            failed = sum(each.state == "failed" or (each.state == "returning" and each.is_bad) for each in members)
            waves.append(
                WaveFacts(
                    number + 1,
                    self.states[number],
                    queued=count["queued"],
                    undecided=count["out"],
                    returning=count["returning"],
                    failed=failed,
                    succeeded=sum(each.state == "succeeded" for each in members),
                    concurrency=at_once,
                    budget=budget,
                    accepted=self.accepted[number],
                    soak_seconds=self.soak,
                    soak_until=self.soak_until[number],
                )
            )
        return RunFacts(
            self.state,
            tuple(waves),
            self.concurrency,
            self.budget,
            is_strict=self.is_strict,
            sends_at=self.sends_at,
        )

    def step(self, now):
        for _ in range(50):
            facts = self.facts()
            decision = next_step(facts, now)
            if decision.stop:
                self.state = RunState.STOPPED
                if decision.fail:
                    self.states[decision.fail - 1] = WaveState.FAILED
            elif decision.end:
                self.state = decision.end
            elif decision.start:
                self.states[decision.start - 1] = WaveState.RUNNING
            elif decision.soak:
                self.states[decision.soak - 1] = WaveState.SOAKING
                self.soak_until[decision.soak - 1] = now + timedelta(seconds=self.soak)
            elif decision.succeed:
                self.states[decision.succeed - 1] = WaveState.SUCCEEDED
            elif decision.room:
                if not self.send(self.waves[decision.wave - 1], decision.room, facts):
                    return
                self.sends_at = now + timedelta(seconds=3)
            else:
                return

    def send(self, members, room, facts):
        used = self.fleet.used()
        waiting = [each for each in members if each.state == "queued"]
        free = {
            cluster: [n for n in range(most) if n not in used[cluster]] for cluster, most in self.fleet.most.items()
        }
        picked = pick([Candidate(each, free={each.cluster: free[each.cluster]}) for each in waiting], room)
        assert facts.state == RunState.RUNNING and facts.counted <= facts.budget, "sent after the budget was spent"
        for target, slots in picked.going.items():
            assert target.state == "queued", "sent twice"
            assert slots[target.cluster] not in self.fleet.used()[target.cluster], "a slot was given twice"
            target.state, target.slot, target.is_bad = "out", slots[target.cluster], False
        return bool(picked.going)

    def out(self):
        return [each for each in self.targets if each.state in {"out", "returning"}]

    def check(self):
        assert len(self.out()) <= self.concurrency
        for members, (at_once, _) in zip(self.waves, self.of_wave, strict=True):
            assert at_once is None or sum(each.state in {"out", "returning"} for each in members) <= at_once
        if self.is_strict and not self.steered:
            budgets = [(self.targets, self.budget), *zip(self.waves, [each for _, each in self.of_wave], strict=True)]
            for members, budget in budgets:
                failed = sum(each.state == "failed" or each.is_bad for each in members)
                undecided = sum(each.state == "out" for each in members)
                assert budget is None or failed + undecided <= budget + 1 or not undecided
                assert budget is None or failed <= budget + 1


class Fleet:
    """Runs that share clusters."""

    def __init__(self, random):
        self.random, self.now = random, NOON
        self.most = {cluster: random.randint(1, 2) for cluster in ("db", "web", "queue")}
        self.runs = [
            Simulated(self, [Target(f"{n}-{m}", random.choice(list(self.most))) for m in range(9)], random, self.now)
            for n in range(2)
        ]

    def used(self):
        held = {cluster: set() for cluster in self.most}
        for each in (target for run in self.runs for target in run.out()):
            held[each.cluster].add(each.slot)
        return held

    def act(self):
        run, random = self.random.choice(self.runs), self.random
        self.now += timedelta(seconds=random.choice([0, 1, 5, -2, 40]))  # also clocks that go back
        out = [each for each in run.targets if each.state == "out"]
        returning = [each for each in run.targets if each.state == "returning"]
        match random.randrange(10):
            case 0 | 1 | 2:
                run.step(self.now)
            case 3 | 4 | 5 if out:
                target = random.choice(out)
                target.state, target.is_bad = "returning", random.random() < 0.3
            case 6 if returning:
                target = random.choice(returning)
                target.state = "failed" if target.is_bad else "succeeded"
            case 7 if run.state == RunState.RUNNING:
                run.state = RunState.PAUSED
            case 8 if run.state == RunState.PAUSED:
                run.state = RunState.RUNNING
            case 9 if run.state == RunState.STOPPED:
                self.steer(run)
        for each in self.runs:
            each.check()
        for cluster, slots in self.used().items():
            assert len(slots) <= self.most[cluster]
            assert len(slots) == sum(t.cluster == cluster for r in self.runs for t in r.out())

    def steer(self, run):
        if self.random.random() < 0.5:
            for target in run.targets:
                if target.state == "failed":
                    target.state, target.is_bad = "queued", False
        run.accepted = [wave.failed for wave in run.facts().waves]  # rolls forward over the others
        run.states = [WaveState.RUNNING if each == WaveState.FAILED else each for each in run.states]
        for number, members in enumerate(run.waves):
            if any(each.state == "queued" for each in members) and run.states[number] == WaveState.SUCCEEDED:
                run.states[number] = WaveState.RUNNING
        run.state, run.steered = RunState.RUNNING, True

    def finish(self):
        """Everybody answers well, and people let every run go on."""
        for _ in range(400):
            self.now += timedelta(seconds=45)
            for run in self.runs:
                for target in run.out():
                    target.state = "failed" if target.is_bad else "succeeded"
                if run.state == RunState.PAUSED:
                    run.state = RunState.RUNNING
                if run.state == RunState.STOPPED:
                    self.steer(run)
                run.step(self.now)
            if all(run.state in {RunState.SUCCEEDED, RunState.FAILED} for run in self.runs):
                return
        raise AssertionError("it never ends")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_no_order_of_replies_pauses_and_retries_breaks_a_limit_or_leaves_a_target_out(seed):
    fleet = Fleet(Random(seed))
    for _ in range(120):
        fleet.act()
    fleet.finish()
    for each in fleet.runs:
        assert {target.state for target in each.targets} <= {"succeeded", "failed"}, "somebody was left out"
        assert (each.state == RunState.SUCCEEDED) == all(target.state == "succeeded" for target in each.targets)
