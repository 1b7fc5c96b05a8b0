"""Notices over the API: what was told, channels without their secrets, silences."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.notify import services
from fleetops.notify.models import Channel, Delivery, Notice, Silence
from fleetops.notify.senders import sign
from tests.api.test_routes import follow
from tests.api.test_tokens import told
from tests.factories import make_account, make_user
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("roles", "valkey")
LIST = "/api/v1/notices/"
CHANNELS = "/api/v1/notices/channels/"
SILENCES = "/api/v1/notices/silences/"
TOPIC = "inventory.region"
KEY = "correct-horse-battery-staple-zq0451x"
SNS = "arn:aws:sns:eu-west-1:111122223333:alerts"


@pytest.fixture(autouse=True)
def account(db):
    return make_account("111122223333")


@pytest.fixture
def chief(bearer):
    return bearer(make_user("chief", role="administrator"))


@pytest.fixture
def auditor(bearer):
    return bearer(make_user("aud", role="auditor"))


def sns(name="Alerts") -> Channel:
    return services.create_channel(actor=make_user(), name=name, kind="sns", address=SNS)[0]


def tell(key="eu-west-1", severity="warning") -> Notice:
    with transaction.atomic():
        return services.notify(TOPIC, dedup_key=key, title=f"{key} cannot be read", severity=severity, url="/fleet/")


def change(program, channel, **body):
    return program.patch(f"{CHANNELS}{channel.pk}/", body, content_type="application/json")


def test_notices_say_what_came_of_each_delivery(auditor):
    channel = sns()
    notice = tell()
    tell()
    (row,) = auditor.get(LIST).json()["results"]
    assert (row["title"], row["severity"], row["repeats"], row["is_open"]) == (
        "eu-west-1 cannot be read",
        "warning",
        1,
        True,
    )
    (delivery,) = row["deliveries"]
    assert (delivery["channel_name"], delivery["state"], delivery["attempts"]) == ("Alerts", "pending", 0)
    assert row["url"] == "http://testserver/fleet/" and auditor.get(f"{LIST}{notice.pk}/").json() == row
    services.resolve(TOPIC, dedup_key="eu-west-1")
    assert auditor.get(LIST, {"open": "true"}).json()["results"] == []
    assert auditor.get(LIST, {"open": "false"}).json()["results"][0]["closed_at"]
    assert auditor.get(f"{CHANNELS}{channel.pk}/").json()["waiting"] == 2


def test_notices_are_filtered_and_paged_in_as_many_queries_however_many(auditor):
    sns()
    counts = []
    for number in (2, 20):
        for each in range(number):
            tell(f"r{number}-{each}", severity="critical" if each % 2 else "info")
        auditor.get(LIST)
        with CaptureQueriesContext(connection) as queries:
            auditor.get(LIST)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 7
    assert len(follow(auditor, f"{LIST}?severity=critical&page_size=3")) == 11
    assert len(auditor.get(LIST, {"topic": TOPIC}).json()["results"]) == 22
    for query in ("open=perhaps", "severity=odd", "topic=odd", "after=x"):
        assert told(auditor.get(f"{LIST}?{query}"), 400)


def test_a_webhooks_address_and_key_are_in_no_answer_and_its_notices_are_signed_with_it(chief, receiver, settings):  # noqa: F811
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    url = url_of(receiver, "/hook-zq0451x")
    body = {"name": "Hook", "kind": "webhook", "address": url, "key": KEY, "severity": "warning"}
    made = chief.post(CHANNELS, body)
    assert made.status_code == 201 and made.json()["address"] == "127.0.0.1", made.content
    pk = made.json()["id"]
    channel = Channel.objects.get(pk=pk)
    tested = chief.post(f"{CHANNELS}{pk}/test/")
    assert tested.status_code == 202
    answers = [
        made,
        tested,
        change(chief, channel, severity="info"),
        chief.get(CHANNELS),
        chief.get(f"{CHANNELS}{pk}/"),
    ]
    answers += [chief.get(LIST), chief.get("/api/v1/audit/events/"), chief.post(CHANNELS, body)]
    for answer in answers:
        assert b"zq0451x" not in answer.content and b"sealed" not in answer.content
    assert "There is a channel “Hook” already" in told(answers[-1], 400)
    assert channel.key() == KEY.encode() and channel.url() == url
    assert not any("zq0451x" in str(vars(event)) for event in AuditEvent.objects.all())
    (delivery,) = services.claim_due(at=now())
    services.deliver(*delivery)
    _, path, headers, sent = receiver.seen[0]
    seconds = int(headers["X-FleetOps-Signature"].partition(",")[0].removeprefix("t="))
    assert path == "/hook-zq0451x" and headers["X-FleetOps-Signature"] == sign(KEY.encode(), sent, seconds)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "N", "kind": "pigeon", "address": "x"}, "kind"),
        ({"name": "N", "kind": "sns", "address": "here"}, "address"),
        ({"name": "N", "kind": "email", "address": "a@example.com"}, "address"),  # no mail server is set
        ({"name": "N", "kind": "slack", "address": "http://127.0.0.1:1/"}, "address"),
        ({"name": "N", "kind": "webhook", "address": "https://hooks.example.com/x"}, "key"),
        ({"name": "N", "kind": "webhook", "address": "https://hooks.example.com/x", "key": "short"}, "key"),
        ({"name": "N", "kind": "sns", "address": SNS, "key": KEY}, "key"),
        ({"name": "N", "kind": "sns", "address": SNS, "topic": "weather"}, "topic"),
        ({"name": "N", "kind": "sns", "address": SNS, "severity": "odd"}, "severity"),
        ({"name": "N", "kind": "sns", "address": SNS, "color": "red"}, "color"),
        ({"name": "Alerts", "kind": "sns", "address": SNS}, "name"),
    ],
)
def test_what_is_no_channel_is_told_by_field_and_nothing_is_kept(chief, body, field):
    sns()
    answer = chief.post(CHANNELS, body)
    assert told(answer, 400) and field in answer.json()["errors"]
    assert Channel.objects.count() == 1


def test_a_channel_is_changed_tested_and_deleted(chief):
    channel = sns()
    assert change(chief, channel, severity="critical").json()["severity"] == "critical"
    body = change(chief, channel, enabled=False).json()
    assert (body["enabled"], body["severity"], body["topic"]) == (False, "critical", "*")
    assert "address" in change(chief, channel, address="x").json()["errors"]
    assert "enable it first" in told(chief.post(f"{CHANNELS}{channel.pk}/test/"), 409)
    assert not Notice.objects.exists()
    assert chief.delete(f"{CHANNELS}{channel.pk}/").status_code == 204
    assert told(chief.get(f"{CHANNELS}{channel.pk}/"), 404)
    actions = list(
        AuditEvent.objects.filter(action__startswith="notify.").order_by("pk").values_list("action", flat=True)
    )
    assert actions == ["notify.channel.create", *["notify.channel.change"] * 2, "notify.channel.delete"]
    event = AuditEvent.objects.get(action="notify.channel.delete")
    assert (event.actor_name, event.source) == ("chief", "api") and event.details["via"]


def test_a_delivery_that_failed_is_sent_again_and_one_that_waits_is_not(chief):
    sns()
    delivery = tell().deliveries.get()
    path = f"/api/v1/notices/deliveries/{delivery.pk}/again/"
    assert "nothing to send again" in told(chief.post(path), 409)
    Delivery.objects.update(state="failed", error="refused", attempts=9)
    body = chief.post(path).json()
    assert (body["state"], body["attempts"], body["error"]) == ("pending", 0, "")
    assert told(chief.post(f"/api/v1/notices/deliveries/{uuid.uuid4()}/again/"), 404)


def test_what_fits_a_silence_is_kept_and_not_sent(chief):
    sns()
    body = chief.post(SILENCES, {"topic": TOPIC, "match": "eu-", "reason": "AWS works on it", "hours": 12}).json()
    assert body["holds"] is True and body["created_by"] == "chief"
    assert abs(Silence.objects.get().until - now() - timedelta(hours=12)) < timedelta(minutes=1)
    notice = tell()
    assert chief.get(f"{LIST}{notice.pk}/").json()["silenced_by"].endswith("AWS works on it")
    assert not Delivery.objects.exists()
    for _ in range(2):
        assert chief.post(f"{SILENCES}{body['id']}/end/").json()["holds"] is False
    assert AuditEvent.objects.filter(action="notify.silence.end").count() == 1
    assert chief.get(SILENCES, {"holds": "true"}).json()["results"] == []
    assert [each["id"] for each in chief.get(SILENCES, {"holds": "false"}).json()["results"]] == [body["id"]]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"topic": "weather"}, "topic"),
        ({"reason": ""}, "reason"),
        ({"hours": 0}, "hours"),
        ({"hours": 721}, "hours"),
        ({"hours": "long"}, "hours"),
        ({"match": "x" * 201}, "match"),
        ({"until": "2030-01-01"}, "until"),
    ],
)
def test_what_is_no_silence_is_told(chief, more, field):
    answer = chief.post(SILENCES, {"topic": "*", "reason": "demo", "hours": 1} | more)
    assert told(answer, 400) and list(answer.json()["errors"]) == [field]
    assert not Silence.objects.exists()


def test_who_may_only_read_changes_nothing(auditor, bearer):
    channel = sns()
    for answer in (
        auditor.post(CHANNELS, {}),
        change(auditor, channel, enabled=False),
        auditor.delete(f"{CHANNELS}{channel.pk}/"),
        auditor.post(f"{CHANNELS}{channel.pk}/test/"),
        auditor.post(SILENCES, {"topic": "*", "reason": "demo", "hours": 1}),
    ):
        assert "lacks the scope notices:write" in told(answer, 403)
    assert AuditEvent.objects.filter(outcome="denied").count() == 5
    demoted = make_user(role="administrator")
    program = bearer(demoted, "notices:read", "notices:write")
    demoted.groups.clear()
    for path in (LIST, CHANNELS, SILENCES):
        assert "notify.view_channel" in told(program.get(path), 403)
    assert "notify.change_channel" in told(program.post(SILENCES, {}), 403)
    assert Channel.objects.get().enabled and not Silence.objects.exists()
