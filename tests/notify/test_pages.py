"""The pages of notices: who sees and changes them, what they show, what bad input gets."""

import pytest
from django.urls import reverse

from fleetops.notify.models import Channel, Silence
from tests.factories import make_user
from tests.notify.test_outbox import chief, hook, inside, send, told  # noqa: F401  (fixtures)
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]


def texts(page):
    return page.content.decode()


def test_the_first_page_says_what_to_do(client, chief):  # noqa: F811
    client.force_login(chief)
    page = texts(client.get(reverse("notify:list")))
    assert "No channel yet" in page and "Add channel" in page


def test_adding_a_signed_webhook_shows_its_key_once(client, chief, receiver, inside):  # noqa: F811
    client.force_login(chief)
    form = {"name": "Hook", "kind": "webhook", "address": url_of(receiver, "/h"), "topic": "*", "severity": "info"}
    page = client.post(reverse("notify:create_channel"), form)
    channel = Channel.objects.get()
    key = channel.key().decode()
    assert key in texts(page)
    assert key not in texts(client.get(channel.get_absolute_url()))
    assert key not in texts(client.get(reverse("notify:list")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"address": "http://169.254.169.254/"}, "private network"),
        ({"address": ""}, "required"),
        ({"kind": "pigeon"}, "not one of the available choices"),
        ({"kind": "email", "address": "a@b.example"}, "No mail server is set"),
    ],
)
def test_a_bad_channel_is_told_and_not_kept(client, chief, changes, words):  # noqa: F811
    client.force_login(chief)
    form = {"name": "X", "kind": "webhook", "address": "https://hooks.example/", "topic": "*", "severity": "info"}
    page = client.post(reverse("notify:create_channel"), form | changes)
    assert page.status_code == 400 and words in texts(page) and not Channel.objects.exists()


def test_a_test_and_what_came_of_it(client, hook, chief, receiver):  # noqa: F811
    client.force_login(chief)
    client.post(reverse("notify:test_channel", args=[hook.pk]))
    assert "Waiting" in texts(client.get(hook.get_absolute_url()))
    send()
    page = texts(client.get(hook.get_absolute_url()))
    assert "A test of" in page and "Sent" in page and len(receiver.seen) == 1


def test_a_failure_is_told_with_its_reason_and_sent_again(client, hook, chief, receiver):  # noqa: F811
    receiver.answers["/hook?secret=hush"] = (410, {}, b"")
    notice = told()
    send()
    client.force_login(chief)
    page = texts(client.get(hook.get_absolute_url()))
    assert "answers 410" in page and "Send again" in page
    assert "Failing" in texts(client.get(reverse("notify:list")))
    client.post(reverse("notify:send_again", args=[notice.deliveries.get().pk]))
    del receiver.answers["/hook?secret=hush"]
    assert send() == 1


def test_changing_and_deleting(client, hook, chief):  # noqa: F811
    client.force_login(chief)
    client.post(hook.get_absolute_url(), {"topic": "inventory.region", "severity": "critical"})
    hook.refresh_from_db()
    assert (hook.topic, hook.severity, hook.enabled) == ("inventory.region", "critical", False)
    assert client.post(reverse("notify:test_channel", args=[hook.pk])).status_code == 409
    client.post(reverse("notify:delete_channel", args=[hook.pk]))
    assert not Channel.objects.exists()


def test_silences_by_the_page(client, chief):  # noqa: F811
    client.force_login(chief)
    bad = client.post(reverse("notify:add_silence"), {"topic": "*", "reason": "", "hours": "0"})
    assert bad.status_code == 400 and not Silence.objects.exists()
    client.post(reverse("notify:add_silence"), {"topic": "*", "match": "eu", "reason": "INC-1", "hours": "2"})
    assert "INC-1" in texts(client.get(reverse("notify:list")))
    client.post(reverse("notify:end_silence", args=[Silence.objects.get().pk]))
    assert "Nothing is silent" in texts(client.get(reverse("notify:list")))


def test_an_auditor_reads_and_changes_nothing(client, hook):  # noqa: F811
    client.force_login(make_user(role="auditor"))
    assert "Add channel" not in texts(client.get(reverse("notify:list")))
    assert client.post(hook.get_absolute_url(), {"topic": "*", "severity": "info"}).status_code == 403


def test_the_list_is_paged_and_asks_the_same_few_questions(client, hook, chief, django_assert_max_num_queries):  # noqa: F811
    for number in range(60):
        told(dedup_key=str(number), title=f"Thing {number}")
    client.force_login(chief)
    with django_assert_max_num_queries(16):
        page = texts(client.get(reverse("notify:list")))
    assert page.count("Thing ") == 50 and "Older notices" in page
