"""Alerts of patching: each is told once while it lasts, again until it has arrived, and kept back by a silence."""

from datetime import timedelta

import pytest

from fleetops.clock import now
from fleetops.notify import services as notify
from fleetops.notify.models import Delivery, DeliveryState, Notice
from patching.compliance import reading, standing
from patching.compliance.models import Sla, Standing
from patching.compliance.verdict import Patch
from tests.compliance.conftest import summary
from tests.factories import make_instance, make_user
from tests.notify.test_outbox import send
from tests.rollouts.fleet import Aws, look, make_fleet, make_owner, make_run
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = pytest.mark.django_db
HOOK = "/hook"
APPROVAL = {"kind": "approval", "quorum": 1, "approvers": ["administrator"]}


def falls(roles):
    node = make_instance(name="db-1", ssm_read_at=now())
    minutes = iter(range(0, 100, 5))

    def happen():
        reading.keep_summaries([(node, summary(node, next(minutes), missing=1))])
        standing.tell_all()

    def end():
        reading.keep_summaries([(node, summary(node, next(minutes)))])
        standing.tell_all()

    return happen, end


def is_late(roles):
    Sla.objects.create(severity="Important", days=7)
    node = make_instance(name="db-1", ssm_read_at=now())
    reading.keep_summaries([(node, summary(node, missing=1))])
    row = Standing.objects.select_related("report", "instance").get()
    reading.keep_patches(row, [Patch("openssl", "3.0.8", "Security", "Important", "MISSING", None, ())])

    def happen():
        standing.tell_overdue(at=now())

    def end():
        Sla.objects.all().delete()
        happen()

    return happen, end


def stops(roles):
    aws, run = Aws(), make_run(make_owner(roles), [make_fleet(2)], concurrency="1")
    look(run)
    aws.take().answer_all("failed")
    return lambda: look(run), None


def fails(roles):
    # Within its budget it goes on to its end, and has failed then.
    aws, fleet = Aws(), make_fleet(2)
    run = make_run(make_owner(roles), [fleet], budget="1")
    look(run)
    aws.take().answer_all("failed", on=fleet[:1])
    aws.answer_all(on=fleet[1:])
    return lambda: look(run), None


def waits(roles):
    aws, fleet = Aws(), make_fleet(2)
    make_user(role="administrator")
    run = make_run(make_owner(roles), [fleet[:1], fleet[1:]], gates={1: [APPROVAL]})
    look(run)
    aws.take().answer_all()
    look(run)
    return lambda: look(run), None


ALERTS = {
    "patching.compliance": falls,
    "patching.sla": is_late,
    "rollouts.stopped": stops,
    "rollouts.ended": fails,
    "rollouts.approval": waits,
}


@pytest.fixture(params=ALERTS)
def topic(request):
    return request.param


@pytest.fixture
def hook(roles, receiver, settings, topic):  # noqa: F811
    """A webhook of a real receiver for this topic alone."""
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    chief = make_user(role="administrator")
    notify.create_channel(actor=chief, name="Hook", kind="webhook", address=url_of(receiver, HOOK), topic=topic)
    return chief


def test_an_alert_is_told_once_while_it_lasts_and_again_until_it_has_arrived(roles, hook, receiver, topic):  # noqa: F811
    happen, end = ALERTS[topic](roles)
    receiver.answers[HOOK] = (503, {}, b"")
    happen()
    happen()
    notice = Notice.objects.get(topic=topic)
    assert send() == 1
    delivery = notice.deliveries.get()
    assert delivery.state == DeliveryState.PENDING and "answers 503" in delivery.error
    del receiver.answers[HOOK]
    happen()
    Delivery.objects.update(next_at=now())
    assert send() == 1
    happen()
    assert send() == 0 and len(receiver.seen) == 2  # what was refused, and what arrived
    notice.refresh_from_db()
    assert notice.deliveries.get().state == DeliveryState.SENT and notice.closed_at is None
    if end is not None:
        end()
        notice.refresh_from_db()
        assert notice.closed_at is not None and send() == 1
        happen() if topic == "patching.compliance" else None
        assert Notice.objects.filter(topic=topic).count() == (2 if topic == "patching.compliance" else 1)


def test_a_silence_keeps_an_alert_back_and_the_notice_says_so(roles, hook, receiver, topic):  # noqa: F811
    until = now() + timedelta(hours=1)
    notify.add_silence(actor=hook, topic=topic, match="", reason="INC-7", until=until)
    happen, _ = ALERTS[topic](roles)
    happen()
    happen()
    notice = Notice.objects.get(topic=topic)
    assert "INC-7" in notice.silenced_by and send() == 0 and receiver.seen == []
