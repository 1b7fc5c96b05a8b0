"""A lease's life: what is put there, what is put back, who may, and what AWS refuses."""

from datetime import timedelta

import pytest

from fleetops import clock
from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.roles import reconcile, services
from fleetops.roles.models import Holding, RoleAttachment, RoleChange, RoleFinding, RoleRule
from fleetops.roles.services import Wish
from tests.factories import make_instance, make_user

from .aws import denied, killed, lost, throttled
from .conftest import CORE, DATA, OTHER, loop

pytestmark = pytest.mark.django_db


def lease(instance, user, arn=CORE, minutes=10, **more):
    return services.ask(instance, Wish(arn, minutes), actor=user, **more)


def later(clock_file, **length) -> None:
    clock.set_shift(clock_file, jump=timedelta(**length).total_seconds())


def test_a_lease_is_put_there_and_ends_by_itself(aws, bare, admin, rule, clock_file):
    attachment = lease(bare, admin)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, aws.profile(bare.instance_id)) == ("active", CORE)
    later(clock_file, minutes=9)
    loop()
    assert aws.profile(bare.instance_id) == CORE, "none ends early"
    later(clock_file, minutes=1, seconds=1)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, aws.profile(bare.instance_id)) == ("ended", "")
    assert [str(each) for each in RoleChange.objects.order_by("id")] == ["no role → core", "core → no role"]
    told = AuditEvent.objects.filter(action__startswith="roles.").order_by("id").values_list("action", flat=True)
    assert list(told) == ["roles.ask", "roles.applied", "roles.end", "roles.ended"]


def test_what_was_there_before_is_put_back_without_a_gap(aws, admin, rule, clock_file):
    instance = make_instance(profile_arn=CORE)
    aws.put(instance.instance_id, CORE)
    lease(instance, admin, DATA)
    loop()
    assert aws.profile(instance.instance_id) == DATA
    later(clock_file, minutes=11)
    loop()
    assert aws.profile(instance.instance_id) == CORE
    assert "disassociate" not in aws.calls


def test_two_leases_of_one_role_never_end_each_other(aws, bare, admin, rule, clock_file):
    lease(bare, admin, minutes=10)
    later(clock_file, minutes=5)
    other = lease(bare, make_user("tomas", role="administrator"), minutes=10)
    loop()
    later(clock_file, minutes=6)
    loop()
    assert aws.profile(bare.instance_id) == CORE
    services.end(other, actor=admin)
    loop()
    assert aws.profile(bare.instance_id) == ""


def test_a_lease_of_another_role_is_refused_while_one_stands(aws, bare, admin, rule):
    lease(bare, admin, CORE)
    with pytest.raises(UserError, match="mei has a lease of core here until"):
        lease(bare, admin, DATA)
    assert RoleAttachment.objects.count() == 1


def test_a_permanent_role_waits_for_the_lease_and_is_what_is_put_back(aws, bare, admin, rule, clock_file):
    lease(bare, admin, DATA)
    loop()
    kept = lease(bare, admin, CORE, minutes=None)
    loop()
    kept.refresh_from_db()
    assert (kept.state, kept.words) == ("pending", "Put there when the lease that stands has ended.")
    assert aws.profile(bare.instance_id) == DATA
    later(clock_file, minutes=11)
    loop()
    kept.refresh_from_db()
    assert (kept.state, aws.profile(bare.instance_id)) == ("active", CORE)


def test_extending_moves_the_end(aws, bare, admin, rule, clock_file):
    attachment = lease(bare, admin)
    loop()
    services.extend(attachment, minutes=30, actor=admin)
    later(clock_file, minutes=20)
    loop()
    assert aws.profile(bare.instance_id) == CORE
    with pytest.raises(FieldError, match="It ends at"):
        services.extend(attachment, minutes=1, actor=admin)
    later(clock_file, minutes=11)
    loop()
    assert aws.profile(bare.instance_id) == ""
    attachment.refresh_from_db()
    with pytest.raises(UserError, match="Only a lease that stands"):
        services.extend(attachment, minutes=30, actor=admin)


def test_a_change_behind_our_back_is_reported_and_not_touched(aws, bare, admin, rule, clock_file):
    attachment = lease(bare, admin)
    loop()
    aws.put(bare.instance_id, OTHER)
    later(clock_file, minutes=11)
    loop()
    attachment.refresh_from_db()
    assert aws.profile(bare.instance_id) == OTHER
    assert attachment.state == "ended" and "put there by somebody else" in attachment.words
    finding = RoleFinding.objects.get()
    assert (finding.found_name, finding.expected_name, finding.state) == ("other", "no role", "open")
    services.put_back(finding, actor=admin)
    loop()
    assert aws.profile(bare.instance_id) == ""


def test_the_inventory_tells_of_a_change_without_a_call_of_its_own(aws, bare, admin, rule):
    attachment = lease(bare, admin)
    loop(2)
    calls = len(aws.calls)
    loop()
    assert len(aws.calls) == calls, "nothing is due"
    aws.put(bare.instance_id, OTHER)
    type(bare).objects.filter(pk=bare.pk).update(profile_arn=OTHER, ec2_read_at=now())
    loop()
    attachment.refresh_from_db()
    finding = RoleFinding.objects.get()
    assert (attachment.state, finding.expected_name) == ("conflict", "core")
    services.accept(finding, actor=admin)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, aws.profile(bare.instance_id)) == ("ended", OTHER)
    assert Holding.objects.get().base == OTHER


def test_a_change_that_is_undone_again_settles_itself(aws, bare, admin, rule):
    attachment = lease(bare, admin)
    loop()
    aws.put(bare.instance_id, OTHER)
    Holding.objects.update(due_at=now())
    loop()
    aws.put(bare.instance_id, CORE)
    Holding.objects.update(due_at=now())
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, RoleFinding.objects.get().state) == ("active", "gone")


@pytest.mark.parametrize("place", ["associations before", "associate before", "associate after", "associations after"])
@pytest.mark.parametrize("fault", [killed, throttled, denied, lost])
def test_whatever_fails_at_whichever_call_is_gone_on_with(aws, bare, admin, rule, clock_file, place, fault):
    attachment = lease(bare, admin)
    aws.at[place] = fault
    loop()
    attachment.refresh_from_db()
    if fault is denied and place == "associate before":
        assert attachment.state == "pending" and "iam:PassRole" in attachment.words
        assert aws.profile(bare.instance_id) == ""
    later(clock_file, minutes=3)  # a worker that died has its claim until then
    loop(2)
    attachment.refresh_from_db()
    assert (attachment.state, aws.profile(bare.instance_id)) == ("active", CORE)
    assert aws.calls.count("associate") <= 2
    assert not RoleFinding.objects.exists()


def test_somebody_who_is_quicker_is_not_overruled(aws, bare, admin, rule):
    attachment = lease(bare, admin)
    aws.at["associate before"] = lambda: aws.put(bare.instance_id, OTHER)
    loop(1)
    Holding.objects.update(due_at=now())
    loop(1)
    attachment.refresh_from_db()
    assert aws.profile(bare.instance_id) == OTHER
    assert attachment.state == "conflict"


def test_an_instance_that_disappears_leaves_nothing_half_done(aws, bare, admin, rule):
    attachment = lease(bare, admin)
    aws.at["associate before"] = lambda: aws.terminated.add(bare.instance_id)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, attachment.words) == ("failed", "The instance is gone.")
    assert Holding.objects.get().due_at is None


def test_a_terminated_instance_is_no_change_behind_our_back(aws, bare, admin, rule):
    attachment = lease(bare, admin)
    loop()
    aws.put(bare.instance_id, "")
    aws.terminated.add(bare.instance_id)
    Holding.objects.update(due_at=now())
    loop()
    attachment.refresh_from_db()
    assert attachment.state == "ended" and not RoleFinding.objects.exists()


def test_detaching_says_that_the_agent_is_cut_off_and_wants_a_yes(aws, admin, rule):
    instance = make_instance(profile_arn=CORE)
    aws.put(instance.instance_id, CORE)
    with pytest.raises(services.CutOff, match="25 to 30 minutes"):
        services.ask(instance, Wish(), actor=admin)
    detached = services.ask(instance, Wish(), actor=admin, cut_off_accepted=True)
    loop()
    detached.refresh_from_db()
    assert (detached.state, aws.profile(instance.instance_id)) == ("ended", "")


def test_no_rule_no_role(aws, bare, admin, roles):
    RoleRule.objects.all().delete()
    RoleRule.objects.create(name="Short", targets="all", profile_name="co*", most_minutes=15)
    with pytest.raises(Denied, match="No rule lets this instance have data"):
        lease(bare, admin, DATA)
    with pytest.raises(Denied, match="for at most 15 minutes"):
        lease(bare, admin, CORE, minutes=16)
    with pytest.raises(Denied, match="for at most 15 minutes"):
        lease(bare, admin, CORE, minutes=None)
    assert AuditEvent.objects.filter(action="roles.ask.refuse", outcome="denied").count() == 3
    lease(bare, admin, CORE, minutes=15)


def test_an_approval_begins_it_and_nobody_approves_their_own(aws, bare, admin, roles):
    from fleetops.approvals import services as approvals

    RoleRule.objects.all().delete()
    RoleRule.objects.create(name="Two eyes", targets="all", profile_name="*", approvals=1)
    other = make_user("tomas", role="administrator")
    with pytest.raises(FieldError, match="Say why"):
        lease(bare, admin)
    attachment = lease(bare, admin, reason="INC-4807: ledger stands still")
    assert (attachment.state, attachment.ends_at) == ("asked", None)
    loop()
    assert aws.profile(bare.instance_id) == ""
    with pytest.raises(Denied):
        approvals.vote(attachment.approval_id, actor=admin, approve=True)
    approvals.vote(attachment.approval_id, actor=other, approve=True)
    services.settle_approval(attachment)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, aws.profile(bare.instance_id)) == ("active", CORE)
    assert attachment.ends_at - now() > timedelta(minutes=9)


def test_who_may_not_is_refused_and_the_refusal_is_written_down(aws, bare, rule, roles):
    viewer, operator = make_user("vera", role="viewer"), make_user("omar", role="operator")
    with pytest.raises(Denied, match="needs the permission"):
        lease(bare, viewer)
    theirs = lease(bare, make_user("mei", role="administrator"))
    with pytest.raises(Denied, match="what others have asked for"):
        services.end(theirs, actor=operator)
    assert AuditEvent.objects.filter(outcome="denied").count() == 2


def test_it_ends_with_its_session_at_the_latest_at_its_time(aws, bare, admin, rule):
    from fleetops.clock import uuid7

    attachment = services.ask(bare, Wish(CORE, 60, "session"), actor=admin)
    loop()
    session = uuid7()
    services.bind_session(attachment, session)
    assert services.sessions_ended([uuid7()]) == 0
    assert services.sessions_ended([session]) == 1
    loop()
    assert aws.profile(bare.instance_id) == ""


def test_a_week_of_downtime_ends_what_is_over_at_the_first_look(aws, bare, admin, rule, clock_file):
    lease(bare, admin)
    loop()
    later(clock_file, days=7)
    loop()
    assert aws.profile(bare.instance_id) == ""


def test_a_hundred_instances_are_two_reads_and_a_change_each(aws, admin, rule):
    instances = [make_instance(profile_arn="") for _ in range(100)]
    for each in instances:
        lease(each, admin)
    aws.calls.clear()
    loop()
    assert (aws.calls.count("associations"), aws.calls.count("associate"), len(aws.calls)) == (2, 100, 102)
    assert not Holding.objects.filter(due_at__lte=now()).exists()
    assert reconcile.claim_due(at=now()) == []
