"""Connect without a role: attached, waited for, opened, detached; whoever dies in between."""

import pytest

from fleetops import clock
from fleetops.approvals import services as approvals
from fleetops.audit.models import AuditEvent
from fleetops.aws.profiles import Profile
from fleetops.errors import Denied, UserError
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.roles import services as roles
from fleetops.roles.models import RoleAttachment, RoleRule
from sessions_app.attached import services
from sessions_app.attached.models import ConnectOrder
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState
from tests.factories import make_instance, make_user
from tests.roles.aws import Ec2
from tests.roles.conftest import CORE, loop
from tests.support.clock import clock_file, following  # noqa: F401

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(roles):
    return make_user("mei", role="administrator")


@pytest.fixture
def aws(db, monkeypatch):
    RoleRule.objects.create(name="All may", targets="all", profile_name="*")
    monkeypatch.setattr(
        "fleetops.roles.services.profiles.profile",
        lambda access, region, name, *, session_name: Profile(CORE, name, ("core",), ("arn",)),
    )
    return Ec2(monkeypatch)


@pytest.fixture
def bare(db):
    return make_instance(name="bare", profile_arn="", ping_status="ConnectionLost")


def comes_online(instance):
    Instance.objects.filter(pk=instance.pk).update(profile_arn=CORE, ping_status="Online")


def look(order) -> ConnectOrder:
    services.settle_all()
    order.refresh_from_db()
    return order


def states(order) -> list[str]:
    order.lease.refresh_from_db()
    return [step.state for step in services.steps(order)]


def test_it_is_attached_waited_for_opened_and_detached_with_the_session(aws, bare, admin):
    order = services.begin(bare, actor=admin, minutes=60)
    assert states(look(order)) == ["done", "now", "later", "later"]
    loop()
    assert (look(order).state, states(order)) == ("waiting", ["done", "done", "now", "later"])
    with pytest.raises(UserError, match="does not answer yet"):
        services.open_shell(order, actor=admin)
    comes_online(bare)
    assert (look(order).state, states(order)) == ("ready", ["done", "done", "done", "now"])
    session = services.open_shell(order, actor=admin)
    assert look(order).state == "opened" and order.session == session
    assert services.open_shell(order, actor=admin) == session, "twice is once"
    TerminalSession.objects.update(state=SessionState.ENDED)
    look(order)
    loop()
    assert look(order).state == "over"
    assert aws.profile(bare.instance_id) == ""
    told = AuditEvent.objects.filter(action__regex="^(roles|sessions)").order_by("id").values_list("action", flat=True)
    assert [each for each in told if each != "sessions.grant.ask"] == [
        *("roles.ask", "sessions.attached.ask", "roles.applied", "sessions.open", "roles.end", "roles.ended")
    ]


def test_by_choice_the_role_stays_until_its_time(aws, bare, admin, clock_file):  # noqa: F811
    order = services.begin(bare, actor=admin, minutes=10, ends_with="time")
    loop()
    comes_online(bare)
    services.open_shell(order, actor=admin)
    TerminalSession.objects.update(state=SessionState.ENDED)
    look(order)
    loop()
    assert aws.profile(bare.instance_id) == CORE and look(order).state == "opened"
    clock.set_shift(clock_file, jump=601)
    loop()
    assert aws.profile(bare.instance_id) == "" and look(order).state == "over"


def test_a_lease_that_ends_before_the_agent_answers_ends_the_order(aws, bare, admin, clock_file):  # noqa: F811
    order = services.begin(bare, actor=admin, minutes=2)
    loop()
    clock.set_shift(clock_file, jump=121)
    loop()
    assert look(order).state == "over"
    assert states(order)[-1] == "failed"


def test_giving_up_detaches_also_when_the_process_dies_between_the_two(aws, bare, admin, monkeypatch):
    order = services.begin(bare, actor=admin, minutes=60)
    loop()
    with monkeypatch.context() as patched:

        class Killed(BaseException):
            pass

        def die(*words, **more):
            raise Killed

        patched.setattr(roles, "end", die)
        with pytest.raises(Killed):
            services.cancel(order, actor=admin)
    assert RoleAttachment.objects.get().state == "active"
    services.settle_all()
    loop()
    assert RoleAttachment.objects.get().state == "ended" and aws.profile(bare.instance_id) == ""
    services.cancel(order, actor=admin)
    assert order.state == "cancelled"


def test_asked_twice_it_is_one_order(aws, bare, admin):
    assert services.begin(bare, actor=admin, minutes=60) == services.begin(bare, actor=admin, minutes=5)
    assert RoleAttachment.objects.count() == 1


def test_where_a_rule_wants_approval_it_waits_and_a_no_ends_it(aws, bare, admin):
    RoleRule.objects.update(approvals=1)
    other = make_user(role="administrator")
    with pytest.raises(UserError, match="Say why"):
        services.begin(bare, actor=admin, minutes=60)
    order = services.begin(bare, actor=admin, minutes=60, reason="INC-4807 ledger stands still")
    assert [step.text for step in services.steps(order)][1] == "Approved"
    assert states(order)[1] == "now"
    approvals.vote(order.lease.approval_id, actor=other, approve=False, reason="not today")
    roles.settle_approval(RoleAttachment.objects.get())
    assert look(order).state == "failed"


def test_who_may_not_attach_or_open_a_shell_is_refused_and_it_is_written_down(aws, bare, admin):
    with pytest.raises(Denied, match="needs the permission"):
        services.begin(bare, actor=make_user(role="viewer"), minutes=60)
    policy.create_rule(
        actor="tests", confirmed=True, name="No", effect="deny", deeds=["shell"], targets="all", everybody=True
    )
    with pytest.raises(Denied, match="open a shell"):
        services.begin(bare, actor=admin, minutes=60)
    assert AuditEvent.objects.filter(action="sessions.attached.refuse", outcome="denied").count() == 2
    assert not RoleAttachment.objects.exists()


def test_what_can_be_reached_needs_no_role(aws, admin):
    with pytest.raises(UserError, match="can be reached as it is"):
        services.begin(make_instance(), actor=admin, minutes=60)


def test_the_pages_lead_from_the_instance_to_the_shell(aws, bare, admin, client):
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    Instance.objects.filter(pk=bare.pk).update(ping_status="", last_ping_at=None)
    address = f"/sessions/attached/new/?instance={bare.pk}"
    assert address in client.get(bare.get_absolute_url()).content.decode()
    assert "It has no role now" in client.get(address).content.decode()
    for field, value, words in (("minutes", "soon", "as a number"), ("minutes", "0", "1 to")):
        answer = client.post(address, {"instance": bare.pk, field: value})
        assert answer.status_code == 400 and words in answer.content.decode()
    page = client.post(address, {"instance": bare.pk, "minutes": "30", "ends_with": "session"}, follow=True)
    order = ConnectOrder.objects.get()
    assert page.redirect_chain[-1][0] == order.get_absolute_url()
    assert "Attaching the role" in page.content.decode()
    loop()
    comes_online(bare)
    part = client.get(order.get_absolute_url(), headers={"HX-Request": "true"}).content.decode()
    assert "Open the shell" in part and "<html" not in part
    opened = client.post(f"{order.get_absolute_url()}open/", headers={"HX-Request": "true"})
    session = TerminalSession.objects.get()
    assert opened.headers["HX-Redirect"] == f"/sessions/{session.pk}/"
    client.force_login(make_user(role="administrator"), backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(order.get_absolute_url()).status_code == 404, "somebody else's"


def test_giving_up_on_the_page(aws, bare, admin, client):
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    order = services.begin(bare, actor=admin, minutes=60)
    page = client.post(f"{order.get_absolute_url()}cancel/", follow=True).content.decode()
    assert "Given up" in page
