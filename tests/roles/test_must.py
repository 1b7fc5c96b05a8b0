"""What a rule says an instance must have: reported or repaired, never over a lease or an open question, asked once."""

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws.profiles import Profile
from fleetops.clock import now
from fleetops.errors import Denied
from fleetops.roles import must, services
from fleetops.roles.models import Holding, RoleAttachment, RoleFinding, RoleRule
from fleetops.roles.services import Wish
from tests.factories import make_instance

from .conftest import CORE, DATA, OTHER, loop

pytestmark = pytest.mark.django_db


@pytest.fixture
def wants_core(db):
    return RoleRule.objects.create(name="All must", targets="all", profile_name="core", mode="must")


@pytest.fixture
def repairs(wants_core, monkeypatch):
    RoleRule.objects.filter(pk=wants_core.pk).update(is_repairing=True)
    monkeypatch.setattr(
        "fleetops.roles.must.profiles.profile", lambda *where, session_name: Profile(CORE, "core", ("core",), ("role",))
    )


def instance_with(aws, arn):
    found = make_instance(profile_arn=arn, ec2_state="running")
    aws.put(found.instance_id, arn)
    return found


def read(aws, instance) -> None:
    """A refresh of the inventory."""
    type(instance).objects.filter(pk=instance.pk).update(
        profile_arn=aws.profile(instance.instance_id), ec2_read_at=now()
    )
    instance.refresh_from_db()


def test_who_lacks_it_is_reported_once_and_not_touched(aws, wants_core):
    lacking, right = instance_with(aws, DATA), instance_with(aws, CORE)
    for _ in range(2):
        must.look()
        loop()
    finding = RoleFinding.objects.get()
    assert (finding.instance, finding.rule, finding.state) == (lacking, wants_core, "open")
    assert AuditEvent.objects.filter(action="roles.finding.open").count() == 1
    assert (aws.profile(lacking.instance_id), aws.profile(right.instance_id)) == (DATA, CORE)


def test_what_was_accepted_is_not_asked_again_until_it_is_another(aws, admin, wants_core):
    instance = instance_with(aws, DATA)
    must.look()
    services.accept(RoleFinding.objects.get(), actor=admin)
    must.look()
    assert RoleFinding.objects.get().state == "accepted"

    aws.put(instance.instance_id, OTHER)
    read(aws, instance)
    must.look()
    assert RoleFinding.objects.get(state="open").found == OTHER


def test_what_is_put_back_is_put_there_and_not_asked_again(aws, admin, rule, wants_core):
    instance = instance_with(aws, "")
    RoleRule.objects.filter(pk=wants_core.pk).update(is_enabled=False)
    earlier = services.ask(instance, Wish(DATA), actor=admin)
    loop(2)
    read(aws, instance)
    RoleRule.objects.filter(pk=wants_core.pk).update(is_enabled=True)
    must.look()
    services.put_back(RoleFinding.objects.get(), actor=admin)
    must.look()  # before the loop has got to it
    loop(2)
    must.look()  # before the inventory tells of it
    earlier.refresh_from_db()
    assert aws.profile(instance.instance_id) == CORE
    assert (RoleFinding.objects.get().state, earlier.state) == ("put_back", "ended")
    read(aws, instance)
    must.look()
    assert not RoleFinding.objects.filter(state="open").exists()


def test_a_repair_is_made_once_also_over_another_permanent_role(aws, admin, rule, repairs):
    RoleRule.objects.filter(mode="must").update(is_enabled=False)
    instance = instance_with(aws, "")
    earlier = services.ask(instance, Wish(DATA), actor=admin)
    loop(2)
    read(aws, instance)
    RoleRule.objects.filter(mode="must").update(is_enabled=True)
    for _ in range(3):
        must.look()
        loop(2)
    repair = RoleAttachment.objects.exclude(pk=earlier.pk).get()
    earlier.refresh_from_db()
    assert (repair.state, earlier.state, aws.profile(instance.instance_id)) == ("active", "ended", CORE)
    # Somebody takes it away again: that is reported, and the rule waits for the answer.
    aws.put(instance.instance_id, OTHER)
    type(instance).objects.filter(pk=instance.pk).update(profile_arn=OTHER, ec2_read_at=now())
    loop()
    must.look()
    loop()
    assert (RoleFinding.objects.get().rule, aws.profile(instance.instance_id)) == (None, OTHER)


def test_a_repair_waits_for_the_end_of_a_lease(aws, admin, rule, repairs):
    instance = instance_with(aws, "")
    lease = services.ask(instance, Wish(DATA, 10), actor=admin)
    loop(2)
    read(aws, instance)
    must.look()
    loop()
    assert aws.profile(instance.instance_id) == DATA
    services.end(lease, actor=admin)
    loop(2)
    read(aws, instance)
    must.look()
    loop(2)
    assert aws.profile(instance.instance_id) == CORE
    assert Holding.objects.get().base == CORE


def test_nobody_takes_for_good_what_a_rule_wants(aws, admin, rule, wants_core):
    instance = instance_with(aws, CORE)
    for wish in (Wish(), Wish(DATA)):
        with pytest.raises(Denied, match="must have core"):
            services.ask(instance, wish, actor=admin, cut_off_accepted=True)
    assert services.ask(instance, Wish(DATA, 10), actor=admin).state == "pending"
