"""A notice is told once, to whom it is meant for, and again until it has arrived."""

import asyncio
import json
import threading
from datetime import timedelta
from email import message_from_bytes

import pytest
from aiosmtpd.smtp import SMTP
from django.db import connection, transaction

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.fetch import FetchRefused
from fleetops.notify import services
from fleetops.notify.models import Channel, Delivery, DeliveryState, Notice, Silence
from fleetops.notify.senders import sign
from fleetops.notify.topics import TOPICS
from tests.factories import make_account, make_user
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

TOPIC = "inventory.region"


@pytest.fixture
def chief():
    return make_user(role="administrator")


@pytest.fixture
def inside(settings):
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]


@pytest.fixture
def hook(chief, receiver, inside):  # noqa: F811
    """A signed webhook to a real receiver; its key is in `hook.shown`."""
    channel, key = services.create_channel(
        actor=chief, name="Hook", kind="webhook", address=url_of(receiver, "/hook?secret=hush")
    )
    channel.shown = key
    return channel


class Mails:
    def __init__(self):
        self.seen, self.refuse = [], ""

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.seen.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"


@pytest.fixture
def mails(settings):
    """A real mail server on loopback."""
    handler, loop = Mails(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listen = loop.create_server(lambda: SMTP(handler, loop=loop), "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(listen, loop).result(10)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = server.sockets[0].getsockname()[:2]
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    yield handler

    async def stop():
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def told(**changes):
    return services.notify(
        **{
            "topic": TOPIC,
            "dedup_key": "1:eu-west-1",
            "title": "eu-west-1 cannot be read",
            "text": "AWS asks for fewer calls.",
            "url": "/fleet/",
            "severity": "warning",
            "account_id": "111122223333",
            "region": "eu-west-1",
        }
        | changes
    )


def send(at=None):
    """What beat and a worker do."""
    claimed = services.claim_due(at=at or now())
    for pk, claim in claimed:
        services.deliver(pk, claim)
    return len(claimed)


def test_a_webhook_gets_the_notice_signed(hook, receiver, settings):  # noqa: F811
    settings.PUBLIC_URL = "https://fleetops.example"
    notice = told()
    assert send() == 1
    method, path, headers, body = receiver.seen[0]
    assert (method, path) == ("POST", "/hook?secret=hush")
    said = json.loads(body)
    delivery = notice.deliveries.get()
    assert said == {
        "id": str(delivery.pk), "topic": TOPIC, "severity": "warning", "state": "open", "title": notice.title,
        "text": notice.text, "url": "https://fleetops.example/fleet/", "account_id": "111122223333",
        "region": "eu-west-1", "at": notice.created_at.isoformat(),
    }  # fmt: skip
    seconds = int(headers["X-FleetOps-Signature"].partition(",")[0].removeprefix("t="))
    assert headers["X-FleetOps-Signature"] == sign(hook.shown.encode(), body, seconds)
    assert headers["X-FleetOps-Delivery"] == str(delivery.pk)
    assert (delivery.state, delivery.attempts) == (DeliveryState.SENT, 1)
    assert send() == 0


def test_neither_address_nor_key_of_a_webhook_stand_anywhere_in_clear(hook):
    rows = f"{list(Channel.objects.values())}{list(AuditEvent.objects.values())}"
    assert "hush" not in rows and hook.shown not in rows


def test_the_same_thing_is_told_once(hook, receiver):  # noqa: F811
    first, second = told(), told()
    assert first.pk == second.pk
    send()
    told()
    assert send() == 0
    assert Notice.objects.get().repeats == 2
    assert len(receiver.seen) == 1


def test_another_thing_and_a_graver_one_are_told_anew(hook):
    told()
    told(dedup_key="1:us-east-1")
    assert send() == 2
    told(severity="critical")
    told(severity="info")  # while the graver one stands
    assert send() == 1
    assert Notice.objects.filter(closed_at=None).count() == 2


def test_the_end_is_told_to_those_who_were_told_of_the_beginning(hook, receiver, chief):  # noqa: F811
    told()
    send()
    services.create_channel(actor=chief, name="Later", kind="webhook", address=url_of(receiver, "/later"))
    assert services.resolve(TOPIC, dedup_key="1:eu-west-1")
    assert not services.resolve(TOPIC, dedup_key="1:eu-west-1")
    assert send() == 1
    assert json.loads(receiver.seen[-1][3])["state"] == "over"
    told()  # and again it is news
    assert send() == 2


def test_a_notice_stands_exactly_if_the_deed_does(hook):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        told()
        raise ZeroDivisionError
    assert (send(), Notice.objects.count()) == (0, 0)


def test_a_channel_carries_its_topic_from_its_severity_on(hook, chief):
    services.change_channel(hook, actor=chief, topic="*", severity="critical", enabled=True)
    told()
    told(dedup_key="other", severity="critical")
    assert send() == 1
    services.change_channel(hook, actor=chief, topic="notify.test", severity="info", enabled=True)
    told(dedup_key="third", severity="critical")
    assert send() == 0


def test_what_fails_is_tried_again_later_and_later_and_given_up_after_a_day(hook, receiver):  # noqa: F811
    receiver.answers["/hook?secret=hush"] = (503, {}, b"")
    notice, waits = told(), []
    moment = now()
    while (delivery := notice.deliveries.get()).state == DeliveryState.PENDING and len(waits) < 60:
        before = now()
        assert send(at=max(moment, delivery.next_at)) == 1
        delivery = notice.deliveries.get()
        waits.append((delivery.next_at - before).total_seconds())
        # As if the time had passed until then.
        shift = delivery.next_at - before
        Delivery.objects.update(give_up_at=delivery.give_up_at - shift, next_at=before)
    assert [round(each) for each in waits[:5]] == [15, 30, 60, 120, 240]
    assert max(waits) <= 3601
    assert 20 < len(waits) < 40
    assert delivery.state == DeliveryState.FAILED
    assert "answers 503" in delivery.error
    assert AuditEvent.objects.filter(action="notify.delivery.fail").count() == 1
    assert "hush" not in delivery.error


def test_what_no_worker_survives_is_given_up_too(hook, receiver, monkeypatch):  # noqa: F811
    """A double, for we know of no mistake of ours that does it."""

    class Broken:
        def send(self, channel, letter):
            raise ZeroDivisionError

    monkeypatch.setattr(services, "sender", lambda kind: Broken())
    notice = told()
    moment = now()
    for _ in range(services._MOST_ATTEMPTS):
        with pytest.raises(ZeroDivisionError):
            send(at=moment)
        Delivery.objects.update(claimed_until=None)  # as a minute later
    send(at=moment)
    delivery = notice.deliveries.get()
    assert (delivery.state, delivery.error) == (
        DeliveryState.FAILED,
        "No worker came to the end of sending it; their logs say why.",
    )


def test_a_receiver_that_says_when_is_listened_to(hook, receiver):  # noqa: F811
    receiver.answers["/hook?secret=hush"] = (429, {"Retry-After": "300"}, b"")
    notice = told()
    send()
    assert notice.deliveries.get().next_at > now() + timedelta(seconds=290)


def test_a_refusal_that_no_time_mends_is_final_and_can_be_sent_again(hook, receiver, chief):  # noqa: F811
    receiver.answers["/hook?secret=hush"] = (404, {}, b"")
    notice = told()
    send()
    delivery = notice.deliveries.get()
    assert delivery.state == DeliveryState.FAILED
    del receiver.answers["/hook?secret=hush"]
    services.send_again(delivery, actor=chief)
    assert send() == 1
    with pytest.raises(UserError, match="nothing to send again"):
        services.send_again(notice.deliveries.get(), actor=chief)


def test_what_a_dead_worker_held_comes_again(hook, receiver):  # noqa: F811
    told()
    assert len(services.claim_due(at=now())) == 1  # and it dies
    assert services.claim_due(at=now()) == []
    assert send(at=now() + timedelta(seconds=61)) == 1
    assert len(receiver.seen) == 1


def test_a_message_that_comes_twice_or_too_late_sends_nothing_more(hook, receiver):  # noqa: F811
    told()
    Delivery.objects.update(next_at=now() - timedelta(seconds=70))
    ((pk, claim),) = services.claim_due(at=now() - timedelta(seconds=61))  # it waited in the queue until now
    services.deliver(pk, claim)
    assert receiver.seen == []
    ((pk, claim),) = services.claim_due(at=now())
    receiver.answers["/hook?secret=hush"] = (503, {}, b"")
    services.deliver(pk, claim)
    services.deliver(pk, claim)
    assert len(receiver.seen) == 1


def test_a_silence_keeps_what_fits_and_lets_the_rest_go(hook, chief):
    silence = services.add_silence(
        actor=chief, topic=TOPIC, match="EU-west", reason="INC-1", until=now() + timedelta(hours=1)
    )
    notice = told()
    told(dedup_key="2", title="us-east-1 cannot be read")
    assert send() == 1
    assert "INC-1" in notice.silenced_by
    services.end_silence(silence, actor=chief)
    told(dedup_key="3")
    assert send() == 1
    assert not notice.deliveries.exists()


@pytest.mark.parametrize("until", [timedelta(hours=-1), timedelta(days=31)])
def test_a_silence_has_an_end(chief, until):
    with pytest.raises(UserError, match="within 30 days"):
        services.add_silence(actor=chief, topic="*", match="", reason="x", until=now() + until)
    assert not Silence.objects.exists()


def test_a_disabled_channel_keeps_what_waits(hook, chief):
    told()
    services.change_channel(hook, actor=chief, topic="*", severity="info", enabled=False)
    told(dedup_key="2")
    assert send() == 0
    services.change_channel(hook, actor=chief, topic="*", severity="info", enabled=True)
    assert send() == 1


def test_slack_cannot_be_told_to_call_everybody(chief, receiver, inside):  # noqa: F811
    services.create_channel(actor=chief, name="Slack", kind="slack", address=url_of(receiver, "/s"))
    told(title="<!channel> & more", text="<https://evil|click>")
    send()
    text = json.loads(receiver.seen[0][3])["text"]
    assert "&lt;!channel&gt; &amp; more" in text and "&lt;https://evil|click&gt;" in text
    assert "X-FleetOps-Signature" not in receiver.seen[0][2]


def test_a_mail(chief, mails, settings):
    settings.PUBLIC_URL = "https://fleetops.example"
    services.create_channel(actor=chief, name="Mail", kind="email", address="a@example.com, b@example.com")
    told(title="Line\r\nBcc: everybody@example.com")
    assert send() == 1
    recipients, mail = mails.seen[0]
    assert recipients == ["a@example.com", "b@example.com"]
    assert mail["Subject"] == "[FleetOps] Line Bcc: everybody@example.com"
    assert mail["Bcc"] is None and mail["Auto-Submitted"] == "auto-generated"
    assert "https://fleetops.example/fleet/" in mail.get_payload()


def test_a_mail_server_that_refuses(chief, mails):
    services.create_channel(actor=chief, name="Mail", kind="email", address="a@example.com")
    mails.refuse = "450 later"
    notice = told()
    send()
    assert notice.deliveries.get().state == DeliveryState.PENDING
    mails.refuse = "550 nobody"
    send(at=now() + timedelta(hours=1))
    delivery = notice.deliveries.get()
    assert delivery.state == DeliveryState.FAILED
    assert "refuses the recipients: a@example.com (550)" in delivery.error


def test_no_mail_server_there(chief, mails, settings):
    services.create_channel(actor=chief, name="Mail", kind="email", address="a@example.com")
    settings.EMAIL_PORT = 1
    notice = told()
    send()
    delivery = notice.deliveries.get()
    assert (delivery.state, delivery.error) == (
        DeliveryState.PENDING,
        "The mail server cannot be reached (Connection refused).",
    )


@pytest.mark.parametrize(
    ("kind", "address", "words"),
    [
        ("email", "a@example.com", "No mail server is set"),
        ("webhook", "http://169.254.169.254/latest", "private network"),
        ("webhook", "https://127.0.0.1/x", "private network"),
        ("slack", "ftp://example.com", "neither https"),
        ("sns", "arn:aws:sns:eu-west-1:999988887777:alerts", "does not know"),
        ("sns", "alerts", "is no topic"),
    ],
)
def test_an_address_that_cannot_be_is_refused_and_nothing_is_kept(chief, kind, address, words):
    make_account()
    with pytest.raises(UserError, match=words):
        services.create_channel(actor=chief, name="X", kind=kind, address=address)
    assert not Channel.objects.exists()


def test_what_becomes_inside_after_it_was_kept_is_not_asked(hook, settings, receiver):  # noqa: F811
    settings.FETCH_ALLOWED_NETWORKS = []
    notice = told()
    send()
    assert notice.deliveries.get().state == DeliveryState.FAILED
    assert receiver.seen == []
    with pytest.raises(FetchRefused):
        services.create_channel(actor=None, name="Y", kind="webhook", address="http://127.0.0.1:9/")


def test_a_topic_that_nobody_wrote_down_is_our_mistake(hook):
    with pytest.raises(LookupError):
        told(topic="something.new")
    assert all(TOPICS.values())


@pytest.mark.django_db(transaction=True)
def test_two_workers_who_tell_the_same_at_once_tell_it_once(hook, receiver):  # noqa: F811
    together, failures = threading.Barrier(4), []

    def tell():
        try:
            together.wait(10)
            told()
        except Exception as error:  # whatever it is, the test shows it
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Notice.objects.get().repeats == 3
    assert send() == 1


@pytest.mark.django_db(transaction=True)
def test_two_workers_who_look_at_once_send_once(hook, receiver):  # noqa: F811
    told()
    together = threading.Barrier(3)

    def look():
        together.wait(10)
        try:
            send()
        finally:
            connection.close()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.seen) == 1


def test_old_notices_are_forgotten(hook):
    told()
    Notice.objects.update(last_at=now() - timedelta(days=91))
    assert services.tidy(at=now()) == 1
    assert not Delivery.objects.exists()
