"""The pages and routes of deliveries: who may say where sessions go, the check, and how far a session is."""

import json
from datetime import timedelta

import pytest
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.doctor import checks as checks_of_doctor
from fleetops.notify.models import Notice
from sessions_app.delivery import checks, numbers, services
from sessions_app.delivery.models import DeliverySettings, LogDelivery, RecordingCopy
from sessions_app.models import TerminalSession
from tests.api.conftest import make_token
from tests.factories import make_account, make_region, make_user

pytestmark = pytest.mark.django_db

FORM = {
    "has_transcript": "on",
    "log_group": "/fleetops/shells",
    "retention_days": "30",
    "log_kms_key": "",
    "strict": "pass",
    "bucket": "fleetops-copies",
    "prefix": "a/b/",
    "bucket_kms_key": "",
}


@pytest.fixture(autouse=True)
def no_worker(monkeypatch, valkey):
    """Tasks are handed over and carried out by nobody."""


@pytest.fixture
def chief(roles, client):
    client.force_login(make_user("chief", role="administrator"), backend="django.contrib.auth.backends.ModelBackend")
    return client


def page(account) -> str:
    return reverse("deliveries:account", args=[account.pk])


def test_settings_are_shown_changed_audited_and_checked(chief, account):
    shown = chief.get(page(account)).content.decode()
    assert "/fleetops/sessions" in shown and 'name="has_transcript" checked' in shown
    answer = chief.post(page(account), FORM, follow=True)
    assert "Changed." in answer.content.decode() and "Checking" in answer.content.decode()
    row = DeliverySettings.objects.get(account=account)
    assert (row.has_transcript, row.has_commands, row.retention_days, row.strict) == (True, False, 30, "pass")
    assert (row.bucket, row.prefix, row.check_asked_by) == ("fleetops-copies", "a/b", "chief")
    event = AuditEvent.objects.get(action="sessions.delivery.change")
    assert event.details["before"]["has_commands"] is True and event.details["after"]["has_commands"] is False
    assert AuditEvent.objects.filter(action="sessions.delivery.check").exists()
    again = chief.post(page(account), FORM, follow=True).content.decode()
    assert "Nothing was changed." in again and 'value="30" selected' in again and 'value="pass" selected' in again


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"log_group": ""}, "A log group’s name has"),
        ({"log_group": "two words"}, "A log group’s name has"),
        ({"log_kms_key": "my-key"}, "Give the key’s ARN"),
        ({"bucket": "No_Bucket"}, "A bucket’s name has"),
        ({"bucket": "", "bucket_kms_key": "arn:aws:kms:eu-west-1:111122223333:key/a"}, "Name the bucket"),
        ({"prefix": "a b"}, "in a prefix"),
        ({"retention_days": "31"}, "31"),
        ({"strict": "maybe"}, "maybe"),
    ],
)
def test_what_cannot_be_is_told_at_its_field(chief, account, changed, words):
    answer = chief.post(page(account), FORM | changed)
    assert answer.status_code == 400
    assert words.replace("’", "&#x27;") in answer.content.decode() or words in answer.content.decode()
    assert not AuditEvent.objects.filter(action="sessions.delivery.change").exists()


def test_the_check_proves_each_permission_and_names_the_one_that_is_missing(chief, account, endpoint, faults):
    client = endpoint.client("s3")
    client.create_bucket(Bucket="fleetops-check", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    services.change(account, {"bucket": "fleetops-check", "retention_days": 7}, actor="tests")
    services.ask_check(account, actor="tests")
    checks.carry_out(account.pk)
    row = DeliverySettings.objects.get(account=account)
    steps = ["CreateLogGroup", "PutRetentionPolicy", "CreateLogStream", "PutLogEvents", "GetLogEvents"]
    regions = list(account.regions.order_by("name").values_list("name", flat=True))
    told = [(each["region"], each["action"]) for each in row.check_rows]
    assert told == [(region, f"logs:{step}") for region in regions for step in steps] + [(regions[0], "s3:PutObject")]
    assert all(each["ok"] for each in row.check_rows)
    assert "Works" in chief.get(reverse("deliveries:live", args=[account.pk])).content.decode()

    services.ask_check(account, actor="tests")
    refusal = {"code": "AccessDeniedException", "status": 400}
    with faults.on("error", match={"service": "logs", "operation": "GetLogEvents"}, **refusal):
        checks.carry_out(account.pk)
    shown = chief.get(page(account)).content.decode()
    assert "Does not work" in shown and "let the account&#x27;s role allow logs:GetLogEvents" in shown


def test_a_check_whose_worker_died_says_so(chief, account):
    services.ask_check(account, actor="tests")
    assert "Checking" in chief.get(page(account)).content.decode()
    DeliverySettings.objects.update(check_asked_at=now() - timedelta(minutes=3))
    assert "Check lost" in chief.get(page(account)).content.decode()


def test_the_account_next_to_it_keeps_its_own(chief, account):
    other = make_region("eu-west-1", account=make_account("999988887777")).account
    services.change(account, {"log_group": "/fleetops/one"}, actor="tests")
    assert services.wanted(other).log_group == "/fleetops/sessions" and not services.wanted(other).has_logs
    assert "Nothing of sessions" in chief.get(page(other)).content.decode()


def test_list_and_replay_tell_the_lag_in_words_and_no_further_queries(
    chief, recorded, account, django_assert_max_num_queries
):
    services.change(account, {"bucket": "fleetops-copies"}, actor="tests")
    made = recorded().show(b"one\r\n").seal()
    listed = chief.get(reverse("sessions:list")).content.decode()
    assert " behind" in listed and "CloudWatch Logs" in listed
    LogDelivery.objects.update(waiting_since=now(), error="AWS asks for fewer calls of logs:PutLogEvents.")
    listed = chief.get(reverse("sessions:list")).content.decode()
    assert "Waiting since" in listed and "AWS asks for fewer calls" in listed
    LogDelivery.objects.update(waiting_since=None, error="")
    made.end().deliver()
    replay = chief.get(reverse("sessions:replay", args=[made.session.pk])).content.decode()
    assert "Complete, 3 events" in replay and made.row.log_stream in replay and "After the end" in replay
    RecordingCopy.objects.update(done_at=now(), size=1234, sha256="ab" * 32)
    replay = chief.get(reverse("sessions:replay", args=[made.session.pk])).content.decode()
    assert "In the bucket" in replay and "console.aws.amazon.com" not in replay
    account.endpoint_url = ""
    account.save()
    found = services.with_lag(TerminalSession.objects.all()).get(pk=made.session.pk)
    assert services.console_of(found).endswith(f"$252F{made.session.pk}")
    with django_assert_max_num_queries(13):
        chief.get(reverse("sessions:list"))


def test_the_account_page_leads_there(chief, account):
    assert page(account) in chief.get(reverse("accounts:account", args=[account.pk])).content.decode()


def test_the_same_over_the_api(roles, client, recorded, account):
    token = make_token(make_user(role="administrator"), "accounts:read", "accounts:write", "sessions:read")
    headers = {"HTTP_AUTHORIZATION": f"Bearer {token}"}
    url = reverse("api:account_delivery", args=[account.pk])
    assert client.get(url, **headers).json()["log_group"] == "/fleetops/sessions"
    body = {"strict": "end", "retention_days": 14}
    told = client.patch(url, json.dumps(body), content_type="application/json", **headers).json()
    assert (told["strict"], told["retention_days"], told["is_checking"]) == ("end", 14, True)
    bad = client.patch(url, json.dumps({"log_group": "no group"}), content_type="application/json", **headers)
    assert bad.status_code == 400 and "log_group" in bad.content.decode()
    assert client.post(reverse("api:check_delivery", args=[account.pk]), **headers).status_code == 202
    made = recorded().show(b"one\r\n").end()
    made.deliver()
    told = client.get(reverse("api:session_delivery", args=[made.session.pk]), **headers).json()
    assert told["logs"]["is_complete"] is True and told["logs"]["events"] == 3
    assert told["logs"]["log_stream"] == made.row.log_stream and told["recording_copy"] is None


def test_ten_minutes_of_waiting_are_told_once_and_so_is_their_end(account, recorded):
    made = recorded().show(b"one\r\n").seal()
    rows = LogDelivery.objects.filter(pk=made.session.pk)
    rows.update(waiting_since=now() - timedelta(minutes=9), error="AWS refused it.")
    services.tell_late(now())
    assert not Notice.objects.exists()
    rows.update(waiting_since=now() - timedelta(minutes=11))
    services.tell_late(now())
    services.tell_late(now())
    notice = Notice.objects.get()
    assert notice.title == f"Sessions in {account} wait for CloudWatch Logs" and "AWS refused it." in notice.text
    assert notice.repeats == 0 and notice.closed_at is None
    made.end().deliver()
    services.tell_late(now())
    notice.refresh_from_db()
    assert notice.closed_at is not None


def test_the_doctor_and_the_numbers_say_what_waits(recorded):
    made = recorded().show(b"one\r\n").seal()
    visit = checks_of_doctor.Visit(has_database=True)
    assert {finding.state for finding in checks_of_doctor.deliveries(visit)} == {checks_of_doctor.OK}
    LogDelivery.objects.update(waiting_since=now() - timedelta(minutes=11))
    first, second = checks_of_doctor.deliveries(visit)
    assert first.state == checks_of_doctor.FAILED and "1 sessions wait for CloudWatch Logs" in first.text
    assert second.state == checks_of_doctor.OK
    assert dict(numbers.waiting()) == {("logs",): 1, ("s3",): 0}
    assert dict(numbers.waiting_seconds())["logs",] > 600
    made.end().deliver()
    assert dict(numbers.lag_seconds()) == {(): 0.0}
