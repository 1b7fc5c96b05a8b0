"""When calendars hold and when they let go: zones, days, repetition, and what comes next."""

from datetime import UTC, date, datetime, timedelta
from time import process_time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.calendars import periods
from fleetops.calendars.gate import Binding, gate
from fleetops.calendars.periods import MOST_BYTES, between, calendar_text, event_text, examine
from fleetops.errors import UserError

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def calendar(*lines: str) -> str:
    return "\r\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:test", *lines, "END:VCALENDAR", ""])


def event(*lines: str) -> str:
    return calendar("BEGIN:VEVENT", "UID:1", "DTSTAMP:20260101T000000Z", *lines, "END:VEVENT")


def freeze(text: str, zone: str = "UTC", name: str = "Freeze") -> Binding:
    return Binding(name, True, text, zone)


def window(text: str, zone: str = "UTC", name: str = "Window") -> Binding:
    return Binding(name, False, text, zone)


YEARS_END = event("SUMMARY:Year's end", "DTSTART:20261220T180000Z", "DTEND:20270104T080000Z")
NIGHTS = event(
    "SUMMARY:Nights", "DTSTART;TZID=Europe/Berlin:20260101T220000", "DTEND;TZID=Europe/Berlin:20260102T040000",
    "RRULE:FREQ=DAILY",
)  # fmt: skip


def test_without_calendars_everything_is_let_go():
    answer = gate([], at("2026-11-25T12:00"))
    assert answer.is_open and answer.changes_at is None


def test_a_freeze_holds_from_its_start_up_to_its_end():
    bindings = [freeze(YEARS_END)]
    assert gate(bindings, at("2026-12-20T17:59:59")).is_open
    assert gate(bindings, at("2026-12-20T17:59:59")).changes_at == at("2026-12-20T18:00")
    held = gate(bindings, at("2026-12-20T18:00"))
    assert not held.is_open
    assert held.changes_at == at("2027-01-04T08:00")
    assert str(held.holds[0]) == "frozen by “Freeze” until 2027-01-04 08:00 UTC: Year's end"
    assert gate(bindings, at("2027-01-04T08:00")).is_open


def test_outside_of_all_windows_it_is_held_and_says_until_when():
    bindings = [window(NIGHTS)]
    held = gate(bindings, at("2026-11-25T12:00"))
    assert not held.is_open
    assert held.changes_at == at("2026-11-25T21:00")  # 22:00 in Berlin's winter
    assert str(held.holds[0]) == "no window of “Window” is open until 2026-11-25 21:00 UTC"
    assert gate(bindings, at("2026-11-25T21:00")).is_open


def test_a_window_keeps_its_time_of_day_when_the_clocks_change():
    assert gate([window(NIGHTS)], at("2026-07-01T20:00")).is_open  # 22:00 in summer
    assert not gate([window(NIGHTS)], at("2026-07-01T19:59")).is_open
    # The night of 25 October has an hour more: from 20:00 to 03:00 UTC.
    assert gate([window(NIGHTS)], at("2026-10-25T02:30")).is_open
    assert not gate([window(NIGHTS)], at("2026-10-25T03:00")).is_open


def test_a_freeze_wins_over_a_window():
    bindings = [window(NIGHTS), freeze(YEARS_END)]
    held = gate(bindings, at("2026-12-24T23:00"))
    assert [hold.calendar for hold in held.holds] == ["Freeze"]
    # When the freeze ends no window is open; the next one opens in the evening.
    assert held.changes_at == at("2027-01-04T21:00")


def test_windows_add_to_each_other_and_freezes_all_hold():
    noon = event("DTSTART:20261125T120000Z", "DTEND:20261125T130000Z")
    assert gate([window(NIGHTS), window(noon)], at("2026-11-25T12:30")).is_open
    two = gate([freeze(YEARS_END, name="One"), freeze(YEARS_END, name="Two")], at("2026-12-24T12:00"))
    assert [hold.calendar for hold in two.holds] == ["One", "Two"]


def test_a_day_is_a_day_of_the_calendars_zone():
    day = event("SUMMARY:Audit", "DTSTART;VALUE=DATE:20261201")
    assert between(day, BERLIN, at("2026-11-30T00:00"), at("2026-12-03T00:00"))[0].start == at("2026-11-30T23:00")
    assert not gate([freeze(day, BERLIN)], at("2026-12-01T22:59")).is_open
    assert gate([freeze(day, BERLIN)], at("2026-12-01T23:00")).is_open
    tokyo = between(day, "Asia/Tokyo", at("2026-11-29T00:00"), at("2026-12-03T00:00"))[0]
    assert (tokyo.start, tokyo.end) == (at("2026-11-30T15:00"), at("2026-12-01T15:00"))


def test_a_time_without_a_zone_is_one_of_the_calendars_zone():
    floating = event("DTSTART:20261125T090000", "DTEND:20261125T100000")
    assert not gate([freeze(floating, BERLIN)], at("2026-11-25T08:30")).is_open
    assert gate([freeze(floating, BERLIN)], at("2026-11-25T09:30")).is_open


def test_what_was_called_off_does_not_hold():
    off = event("DTSTART:20261125T090000Z", "DTEND:20261125T100000Z", "STATUS:CANCELLED")
    assert gate([freeze(off)], at("2026-11-25T09:30")).is_open


def test_an_exception_of_a_series_and_a_moved_occurrence():
    series = calendar(
        "BEGIN:VEVENT", "UID:s", "DTSTAMP:20260101T000000Z", "DTSTART:20261101T100000Z", "DTEND:20261101T110000Z",
        "RRULE:FREQ=DAILY", "EXDATE:20261103T100000Z", "END:VEVENT",
        "BEGIN:VEVENT", "UID:s", "DTSTAMP:20260101T000000Z", "RECURRENCE-ID:20261104T100000Z",
        "DTSTART:20261104T150000Z", "DTEND:20261104T160000Z", "END:VEVENT",
    )  # fmt: skip
    found = [period.start for period in between(series, "UTC", at("2026-11-02T00:00"), at("2026-11-05T12:00"))]
    assert found == [at("2026-11-02T10:00"), at("2026-11-04T15:00"), at("2026-11-05T10:00")]


def test_a_length_in_place_of_an_end():
    long = event("DTSTART:20261125T230000Z", "DURATION:PT3H")
    assert not gate([freeze(long)], at("2026-11-26T01:59")).is_open
    assert gate([freeze(long)], at("2026-11-26T02:00")).is_open


def test_an_entry_of_ours_says_the_same_as_a_calendar_that_is_fetched():
    entry = event_text(
        "x", "Nights, “own”; with\nsigns", datetime(2026, 1, 1, 22), datetime(2026, 1, 2, 4), BERLIN,
        repeat="FREQ=DAILY", until=date(2026, 11, 30),
    )  # fmt: skip
    text = calendar_text("Ours, and more", [entry])
    assert examine(text) == 1
    mine = between(text, BERLIN, at("2026-10-20T00:00"), at("2026-10-30T00:00"))
    theirs = between(NIGHTS, "UTC", at("2026-10-20T00:00"), at("2026-10-30T00:00"))
    assert [(each.start, each.end) for each in mine] == [(each.start, each.end) for each in theirs]
    last = between(text, BERLIN, at("2026-11-28T00:00"), at("2027-01-01T00:00"))[-1]
    assert last.start == at("2026-11-30T21:00")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no iCalendar"),
        ("hello", "no iCalendar"),
        ("BEGIN:VEVENT\r\nEND:VEVENT\r\n", "begins with something else"),
        ("<html><body>Sign in</body></html>", "no iCalendar"),
        (event("SUMMARY:Nothing"), "has no start"),
        (event("SUMMARY:Tick", "DTSTART:20260101T000000Z", "RRULE:FREQ=SECONDLY"), "more often than hourly"),
        (event("SUMMARY:Tick", "DTSTART:20260101T000000Z", "RRULE:FREQ=MINUTELY"), "more often than hourly"),
        ("x" * (MOST_BYTES + 1), "more than 1024 KiB"),
        (
            event(*["DTSTART:20260101T000000Z", "END:VEVENT", "BEGIN:VEVENT"] * 2000, "DTSTART:20260101"),
            "at most 2,000",
        ),
    ],
)
def test_what_is_no_calendar_of_freezes_is_told_so(text, words):
    with pytest.raises(UserError, match=words):
        examine(text)


@given(st.binary(max_size=400))
@settings(max_examples=150)
def test_no_bytes_raise_anything_else(data):
    try:
        examine(data)
    except UserError as error:
        assert str(error)


spans = st.lists(
    st.tuples(st.integers(0, 24 * 60), st.integers(1, 24 * 10), st.booleans()), min_size=1, max_size=6
)  # hour it starts, hours it lasts, whether it freezes


@given(spans, st.integers(0, 24 * 60))
@settings(max_examples=60, deadline=None)
def test_the_answer_changes_exactly_when_it_says(spans, hour):
    start = at("2026-01-01T00:00")
    bindings = []
    for begins, lasts, freezes in spans:
        first, last = start + timedelta(hours=begins), start + timedelta(hours=begins + lasts)
        text = event(f"DTSTART:{first:%Y%m%dT%H%M%SZ}", f"DTEND:{last:%Y%m%dT%H%M%SZ}")
        bindings.append(Binding("x", freezes, text, "UTC"))
    moment = start + timedelta(hours=hour, minutes=30)

    def simple(then):
        inside = [
            freezes
            for begins, lasts, freezes in spans
            if start + timedelta(hours=begins) <= then < start + timedelta(hours=begins + lasts)
        ]
        has_windows = not all(freezes for *_, freezes in spans)
        return True not in inside and (not has_windows or False in inside)

    answer = gate(bindings, moment)
    assert answer.is_open == simple(moment)
    then = moment + timedelta(minutes=30)
    while then < start + timedelta(hours=24 * 80) and simple(then) == answer.is_open:
        then += timedelta(hours=1)
    expected = then if simple(then) != answer.is_open else None
    assert answer.changes_at == expected


def test_the_zone_of_a_calendar_is_known_to_this_machine():
    assert ZoneInfo(BERLIN).utcoffset(datetime(2026, 7, 1)) == timedelta(hours=2)


def repeated(rule: str, start: str = "20260101T000000Z", length: str = "PT10M") -> str:
    return event("SUMMARY:Often", f"DTSTART:{start}", f"DURATION:{length}", f"RRULE:{rule}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (repeated("FREQ=HOURLY", start="16000101T000000Z"), "repeats too often"),
        (repeated("FREQ=HOURLY;BYMINUTE=0,1,2;BYSECOND=0,1,2"), "more often than hourly"),
        (repeated("FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30"), "may never come true"),
        (repeated("FREQ=DAILY;INTERVAL=7;BYDAY=MO"), "may never come true"),
        (repeated("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"), "there is no such day"),
        (repeated("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=366"), "there is no such day"),
        (repeated("FREQ=DAILY;INTERVAL=0"), "INTERVAL"),
        (repeated("FREQ=HOURLY", length="P36500D", start="20230101T000000Z"), "repeats too often"),
        (
            calendar(*["BEGIN:VEVENT", "DTSTART:20260101T000000Z", "RRULE:FREQ=HOURLY", "END:VEVENT"] * 2000),
            "too often",
        ),
        (event("DTSTART;TZID=Nowhere/City:20260101T000000"), "time zone “Nowhere/City”"),
        (event("DTSTART:20260101T000000Z", "DTSTART:20260102T000000Z"), "cannot be read"),
    ],
)
def test_what_would_take_long_to_expand_is_refused_before_it_is(text, words):
    began = process_time()  # of this process alone, however busy the machine is
    with pytest.raises(UserError, match=words):
        examine(text)
    assert process_time() - began < 5


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=HOURLY",
        "FREQ=DAILY;INTERVAL=3;BYMONTH=12",
        "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;INTERVAL=2",
        "FREQ=MONTHLY;BYDAY=-1FR",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
        "FREQ=MONTHLY;BYMONTHDAY=31",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    ],
)
def test_what_people_write_is_read(rule):
    assert examine(repeated(rule)) == 1


def test_a_calendar_is_expanded_once_for_all_who_ask_in_a_month(monkeypatch):
    read = []
    monkeypatch.setattr(periods, "_read", lambda text, real=periods._read: read.append(1) or real(text))
    text = repeated("FREQ=HOURLY", start="20260102T000000Z")
    for hour in range(24):
        assert not gate([freeze(text)], at("2026-11-25T00:05") + timedelta(hours=hour)).is_open
        assert gate([freeze(text)], at("2026-11-25T00:15") + timedelta(hours=hour)).changes_at
    assert len(read) == 1


def test_an_entry_in_the_hour_that_the_clocks_leave_out_lasts_as_long_as_on_other_days():
    text = event("DTSTART;TZID=Europe/Berlin:20270328T023000", "DTEND;TZID=Europe/Berlin:20270328T033000")
    (period,) = between(text, "UTC", at("2027-03-01T00:00"), at("2027-04-01T00:00"))
    assert (period.start, period.end) == (at("2027-03-28T01:30"), at("2027-03-28T02:30"))


def test_the_hour_that_comes_twice_holds_in_its_first_round():
    text = event("DTSTART;TZID=Europe/Berlin:20261025T021500", "DTEND;TZID=Europe/Berlin:20261025T024500")
    (period,) = between(text, "UTC", at("2026-10-01T00:00"), at("2026-11-01T00:00"))
    assert (period.start, period.end) == (at("2026-10-25T00:15"), at("2026-10-25T00:45"))


OUR_TIME = ("BEGIN:VTIMEZONE", "TZID:Our Time", "BEGIN:STANDARD", "DTSTART:16010101T000000", "TZOFFSETFROM:+0300",
            "TZOFFSETTO:+0300", "END:STANDARD", "END:VTIMEZONE")  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "spans"),
    [
        (["DTSTART;TZID=W. Europe Standard Time:20261201T100000", "DURATION:PT1H"], ["09:00 10:00"]),  # Outlook's
        (["DTSTART;TZID=Our Time:20261201T100000", "DURATION:PT1H"], ["07:00 08:00"]),
        (["DTSTART:20261201T100000Z", "DURATION:PT1H", "RDATE;VALUE=PERIOD:20261201T120000Z/PT2H"],
         ["10:00 11:00", "12:00 14:00"]),
        (["DTSTART;VALUE=DATE:20261201", "DURATION:PT12H"], ["00:00 12:00"]),
    ],
)  # fmt: skip
def test_what_other_programs_write(lines, spans):
    text = calendar(*OUR_TIME, "BEGIN:VEVENT", "UID:1", *lines, "END:VEVENT")
    examine(text)
    found = between(text, "UTC", at("2026-12-01T00:00"), at("2026-12-02T00:00"))
    assert [f"{each.start:%H:%M} {each.end:%H:%M}" for each in found] == spans


def test_a_calendar_that_names_its_zone_means_it():
    text = calendar("X-WR-TIMEZONE:America/New_York", "BEGIN:VEVENT", "DTSTART:20261201T100000", "DURATION:PT1H",
                    "END:VEVENT")  # fmt: skip
    (period,) = between(text, "UTC", at("2026-12-01T00:00"), at("2026-12-02T00:00"))
    assert period.start == at("2026-12-01T15:00")
