"""Calendars over the API: made, changed, fetched, asked; the address of a feed is never told."""

import uuid
from datetime import UTC, datetime

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.calendars import services
from fleetops.calendars.forms import facts_of
from fleetops.calendars.models import Calendar
from tests.api.test_routes import follow
from tests.api.test_tokens import told
from tests.calendars.test_gate import YEARS_END
from tests.factories import make_user
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("roles", "valkey")
LIST = "/api/v1/calendars/"
CHECK = "/api/v1/calendars/check/"


@pytest.fixture
def owner(bearer):
    return bearer(make_user("own", role="patch_owner"))


def change(program, calendar, **body):
    return program.patch(f"{LIST}{calendar.pk}/", body, content_type="application/json")


def made(name="Year's end", **fields) -> Calendar:
    return services.create_calendar(actor=make_user(), name=name, **({"source": "own"} | fields))


def test_a_freeze_is_made_given_a_period_and_holds(owner):
    answer = owner.post(
        LIST, {"name": "Year's end", "targets": "env=prod", "deeds": ["patch"], "zone": "Europe/Berlin"}
    )
    body = answer.json()
    assert answer.status_code == 201, body
    assert (body["kind"], body["source"], body["deeds"], body["enabled"]) == ("freeze", "own", ["patch"], True)
    assert body["current"] is None and body["coming"] == []
    entries = f"{LIST}{body['id']}/entries/"
    period = {"title": "Closing", "start": "2030-12-20T18:00", "end": "2031-01-06T06:00"}
    entry = owner.post(entries, period).json()
    assert entry == period | {"id": entry["id"], "repeat": "", "until": None}
    asked = {"deed": "patch", "at": "2030-12-24T12:00:00Z", "facts": "env=prod"}
    gate = owner.get(CHECK, asked).json()
    assert gate["is_open"] is False and gate["changes_at"] == "2031-01-06T05:00:00Z"
    assert gate["holds"][0]["calendar"] == "Year's end" and "Closing" in gate["holds"][0]["text"]
    assert owner.get(CHECK, asked | {"facts": "env=dev"}).json()["is_open"] is True
    assert owner.get(CHECK, asked | {"deed": "shell"}).json()["holds"] == []
    events = AuditEvent.objects.filter(action__startswith="calendars.").order_by("pk")
    assert [(each.action, each.actor_name, each.source) for each in events] == [
        ("calendars.create", "own", "api"),
        ("calendars.entry.add", "own", "api"),
    ]
    assert all(each.details["via"].startswith("pipeline (fo_") for each in events)
    assert "Closing" in owner.get(f"{LIST}{body['id']}/ics/").content.decode()
    assert [each["title"] for each in owner.get(entries).json()["results"]] == ["Closing"]
    assert owner.delete(f"{entries}{entry['id']}/").status_code == 204
    assert told(owner.delete(f"{entries}{entry['id']}/"), 404)
    assert owner.get(CHECK, asked).json()["is_open"] is True


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "Taken"}, "name"),
        ({"name": "N", "kind": "thaw"}, "kind"),
        ({"name": "N", "deeds": []}, "deeds"),
        ({"name": "N", "deeds": ["fly"]}, "deeds.0"),
        ({"name": "N", "targets": "a=1 and b=2 or c=3"}, "targets"),
        ({"name": "N", "zone": "Mars/Base"}, "zone"),
        ({"name": "N", "source": "url"}, "url"),
        ({"name": "N", "source": "url", "url": "http://127.0.0.1:1/x.ics"}, "url"),
        ({"name": "N", "source": "url", "url": "file:///etc/passwd"}, "url"),
        ({"name": "N", "source": "upload"}, "text"),
        ({"name": "N", "source": "upload", "text": "no calendar"}, "text"),
        ({"name": "N", "enabled": "perhaps"}, "enabled"),
        ({"name": "N", "frozen": True}, "frozen"),
        ({"name": "N\x00"}, "name"),
        ({"name": "x" * 81}, "name"),
    ],
)
def test_what_is_no_calendar_is_told_by_field_and_nothing_is_kept(owner, body, field):
    made("Taken")
    answer = owner.post(LIST, body)
    assert told(answer, 400) and list(answer.json()["errors"]) == [field]
    assert Calendar.objects.count() == 1


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"title": ""}, "title"),
        ({"start": "2030-12-20"}, "start"),
        ({"start": "2030-12-20T18:00Z"}, "start"),
        ({"start": ["2030"]}, "start"),
        ({"end": "2030-12-01T00:00"}, "end"),
        ({"end": "2039-12-01T00:00"}, "end"),
        ({"start": "1800-01-01T00:00"}, "start"),
        ({"repeat": "OFTEN"}, "repeat"),
        ({"repeat": "DAILY"}, "end"),
        ({"until": "2030-01-01"}, "until"),
        ({"until": "never"}, "until"),
        ({"color": "red"}, "color"),
    ],
)
def test_what_is_no_period_is_told(owner, more, field):
    calendar = made()
    period = {"title": "Closing", "start": "2030-12-20T18:00", "end": "2031-01-06T06:00"}
    answer = owner.post(f"{LIST}{calendar.pk}/entries/", period | more)
    assert told(answer, 400) and list(answer.json()["errors"]) == [field]
    assert not calendar.entries.exists()


def test_a_part_of_a_calendar_is_changed_and_the_rest_stays(owner):
    calendar = made("Uploaded", source="upload", text=YEARS_END, deeds=["patch"], targets="env=prod", note="old")
    body = change(owner, calendar, note="new").json()
    assert (body["note"], body["deeds"], body["targets"], body["source"]) == ("new", ["patch"], "env=prod", "upload")
    calendar.refresh_from_db()
    assert calendar.text == YEARS_END
    assert AuditEvent.objects.get(action="calendars.change").details["before"] == {"note": "old"}
    assert "source" in change(owner, calendar, source="own").json()["errors"]
    made("Taken")
    assert "There is a calendar" in told(change(owner, calendar, name="Taken"), 400)
    assert change(owner, calendar, enabled=False).json()["enabled"] is False
    assert services.ask("patch", facts_of("env=prod"), datetime(2026, 12, 24, 12, tzinfo=UTC)).is_open


def test_the_address_of_a_feed_is_never_told(owner, receiver, settings):  # noqa: F811
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    receiver.answers["/feed-0451.ics"] = (200, {}, YEARS_END.encode())
    url = url_of(receiver, "/feed-0451.ics")
    answer = owner.post(LIST, {"name": "Feed", "source": "url", "url": url})
    assert answer.status_code == 201 and answer.json()["host"] == "127.0.0.1"
    pk = answer.json()["id"]
    changed = change(owner, Calendar.objects.get(pk=pk), note="x")
    everything = [answer, changed, owner.get(LIST), owner.get(f"{LIST}{pk}/"), owner.get(f"{LIST}{pk}/ics/")]
    assert all(each.status_code in {200, 201} and b"feed-0451" not in each.content for each in everything)
    assert not any("feed-0451" in str(vars(event)) for event in AuditEvent.objects.all())
    assert Calendar.objects.get(pk=pk).url() == url
    assert owner.post(f"{LIST}{pk}/fetch/").status_code == 202


def test_what_is_kept_here_is_not_fetched_and_what_comes_from_elsewhere_takes_no_period(owner):
    own, uploaded = made(), made("Uploaded", source="upload", text=YEARS_END)
    assert "nothing to fetch" in told(owner.post(f"{LIST}{own.pk}/fetch/"), 409)
    period = {"title": "Closing", "start": "2030-12-20T18:00", "end": "2031-01-06T06:00"}
    assert "comes from elsewhere" in told(owner.post(f"{LIST}{uploaded.pk}/entries/", period), 409)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "deed"),
        ({"deed": "fly"}, "deed"),
        ({"deed": "patch", "at": "soon"}, "at"),
        ({"deed": "patch", "facts": "prod"}, "facts"),
        ({"deed": "patch", "fact": "env=prod"}, "fact"),
    ],
)
def test_a_question_that_makes_no_sense_is_told(owner, asked, field):
    answer = owner.get(CHECK, asked)
    assert told(answer, 400) and list(answer.json()["errors"]) == [field]


def test_calendars_are_listed_filtered_and_paged(owner):
    made()
    made("Window", kind="window", enabled=False)
    made("Uploaded", source="upload", text=YEARS_END)

    def names(**asked):
        return {row["name"] for row in owner.get(LIST, asked).json()["results"]}

    assert names(kind="window") == names(enabled="false") == {"Window"} and names(source="upload") == {"Uploaded"}
    assert len(follow(owner, f"{LIST}?page_size=1")) == 3
    for query in ("kind=thaw", "source=x", "enabled=1", "after=x"):
        assert told(owner.get(f"{LIST}?{query}"), 400)


def test_who_may_only_read_changes_nothing(bearer):
    calendar = made()
    viewer = bearer(make_user("viewer", role="viewer"))
    assert viewer.get(f"{LIST}{calendar.pk}/").status_code == 200
    for answer in (
        viewer.post(LIST, {"name": "Mine"}),
        change(viewer, calendar, enabled=False),
        viewer.delete(f"{LIST}{calendar.pk}/"),
        viewer.post(f"{LIST}{calendar.pk}/entries/", {}),
    ):
        assert "lacks the scope calendars:write" in told(answer, 403)
    assert AuditEvent.objects.filter(outcome="denied").count() == 4
    assert Calendar.objects.get().enabled
    demoted = make_user("demoted", role="patch_owner")
    program = bearer(demoted, "calendars:write", "calendars:read")
    demoted.groups.clear()
    assert "calendars.change_calendar" in told(program.delete(f"{LIST}{calendar.pk}/"), 403)
    assert "calendars.view_calendar" in told(program.get(f"{LIST}{calendar.pk}/"), 403)


def test_a_calendar_that_is_deleted_binds_nothing_and_is_a_404(owner):
    calendar = made()
    assert owner.delete(f"{LIST}{calendar.pk}/").status_code == 204
    for path in ("", "entries/", "ics/"):
        assert told(owner.get(f"{LIST}{calendar.pk}/{path}"), 404)
    assert told(owner.post(f"{LIST}{uuid.uuid4()}/fetch/"), 404)
