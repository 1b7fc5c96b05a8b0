"""The end of a thing never reaches a receiver before its beginning, whatever fails, hangs or dies between."""

import json
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import reverse

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.notify import services
from fleetops.notify.models import Delivery, DeliveryState
from tests.notify.test_outbox import TOPIC, chief, hook, inside, send, told  # noqa: F401  (fixtures)
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

PATH = "/hook?secret=hush"
AWAY = (503, {}, b"")
HOUR = timedelta(hours=1)


def over(key="1:eu-west-1"):
    assert services.resolve(TOPIC, dedup_key=key)


def arrived(receiver):  # noqa: F811
    """The states that a receiver was told, in the order in which it was."""
    return [json.loads(body)["state"] for _, _, _, body in receiver.seen]


def test_what_was_over_before_it_was_told_is_told_once_and_says_so(hook, receiver):  # noqa: F811
    notice = told()
    over()
    assert send() == 1
    said = json.loads(receiver.seen[0][3])
    assert said["state"] == "over"
    assert f"It began {notice.created_at:%Y-%m-%d %H:%M:%S} UTC" in said["text"] and notice.text in said["text"]
    opening = notice.deliveries.get(is_end=False)
    assert (opening.state, opening.attempts) == (DeliveryState.DROPPED, 0)
    assert "over before it could be told" in opening.error
    assert send(at=now() + HOUR) == 0


def test_an_end_does_not_overtake_a_beginning_that_is_tried_again(hook, receiver):  # noqa: F811
    receiver.answers[PATH] = AWAY
    told()
    send()
    over()
    del receiver.answers[PATH]
    send(at=now() + HOUR)
    assert arrived(receiver) == ["open", "over"]  # the first was answered 503, and the second is not followed by it
    assert send(at=now() + 2 * HOUR) == 0


def test_an_end_waits_for_a_beginning_that_is_being_sent(hook, receiver):  # noqa: F811
    told()
    ((pk, claim),) = services.claim_due(at=now())
    over()
    assert services.claim_due(at=now()) == []
    services.deliver(pk, claim)
    assert send() == 1
    assert arrived(receiver) == ["open", "over"]


def test_an_end_waits_for_a_dead_worker_s_beginning_and_is_told_alone(hook, receiver):  # noqa: F811
    told()
    services.claim_due(at=now())  # and it dies
    over()
    assert send(at=now() + timedelta(seconds=59)) == 0
    assert send(at=now() + timedelta(seconds=61)) == 1
    assert arrived(receiver) == ["over"]


def test_a_beginning_that_was_given_up_lets_its_end_go(hook, receiver, chief):  # noqa: F811
    receiver.answers[PATH] = (404, {}, b"")
    notice = told()
    send()
    del receiver.answers[PATH]
    over()
    assert send() == 1
    assert arrived(receiver) == ["open", "over"]
    with pytest.raises(UserError, match="newer"):  # else its beginning would be the last word
        services.send_again(notice.deliveries.get(is_end=False), actor=chief)


def test_of_a_thing_that_comes_and_goes_while_a_way_is_away_only_the_last_word_is_sent(hook, receiver):  # noqa: F811
    receiver.answers[PATH] = AWAY
    for _ in range(3):
        told()
        send(at=now() + HOUR)
        over()
        send(at=now() + HOUR)
    told()
    receiver.seen.clear()
    del receiver.answers[PATH]
    send(at=now() + HOUR)
    assert arrived(receiver) == ["open"]
    assert Delivery.objects.filter(state=DeliveryState.PENDING).count() == 0
    assert Delivery.objects.filter(state=DeliveryState.DROPPED).count() == 6


def test_a_graver_word_does_not_wait_for_the_lesser_one(hook, receiver):  # noqa: F811
    receiver.answers[PATH] = AWAY
    told()
    send()
    told(severity="critical")
    del receiver.answers[PATH]
    assert send(at=now() + HOUR) == 1
    assert [json.loads(each[3])["severity"] for each in receiver.seen] == ["warning", "critical"]


def test_clocks_that_differ_drop_no_beginning_that_stands(hook, receiver):  # noqa: F811
    """The thing before it was told of by a host whose clock is ahead."""
    first = told()
    send()
    over()
    type(first).objects.filter(pk=first.pk).update(created_at=now() + timedelta(seconds=5))
    told()
    send()
    send()
    assert arrived(receiver)[-1] == "open"
    assert not Delivery.objects.filter(notice__closed_at=None).exclude(state=DeliveryState.SENT).exists()


def test_another_thing_and_another_way_do_not_wait(hook, receiver, chief):  # noqa: F811
    services.create_channel(actor=chief, name="Other", kind="webhook", address=url_of(receiver, "/other"))
    told()
    told(dedup_key="2")
    claimed = dict(services.claim_due(at=now()))
    held = Delivery.objects.get(channel=hook, notice__dedup_key="1:eu-west-1")
    for pk in claimed.keys() - {held.pk}:
        services.deliver(pk, claimed[pk])
    over()
    over("2")
    assert send() == 3
    assert Delivery.objects.filter(state=DeliveryState.PENDING).count() == 2  # the held one, and its end


def test_an_end_is_kept_for_a_way_that_was_disabled_meanwhile(hook, receiver, chief):  # noqa: F811
    told()
    send()
    services.change_channel(hook, actor=chief, topic="*", severity="info", enabled=False)
    over()
    assert send() == 0
    services.change_channel(hook, actor=chief, topic="*", severity="info", enabled=True)
    assert send() == 1
    assert arrived(receiver) == ["open", "over"]


@pytest.mark.django_db(transaction=True)
def test_who_lost_a_claim_does_not_give_away_the_one_that_holds_now(hook, receiver):  # noqa: F811
    """A worker that slept through its claim, while another sends."""
    notice = told()
    ((pk, claim),) = services.claim_due(at=now())

    def meanwhile(self):
        Delivery.objects.filter(pk=pk).update(claimed_until=now() + HOUR)
        connection.close()
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    receiver.answers[PATH] = AWAY
    receiver.meanwhile = meanwhile
    Handler = type("Handler", (receiver.RequestHandlerClass,), {"do_POST": lambda self: self.server.meanwhile(self)})
    receiver.RequestHandlerClass = Handler
    services.deliver(pk, claim)
    assert notice.deliveries.get().claimed_until > now()


@pytest.mark.django_db(transaction=True)
def test_many_workers_keep_the_order_on_a_way_that_falters(hook, receiver):  # noqa: F811
    """Four workers, a receiver that refuses every third letter: per thing, no end stands before its beginning."""
    answers, lock, told_states = iter(range(10**6)), threading.Lock(), {}

    class Faltering(receiver.RequestHandlerClass):
        def do_POST(self):
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                refuses = next(answers) % 3 == 2
                if not refuses:
                    told_states.setdefault(said["title"], []).append(said["state"])
            self.send_response(503 if refuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    receiver.RequestHandlerClass = Faltering
    for number in range(12):
        told(dedup_key=str(number), title=f"Thing {number}")
        if number % 2:
            over(str(number))
    failures = []

    def work(which):
        try:
            for step in range(8):
                for pk, claim in services.claim_due(at=now()):
                    services.deliver(pk, claim)
                if which == 0 and step == 2:
                    for number in range(0, 12, 2):
                        over(str(number))
                Delivery.objects.filter(state=DeliveryState.PENDING, claimed_until=None).update(next_at=now())
        except Exception as error:  # whatever it is, the test shows it
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(9):
        Delivery.objects.filter(state=DeliveryState.PENDING, claimed_until=None).update(next_at=now())
        send()
    assert failures == []
    assert len(told_states) == 12
    assert {tuple(each) for each in told_states.values()} <= {("open", "over"), ("over",)}
    assert {each[0] for name, each in told_states.items() if int(name.split()[1]) % 2} == {"over"}


def test_the_page_says_what_became_of_a_beginning_that_was_overtaken(client, hook, chief, receiver):  # noqa: F811
    told()
    over()
    send()
    client.force_login(chief)
    for address in (hook.get_absolute_url(), reverse("notify:list")):
        page = client.get(address).content.decode()
        assert "Overtaken" in page and "over before it could be told" in page
