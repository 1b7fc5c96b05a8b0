"""Leases over real rows in any order: begin, end, extend, detach, changes behind our back, crashes, refusals, time.

What must hold at every quiet moment: AWS holds what the open leases say, else what was there before; or a change that
somebody else made is reported, and AWS still holds it. What nobody else changed never waits for a person.
"""

from datetime import timedelta
from random import Random

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops import clock
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.roles import reconcile, services
from fleetops.roles.models import Holding, RoleAttachment, RoleFinding, RoleRule
from fleetops.roles.services import Wish
from tests.factories import make_instance, make_user

from .aws import Ec2, denied, killed, lost, throttled
from .conftest import CORE, DATA, OTHER, loop

pytestmark = pytest.mark.django_db

PROFILES = ("", CORE, DATA, OTHER)
CALLS = ("associations", "associate", "replace", "disassociate")


class Undone(BaseException):
    """Ends an example, and with it its rows."""


class Play:
    """Two instances, two people, somebody at the console, and an AWS that fails now and then."""

    def __init__(self, random: Random, monkeypatch, file) -> None:
        self.random, self.file, self.aws = random, file, Ec2(monkeypatch)
        self.people = [make_user(role="administrator") for _ in range(2)]
        self.instances = [make_instance(profile_arn=random.choice(PROFILES)) for _ in range(2)]
        for each in self.instances:
            self.aws.put(each.instance_id, each.profile_arn)
        self.log: list[str] = []

    def turn(self) -> None:
        deeds = [self.ask, self.ask, self.end, self.extend, self.console, self.fault, self.fault, self.time]
        deeds += [self.work, self.work, self.work, self.decide, self.inventory]
        deed = self.random.choice(deeds)
        self.log.append(deed.__name__)
        deed()

    def ask(self) -> None:
        arn, minutes = self.random.choice(PROFILES), self.random.choice([None, 3, 10])
        wish = Wish(arn, minutes)
        try:
            services.ask(self.pick(), wish, actor=self.random.choice(self.people), cut_off_accepted=True)
        except UserError:
            self.log.append("refused")

    def pick(self):
        found = self.random.choice(self.instances)
        found.refresh_from_db()
        return found

    def lease(self) -> RoleAttachment | None:
        rows = RoleAttachment.objects.open().leases().select_related("instance__account", "instance__region")
        return self.random.choice(list(rows) or [None])

    def end(self) -> None:
        if lease := self.lease():
            services.end(lease, actor=lease.asked_by)

    def extend(self) -> None:
        if lease := self.lease():
            try:
                services.extend(lease, minutes=self.random.choice([5, 20]), actor=lease.asked_by)
            except UserError:
                self.log.append("refused")

    def console(self) -> None:
        self.aws.put(self.pick().instance_id, self.random.choice(PROFILES))

    def fault(self) -> None:
        place = f"{self.random.choice(CALLS)} {self.random.choice(['before', 'after'])}"
        rival = lambda: self.console()  # noqa: E731
        self.aws.at[place] = self.random.choice([killed, throttled, denied, lost, rival])

    def time(self) -> None:
        clock.set_shift(self.file, jump=self.random.choice([30, 130, 400, 86_400]))

    def inventory(self) -> None:
        """A refresh reads what EC2 has."""
        for each in self.instances:
            type(each).objects.filter(pk=each.pk).update(
                profile_arn=self.aws.profile(each.instance_id), ec2_read_at=now()
            )

    def decide(self) -> None:
        findings = list(
            RoleFinding.objects.filter(state="open").select_related("instance__account", "instance__region")
        )
        if findings:
            deed = self.random.choice([services.put_back, services.accept])
            deed(self.random.choice(findings), actor=self.people[0])

    def work(self) -> None:
        loop()

    def come_to_rest(self) -> None:
        """No more faults: beat goes on until nothing is due."""
        self.aws.at.clear()
        for _ in range(8):
            clock.set_shift(self.file, jump=6)  # more than what is tried again waits for
            Holding.objects.update(claimed_until=None)
            self.inventory()
            loop()
            if not Holding.objects.filter(due_at__lte=now()).exists() and not reconcile.note_drift(at=now()):
                break
        assert not Holding.objects.filter(due_at__lte=now()).exists(), self.log

    def check(self) -> None:
        moment = now()
        for each in self.instances:
            held = Holding.objects.filter(pk=each.pk).first()
            if held is None:
                continue
            there, want = self.aws.profile(each.instance_id), reconcile.wanted(held, at=moment)
            finding = RoleFinding.objects.filter(instance=each, state="open").first()
            told = (self.log, str(each), there, want, finding and (finding.expected, finding.found))
            assert held.intent is None, told
            if finding is None:
                assert there == want == held.believed, told
                open_rows = RoleAttachment.objects.open().filter(instance=each)
                # Those that hold it are active; only a permanent one that waits below a lease is not.
                waiting = open_rows.exclude(state="active")
                assert all(row.minutes is None and row.state == "pending" for row in waiting), told
                assert all(row.profile_arn == there for row in open_rows.leases()), told
            else:
                assert there not in {want, held.believed}, told
            assert not RoleAttachment.objects.open().filter(instance=each, ends_at__lte=moment).exists(), told


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32 - 1), turns=st.integers(5, 40))
def test_at_every_quiet_moment_aws_holds_what_leases_say(roles, monkeypatch, clock_file, seed, turns):
    random = Random(seed)
    try:
        with transaction.atomic(), monkeypatch.context() as patched:
            # The property is about rows: each `durable` denial would end the example's transaction.
            patched.setattr("fleetops.roles.services.deny", lambda *words, **more: None)
            RoleRule.objects.create(name="All may", targets="all", profile_name="*")
            play = Play(random, patched, clock_file)
            for _ in range(3):
                for _ in range(turns // 3 + 1):
                    play.turn()
                play.come_to_rest()
                play.check()
            raise Undone
    except Undone:
        clock.set_shift(clock_file)


def test_a_lease_in_a_play_is_put_there_at_all(roles, monkeypatch, clock_file):
    """The play can tell: without faults a lease shows in its AWS."""
    RoleRule.objects.create(name="All may", targets="all", profile_name="*")
    play = Play(Random(1), monkeypatch, clock_file)
    instance = play.instances[0]
    services.ask(instance, Wish(DATA, 10), actor=play.people[0])
    play.come_to_rest()
    play.check()
    assert play.aws.profile(instance.instance_id) == DATA
    clock.set_shift(clock_file, jump=timedelta(minutes=11).total_seconds())
    play.come_to_rest()
    play.check()
    assert play.aws.profile(instance.instance_id) == instance.profile_arn
