"""Schedules: AWS's documented examples, its own day numbering, changes of clocks, and agreement with slower readers."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from aws_croniter import AwsCroniter
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.errors import UserError
from fleetops.schedules import parse


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# From the Systems Manager User Guide, "Cron and rate expressions", and EventBridge's; 2027-01-01 is a Friday.
EXAMPLES = [
    ("cron(0 2 ? * TUE#3 *)", ["2027-01-19T02:00", "2027-02-16T02:00"], "at 02:00 on the third Tuesday of the month"),
    ("cron(15 23 ? * TUE *)", ["2027-01-05T23:15", "2027-01-12T23:15"], "at 23:15 on Tuesday"),
    ("cron(0 9 L * ? *)", ["2027-01-31T09:00", "2027-02-28T09:00"], "at 09:00 on the last day of the month"),
    ("cron(0 9 L-2 * ? *)", ["2027-01-29T09:00"], "at 09:00 2 days before the last day of the month"),
    ("cron(0 0 ? * 3L *)", ["2027-01-26T00:00", "2027-02-23T00:00"], "at 00:00 on the last Tuesday of the month"),
    ("cron(15 10 ? * 6L *)", ["2027-01-29T10:15"], "at 10:15 on the last Friday of the month"),
    ("cron(0 2 3W * ? *)", ["2027-01-04T02:00"], "at 02:00 on the weekday nearest to the 3rd of the month"),
    ("cron(0 2 1W * ? *)", ["2027-01-01T02:00", "2027-02-01T02:00"], None),
    (
        "cron(0 2 31W 1,10 ? *)",
        ["2027-01-29T02:00", "2027-10-29T02:00"],
        None,
    ),  # both Sundays: no other month
    ("cron(0/30 * * * ? *)", ["2027-01-01T00:30", "2027-01-01T01:00"], "every 30 minutes every day"),
    ("cron(0 0/4 * * ? *)", ["2027-01-01T04:00"], "every 4 hours, from 00:00 on, every day"),
    ("cron(0 0 ? * SUN *)", ["2027-01-03T00:00"], "at 00:00 on Sunday"),
    ("cron(0 0 ? * 1 *)", ["2027-01-03T00:00"], "at 00:00 on Sunday"),
    ("cron(0 2 ? * L *)", ["2027-01-02T02:00"], "at 02:00 on Saturday"),
    ("cron(15 12 * * ? *)", ["2027-01-01T12:15"], "at 12:15 every day"),
    ("cron(0 18 ? * MON-FRI *)", ["2027-01-01T18:00", "2027-01-04T18:00"], "at 18:00 from Monday to Friday"),
    ("cron(0 8 1 * ? *)", ["2027-01-01T08:00", "2027-02-01T08:00"], "at 08:00 on the 1st of the month"),
    ("cron(0/10 * ? * MON-FRI *)", ["2027-01-01T00:10"], "every 10 minutes from Monday to Friday"),
    (
        "cron(0/5 8-17 ? * MON-FRI *)",
        ["2027-01-01T08:00"],
        "every 5 minutes of the hours 8 to 17 from Monday to Friday",
    ),
    ("cron(0 0 29 2 ? *)", ["2028-02-29T00:00", "2032-02-29T00:00"], "at 00:00 on the 29th of the month in February"),
    ("cron(0 4 ? JAN,jul FRI-mon 2027-2028)", ["2027-01-01T04:00", "2027-01-02T04:00"], None),
    ("cron(0 0 2 ? * TUE#2 *)", ["2027-01-12T02:00"], None),  # seconds in front
    ("cron(0 0 ? * MON#5 *)", ["2027-03-29T00:00"], None),
    ("cron(0 0 31 2 ? *)", [None], None),
    ("cron(0 0 1 1 ? 1999)", [None], None),
    ("rate(1 hour)", ["2027-01-01T01:00", "2027-01-01T02:00"], "every hour"),
    ("rate(5 hours)", ["2027-01-01T05:00"], "every 5 hours"),
    ("rate(7 days)", ["2027-01-08T00:00"], "every 7 days"),
    ("at(2027-02-03T04:05:06)", ["2027-02-03T04:05:06", None], "once, on 3 February 2027 at 04:05:06"),
    ("at(2026-02-03T04:05:06)", [None], None),
]


@pytest.mark.parametrize(("text", "moments", "words"), EXAMPLES, ids=[each[0] for each in EXAMPLES])
def test_examples_of_aws_are_due_when_aws_says(text, moments, words):
    schedule, moment = parse(text), at("2027-01-01T00:00")
    for expected in moments:
        moment = schedule.next(moment, anchor=at("2027-01-01T00:00"))
        assert moment == (at(expected) if expected else None)
    if words:
        assert schedule.in_words() == words


def test_an_offset_counts_from_the_second_tuesday_and_not_from_the_second_monday():
    patch_day = parse("cron(0 2 ? * TUE#2 *)", offset_days=3)
    assert patch_day.in_words() == "at 02:00 on the second Tuesday of the month, 3 days later"
    # 2027-01-12 and 2027-02-09 are the Tuesdays; in June 2027 the second Tuesday comes before the second Monday's week.
    found = patch_day.between(at("2027-01-01T00:00"), at("2027-06-30T00:00"))
    assert [each.day for each in found] == [15, 12, 12, 16, 14, 11]
    late = parse("cron(0 2 L * ? *)", offset_days=2)
    assert late.next(at("2027-02-01T12:00")) == at("2027-02-02T02:00")  # of January's last day
    assert late.next(at("2027-02-02T02:00")) == at("2027-03-02T02:00")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Say when"),
        ("daily", "no schedule"),
        ("cron(0 2 * * *)", "six fields, this one 5"),
        ("cron(0 2 * * * *)", "exactly one is ?"),
        ("cron(0 2 ? * ? *)", "exactly one is ?"),
        ("cron(60 2 * * ? *)", "cannot be the minute: that is 0 to 59"),
        ("cron(0 24 * * ? *)", "cannot be the hour"),
        ("cron(0 2 0 * ? *)", "cannot be the day of the month"),
        ("cron(0 2 ? * 8 *)", "1 to 7, or SUN to SAT"),
        ("cron(0 2 ? * 0 *)", "1 to 7, or SUN to SAT"),
        ("cron(0 2 ? * TUE#6 *)", "the week of the month: that is 1 to 5"),
        ("cron(0 2 ? * TUE#2,WED *)", "stands alone"),
        ("cron(0 2 ? 13 MON *)", "1 to 12, or JAN to DEC"),
        ("cron(0 2 1W,5W * ? *)", "L and 15W stand alone"),
        ("cron(0/0 2 * * ? *)", "the step of the minute"),
        ("cron(0 2 * * ? 2200)", "1970 to 2199"),
        ("cron(0 2 * * ? 2028-2027)", "the first comes first"),
        ("cron(5 0 2 ? * TUE *)", "the first is seconds"),
        ("cron(٣ 2 * * ? *)", "cannot be the minute"),
        ("rate(1 hours)", "rate(1 hour)"),
        ("rate(5 hour)", "rate(5 hours)"),
        ("rate(0 days)", "a number and a unit"),
        ("rate(5 weeks)", "a number and a unit"),
        ("rate(999999 days)", "ten years"),
        ("at(2027-02-30T00:00:00)", "at(2027-01-31T02:00:00)"),
        ("at(1960-02-20T00:00:00)", "1970 to 2199"),
        ("cron(" + "1," * 200 + "1 2 * * ? *)", "at most 256"),
    ],
)
def test_what_is_no_schedule_is_told_in_words(text, says):
    with pytest.raises(UserError) as told:
        parse(text)
    assert says in str(told.value)


def test_only_cron_takes_an_offset_and_zones_have_names():
    with pytest.raises(UserError, match="Only a cron"):
        parse("rate(1 day)", offset_days=1)
    with pytest.raises(UserError, match="0 to 6"):
        parse("cron(0 2 * * ? *)", offset_days=7)
    for zone in ("Europe/Atlantis", "../../etc/passwd", "", "\x00", "Europe", "é"):
        with pytest.raises(UserError, match="no time zone"):
            parse("cron(0 2 * * ? *)").next(at("2027-01-01T00:00"), zone)


# Zone, the local hour that is left out and the instant after it, the hour that comes twice and its first instant.
CHANGES = [
    ("Europe/Berlin", "2027-03-28", (2, 30), "2027-03-28T01:00", "2027-10-31", (2, 30), "2027-10-31T00:30"),
    ("Europe/London", "2027-03-28", (1, 30), "2027-03-28T01:00", "2027-10-31", (1, 30), "2027-10-31T00:30"),
    ("America/New_York", "2027-03-14", (2, 30), "2027-03-14T07:00", "2027-11-07", (1, 30), "2027-11-07T05:30"),
    ("America/Los_Angeles", "2027-03-14", (2, 30), "2027-03-14T10:00", "2027-11-07", (1, 30), "2027-11-07T08:30"),
    ("America/St_Johns", "2027-03-14", (2, 30), "2027-03-14T05:30", "2027-11-07", (1, 30), "2027-11-07T04:00"),
    ("Australia/Sydney", "2027-10-03", (2, 30), "2027-10-02T16:00", "2027-04-04", (2, 30), "2027-04-03T15:30"),
    ("Australia/Lord_Howe", "2027-10-03", (2, 15), "2027-10-02T15:30", "2027-04-04", (1, 45), "2027-04-03T14:45"),
    ("Pacific/Auckland", "2027-09-26", (2, 30), "2027-09-25T14:00", "2027-04-04", (2, 30), "2027-04-03T13:30"),
    ("America/Santiago", "2027-09-05", (0, 30), "2027-09-05T04:00", "2027-04-03", (23, 30), "2027-04-04T02:30"),
    ("Pacific/Apia", "2011-12-30", (12, 0), "2011-12-30T10:00", "2012-04-01", (3, 30), "2012-03-31T13:30"),
]


@pytest.mark.parametrize("change", CHANGES, ids=[each[0] for each in CHANGES])
def test_what_a_change_of_clocks_leaves_out_is_due_once_after_it_and_what_comes_twice_is_due_once(change):
    zone, gap_day, gap, after_gap, fold_day, fold, first = change
    for day, (hour, minute), due in ((gap_day, gap, after_gap), (fold_day, fold, first)):
        date = datetime.fromisoformat(day)
        daily = parse(f"cron({minute} {hour} * * ? *)")
        begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(hours=20)
        found = daily.between(begin.astimezone(UTC), begin.astimezone(UTC) + timedelta(hours=70), zone)
        assert at(due) in found
        assert len(found) == len(set(found))
        near = [each for each in found if abs(each - at(due)) < timedelta(hours=3)]
        assert near == [at(due)], "once"
        only = parse(f"at({date:%Y-%m-%d}T{hour:02}:{minute:02}:00)")
        assert only.next(begin, zone) == at(due)
    many = parse("cron(0/5 * * * ? *)").between(at(after_gap) - timedelta(minutes=12), at(after_gap), zone)
    assert many[-1] == at(after_gap) and len(many) == len(set(many)) == 3


# --- against slower readers ------------------------------------------------------------------------------------------


def values(low, high):
    one = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        one.map(str),
        st.tuples(one, one).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.tuples(st.one_of(st.just("*"), one.map(str)), st.integers(1, max(2, high // 2))).map(
            lambda pair: f"{pair[0]}/{pair[1]}"
        ),
        st.lists(one.map(str), min_size=1, max_size=3, unique=True).map(",".join),
    )


days = st.one_of(
    st.tuples(st.one_of(values(1, 31), st.just("L"), st.integers(1, 31).map("{}W".format)), st.just("?")),
    st.tuples(
        st.just("?"),
        st.one_of(
            values(1, 7).filter(lambda text: "/" not in text),  # which that reader does not take there
            st.integers(1, 7).map("{}L".format),
            st.tuples(st.integers(1, 7), st.integers(1, 5)).map(lambda pair: f"{pair[0]}#{pair[1]}"),
        ),
    ),
)
crons = st.tuples(values(0, 59), values(0, 23), days, values(1, 12)).map(
    lambda parts: f"{parts[0]} {parts[1]} {parts[2][0]} {parts[3]} {parts[2][1]} *"
)
starts = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(crons, starts)
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_another_reader_of_the_expressions_of_aws(cron, start):
    theirs = [each for each in AwsCroniter(cron).get_next(start, 3) if each is not None]
    ours = parse(f"cron({cron})").coming(start, "UTC", 3)
    assert ours[: len(theirs)] == theirs
    # It gives up some years ahead: the next fifth Sunday of a February is in 2032.
    assert all(each.year > start.year + 1 for each in ours[len(theirs) :])


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago"]
CLOCKS_CHANGE = ["2027-03-14", "2027-03-28", "2027-04-03", "2027-09-05", "2027-10-03", "2027-10-31", "2027-11-07"]


def walked(cron, start, zone, minutes):
    """The first due minute of so many, found by asking of each minute what the clocks show, and have left out."""
    fields = cron.split()
    spans = [(0, 59), (0, 23), (1, 31), (1, 12), (1, 7)]

    def has(text, value, span):
        for part in text.split(","):
            body, _, step = part.partition("/")
            low, dash, high = body.partition("-")
            begin = span[0] if body == "*" else int(low)
            end = int(high) if dash else (span[1] if body == "*" or step else begin)
            if begin <= value <= end and (value - begin) % int(step or 1) == 0:
                return True
        return False

    def is_meant(local):
        facts = [local.minute, local.hour, local.day, local.month, local.isoweekday() % 7 + 1]
        return all(
            text == "?" or has(text, fact, span) for text, fact, span in zip(fields[:5], facts, spans, strict=True)
        )

    place = ZoneInfo(zone)
    moment = start.replace(second=0, microsecond=0)
    shown = moment.astimezone(place)
    for _ in range(minutes):
        before, moment = shown, moment + timedelta(minutes=1)
        shown = moment.astimezone(place)
        left_out = before.replace(tzinfo=None, fold=0) + timedelta(minutes=1)
        while left_out < shown.replace(tzinfo=None, fold=0):
            if is_meant(left_out):
                return moment
            left_out += timedelta(minutes=1)
        if not shown.fold and is_meant(shown):
            return moment
    return None


simple_days = st.one_of(st.tuples(values(1, 31), st.just("?")), st.tuples(st.just("?"), values(1, 7)))


@given(
    st.tuples(values(0, 59), values(0, 4), simple_days).map(lambda p: f"{p[0]} {p[1]} {p[2][0]} * {p[2][1]} *"),
    st.sampled_from(CLOCKS_CHANGE),
    st.integers(-1500, 1500),
    st.sampled_from(ZONES),
)
@settings(max_examples=60, deadline=None)
def test_it_agrees_with_a_walk_minute_by_minute_where_clocks_change(cron, day, shift, zone):
    start, minutes = at(f"{day}T00:00") + timedelta(minutes=shift, seconds=shift % 60), 3000
    found = parse(f"cron({cron})").next(start, zone)
    walk = walked(cron, start, zone, minutes)
    assert (found if found and found <= start + timedelta(minutes=minutes) else None) == walk
    assert found is None or found > start


@given(st.sampled_from(["rate(7 minutes)", "rate(1 day)", "rate(3 hours)"]), starts, starts)
def test_a_rate_keeps_to_its_anchor_and_is_never_early(text, after, anchor):
    schedule = parse(text)
    found = schedule.next(after, "Europe/Berlin", anchor=anchor)
    assert found > after and found >= anchor
    assert (found - anchor) % schedule.every == timedelta()
    assert found == anchor or found - after <= schedule.every
