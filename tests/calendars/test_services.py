"""Calendars as they are kept, fetched and asked; and their pages."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.calendars import services
from fleetops.calendars.models import Calendar, Entry, Repeat
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.fetch import FetchRefused
from fleetops.targets import TargetFacts
from tests.calendars.test_gate import NIGHTS, YEARS_END, repeated
from tests.factories import make_user
from tests.test_fetch import receiver, url_of  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

PROD = TargetFacts("i-1", tags={"env": "prod"})
STAGING = TargetFacts("i-2", tags={"env": "staging"})
CHRISTMAS = datetime(2026, 12, 24, 12, tzinfo=UTC)


@pytest.fixture
def owner():
    return make_user(role="patch_owner")


@pytest.fixture
def inside(settings):
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def texts(page):
    return page.content.decode()


def made(owner, **changes):
    return services.create_calendar(
        actor=owner, **{"name": "Year's end", "source": "upload", "text": YEARS_END} | changes
    )


def test_a_calendar_binds_its_deeds_on_its_instances(owner):
    made(owner, deeds=["patch"], targets="env=prod")
    assert not services.ask("patch", PROD, CHRISTMAS).is_open
    assert services.ask("patch", STAGING, CHRISTMAS).is_open
    assert services.ask("shell", PROD, CHRISTMAS).is_open


def test_a_calendar_that_is_disabled_binds_nothing(owner):
    calendar = made(owner)
    services.change_calendar(
        calendar, actor=owner, name=calendar.name, kind="freeze", deeds=["*"], targets="all", zone="UTC", enabled=False
    )
    assert services.ask("patch", PROD, CHRISTMAS).is_open
    changed = AuditEvent.objects.get(action="calendars.change")
    assert (changed.details["before"], changed.details["after"]) == ({"enabled": True}, {"enabled": False})


def test_asking_for_many_instances_takes_one_query(owner, django_assert_num_queries):
    for number in range(5):
        made(owner, name=f"Calendar {number}")
    with django_assert_num_queries(1):
        standing = services.standing()
        answers = [services.ask("patch", PROD, CHRISTMAS, standing) for _ in range(50)]
    assert not any(answer.is_open for answer in answers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"zone": "../../etc/passwd"}, "no time zone"),
        ({"targets": ""}, "empty"),
        ({"targets": "env=a and b=c or d=e"}, "parentheses"),
        ({"deeds": []}, "Choose what the calendar binds"),
        ({"deeds": ["dance"]}, "Choose what the calendar binds"),
        ({"text": ""}, "Choose the file"),
        ({"text": "no"}, "no iCalendar"),
        ({"source": "url"}, "Give the address"),
    ],
)
def test_what_cannot_be_kept_is_told_and_nothing_is(owner, changes, words):
    with pytest.raises(UserError, match=words):
        made(owner, **changes)
    assert not Calendar.objects.exists()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/x.ics", "https://localhost/x.ics", "http://169.254.169.254/latest", "file:///etc/passwd"],
)
def test_an_address_inside_is_refused_and_nothing_is_kept(owner, url):
    with pytest.raises(FetchRefused):
        made(owner, source="url", url=url)
    assert not Calendar.objects.exists()


def test_a_name_is_given_once(owner):
    made(owner)
    with pytest.raises(UserError, match="choose another name"):
        made(owner)


def test_a_calendar_is_fetched_and_its_address_is_kept_sealed(owner, receiver, inside):  # noqa: F811
    receiver.answers["/cal?key=hush"] = (200, {}, YEARS_END.encode())
    calendar = made(owner, source="url", url=url_of(receiver, "/cal?key=hush"))
    row = str(Calendar.objects.filter(pk=calendar.pk).values()[0]) + str(AuditEvent.objects.values())
    assert "hush" not in row
    assert calendar.url().endswith("hush")
    assert not services.ask("patch", PROD, CHRISTMAS).is_open


def test_the_last_good_copy_stays_while_fetches_fail(owner, receiver, inside):  # noqa: F811
    receiver.answers["/cal"] = (200, {}, YEARS_END.encode())
    calendar = made(owner, source="url", url=url_of(receiver, "/cal"))
    receiver.answers["/cal"] = (200, {}, b"<html>Sign in</html>")
    services.refetch(calendar.pk)
    receiver.answers["/cal"] = (503, {}, b"")
    services.refetch(calendar.pk)
    calendar.refresh_from_db()
    assert (calendar.failures, calendar.text) == (2, YEARS_END)
    assert "answers 503" in calendar.error
    assert calendar.fetch_at > now() + timedelta(minutes=50)  # 15 min, doubled twice
    assert AuditEvent.objects.filter(action="calendars.fetch.fail").count() == 1
    receiver.answers["/cal"] = (200, {}, NIGHTS.encode())
    services.refetch(calendar.pk)
    calendar.refresh_from_db()
    assert (calendar.failures, calendar.error) == (0, "")
    assert "Nights" in calendar.text


def test_a_change_takes_nothing_back_that_was_fetched_meanwhile(owner, receiver, inside):  # noqa: F811
    receiver.answers["/cal"] = (200, {}, YEARS_END.encode())
    seen = made(owner, source="url", url=url_of(receiver, "/cal"))
    receiver.answers["/cal"] = (200, {}, NIGHTS.encode())
    services.refetch(seen.pk)
    services.change_calendar(seen, actor=owner, note="of one who had it open before")
    calendar = Calendar.objects.get(pk=seen.pk)
    assert (calendar.text, calendar.note) == (NIGHTS, "of one who had it open before")


def test_an_entry_is_of_the_zone_that_its_calendar_has_by_now(owner):
    seen = made(owner, source="own", text="")
    services.change_calendar(Calendar.objects.get(pk=seen.pk), actor=owner, zone="Asia/Tokyo")
    services.add_entry(seen, actor=owner, title="Night", start=datetime(2027, 1, 1, 1), end=datetime(2027, 1, 1, 5))
    assert "TZID=Asia/Tokyo" in Calendar.objects.get(pk=seen.pk).text


def test_what_was_deleted_meanwhile_does_not_come_back(owner):
    seen = made(owner, source="own", text="")
    services.delete_calendar(Calendar.objects.get(pk=seen.pk), actor=owner)
    for change in (
        lambda: services.change_calendar(seen, actor=owner, note="too late"),
        lambda: services.add_entry(
            seen, actor=owner, title="Night", start=datetime(2027, 1, 1, 1), end=datetime(2027, 1, 1, 5)
        ),
    ):
        with pytest.raises(UserError, match="deleted this calendar meanwhile"):
            change()
    assert not Calendar.objects.exists()


def test_a_calendar_is_claimed_by_one_worker_and_again_when_that_one_is_gone(owner, receiver, inside):  # noqa: F811
    receiver.answers["/cal"] = (200, {}, YEARS_END.encode())
    calendar = made(owner, source="url", url=url_of(receiver, "/cal"))
    moment = now() + timedelta(minutes=16)
    assert services.claim_due(at=now()) == []
    assert services.claim_due(at=moment) == [calendar.pk]
    assert services.claim_due(at=moment) == []
    assert services.claim_due(at=moment + timedelta(minutes=2)) == [calendar.pk]


def test_entries_that_are_kept_here(owner):
    calendar = services.create_calendar(actor=owner, name="Nights", kind="window", source="own", zone="Europe/Berlin")
    assert not services.ask("patch", PROD, CHRISTMAS).is_open  # a calendar of windows without any
    services.add_entry(
        calendar,
        actor=owner,
        title="Night",
        start=datetime(2026, 1, 1, 22),
        end=datetime(2026, 1, 2, 4),
        repeat="DAILY",
    )
    assert services.ask("patch", PROD, datetime(2026, 12, 24, 21, 30, tzinfo=UTC)).is_open
    services.remove_entry(calendar.entries.get(), actor=owner)
    assert not services.ask("patch", PROD, datetime(2026, 12, 24, 21, 30, tzinfo=UTC)).is_open
    done = AuditEvent.objects.filter(action__startswith="calendars.").order_by("at", "pk")
    assert [each.action for each in done] == ["calendars.create", "calendars.entry.add", "calendars.entry.remove"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"end": datetime(2026, 1, 1, 22)}, "after the start"),
        ({"end": datetime(2027, 6, 1)}, "a year at most"),
        ({"end": datetime(2026, 1, 3, 23), "repeat": "DAILY"}, "longer than the time after which it repeats"),
        ({"repeat": "WEEKLY", "until": datetime(2025, 1, 1).date()}, "before it starts"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(owner, changes, words):
    calendar = services.create_calendar(actor=owner, name="Nights", source="own")
    entry = {"title": "x", "start": datetime(2026, 1, 1, 22), "end": datetime(2026, 1, 2, 4)} | changes
    with pytest.raises(UserError, match=words):
        services.add_entry(calendar, actor=owner, **entry)
    assert not Entry.objects.exists()


@pytest.mark.parametrize(
    ("repeat", "second"),
    [
        (Repeat.DAILY, "2026-01-14"),
        (Repeat.WEEKDAYS, "2026-01-14"),
        (Repeat.WEEKLY, "2026-01-20"),
        (Repeat.MONTHLY, "2026-02-13"),
        (Repeat.MONTHLY_WEEKDAY, "2026-02-10"),  # the second Tuesday
        (Repeat.YEARLY, "2027-01-13"),
    ],
)
def test_each_way_to_repeat(owner, repeat, second):
    calendar = services.create_calendar(actor=owner, name="Any", source="own")
    services.add_entry(
        calendar, actor=owner, title="x", start=datetime(2026, 1, 13, 10), end=datetime(2026, 1, 13, 11), repeat=repeat
    )
    after = services.ask("patch", PROD, datetime(2026, 1, 13, 12, tzinfo=UTC))
    assert f"{after.changes_at:%Y-%m-%d}" == second


# Pages


def test_the_list_says_what_is_frozen_now(client, owner, django_assert_max_num_queries):
    calendar = services.create_calendar(actor=owner, name="Right now", source="own")
    here = now().replace(tzinfo=None)
    services.add_entry(
        calendar, actor=owner, title="Hold", start=here - timedelta(hours=1), end=here + timedelta(hours=1)
    )
    for number in range(20):
        made(owner, name=f"More {number}")
    client.force_login(make_user(role="viewer"))
    with django_assert_max_num_queries(12):
        page = texts(client.get(reverse("calendars:list")))
    assert "freeze is</b>" in page or "1</b> freeze is" in page
    assert "Right now" in page and "More 19" in page
    assert "Add calendar" not in page


def form(**changes):
    fields = {
        "name": "Year's end", "kind": "freeze", "source": "upload", "deeds": ["patch"], "targets": "env=prod",
        "zone": "UTC", "note": "", "enabled": "on",
    }  # fmt: skip
    return fields | changes


def test_uploading_a_calendar(client, owner):
    client.force_login(owner)
    answer = client.post(
        reverse("calendars:create"), form(file=SimpleUploadedFile("year.ics", YEARS_END.encode())), follow=True
    )
    assert "is read and in force" in texts(answer)
    assert not services.ask("patch", PROD, CHRISTMAS).is_open


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "url", "url": "http://127.0.0.1/x"}, "private network"),
        ({"targets": "env=prod and"}, "and"),
        ({}, "Choose the file"),
        ({"deeds": []}, "Choose what the calendar binds"),
    ],
)
def test_a_bad_form_is_told_and_keeps_nothing(client, owner, changes, words):
    client.force_login(owner)
    answer = client.post(reverse("calendars:create"), form(**changes))
    assert answer.status_code == 400
    assert words in texts(answer)
    assert not Calendar.objects.exists()


def test_adding_and_removing_an_entry_by_the_page(client, owner):
    calendar = services.create_calendar(actor=owner, name="Own", source="own", zone="Europe/Berlin")
    client.force_login(owner)
    entry = {"title": "Release", "start": "2026-12-01T08:00", "end": "2026-12-01T18:00", "repeat": "", "until": ""}
    page = client.post(reverse("calendars:add_entry", args=[calendar.pk]), entry, follow=True)
    assert "Release" in texts(page) and "1 Dec 2026, 08:00" in texts(page)
    assert not services.ask("patch", PROD, datetime(2026, 12, 1, 7, tzinfo=UTC)).is_open
    bad = client.post(reverse("calendars:add_entry", args=[calendar.pk]), entry | {"end": "2026-11-01T08:00"})
    assert bad.status_code == 400 and "after the start" in texts(bad)
    removed = client.post(
        reverse("calendars:remove_entry", args=[calendar.pk]), {"entry": calendar.entries.get().pk}, follow=True
    )
    assert "is removed" in texts(removed)


def test_the_file_of_a_calendar_reads_back(client, owner):
    calendar = services.create_calendar(actor=owner, name="Own", source="own")
    services.add_entry(
        calendar, actor=owner, title="Release", start=datetime(2026, 12, 1, 8), end=datetime(2026, 12, 1, 18)
    )
    client.force_login(make_user(role="viewer"))
    answer = client.get(reverse("calendars:ics", args=[calendar.pk]))
    assert answer["Content-Disposition"] == 'attachment; filename="own.ics"'
    again = made(owner, name="Again", text=answer.content.decode())
    assert "Release" in again.text


def test_checking_a_moment(client, owner):
    made(owner, targets="env=prod")
    client.force_login(make_user(role="viewer"))
    ask = {"deed": "patch", "at": "2026-12-24T12:00", "facts": "env=prod, region=eu-west-1"}
    page = texts(client.get(reverse("calendars:check"), ask))
    assert "Held" in page and "until 2027-01-04 08:00 UTC" in page
    assert "No calendar holds it then" in texts(client.get(reverse("calendars:check"), ask | {"facts": "env=dev"}))
    bad = client.get(reverse("calendars:check"), ask | {"facts": "prod"})
    assert bad.status_code == 400 and "write key=value" in texts(bad)


def test_for_ten_thousand_instances_calendars_are_expanded_once_a_set(owner):
    for number in range(10):
        made(owner, name=f"Often {number}", text=repeated("FREQ=HOURLY"), targets=f"env=e{number % 5}")
    calendars = services.standing()
    services._answer.cache_clear()
    answers = [
        services.ask("patch", TargetFacts(f"i-{n}", tags={"env": f"e{n % 10}"}), CHRISTMAS, calendars)
        for n in range(10_000)
    ]
    assert services._answer.cache_info().misses == 6  # five sets of two calendars, and none at all
    assert [answer.is_open for answer in answers[:10]] == [False] * 5 + [True] * 5


def test_entries_that_would_take_long_to_expand_are_refused_and_not_kept(owner):
    calendar = made(owner, name="Ours", source="own", text="")
    Entry.objects.bulk_create(
        Entry(calendar=calendar, title="x", starts="2026-12-01T10:00", ends="2026-12-01T11:00", repeat="DAILY")
        for _ in range(60)
    )
    with pytest.raises(UserError, match="repeats too often"):
        services.add_entry(
            calendar, actor=owner, title="x", start=datetime(2026, 12, 1), end=datetime(2026, 12, 2), repeat="DAILY"
        )
    assert calendar.entries.count() == 60


@pytest.mark.parametrize(("year", "until"), [(1, None), (9999, None), (2026, date(9999, 12, 31))])
def test_entries_lie_in_years_that_can_be_told(owner, year, until):
    calendar = made(owner, name="Ours", source="own", text="", zone="America/New_York")
    with pytest.raises(UserError, match="2000 to 2100"):
        services.add_entry(
            calendar, actor=owner, title="x", start=datetime(year, 12, 1), end=datetime(year, 12, 2), repeat="YEARLY",
            until=until,
        )  # fmt: skip


def test_a_title_is_shown_and_not_obeyed(client, owner):
    calendar = made(owner, name="<b>Bold</b>", text=YEARS_END.replace("Year's end", "<script>alert(1)</script>"))
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    for path in (reverse("calendars:list"), calendar.get_absolute_url()):
        page = texts(client.get(path))
        assert "<script>alert" not in page and "<b>Bold" not in page and "&lt;b&gt;Bold" in page


def test_many_calendars_are_paged(client, owner, django_assert_max_num_queries):
    Calendar.objects.bulk_create(
        Calendar(name=f"Freeze {n:03}", source="upload", text=YEARS_END, deeds=["*"]) for n in range(120)
    )
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    with django_assert_max_num_queries(13):
        page = texts(client.get(reverse("calendars:list")))
    assert "Freeze 049" in page and "Freeze 050" not in page and "?page=2" in page
    page = texts(client.get(reverse("calendars:list") + "?page=3"))
    assert "Freeze 119" in page and "?page=2" in page and "?page=4" not in page
    assert client.get(reverse("calendars:list") + "?page=nonsense").status_code == 200
