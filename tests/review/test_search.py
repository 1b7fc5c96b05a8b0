"""Reading what a reviewer asks, and what it finds."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import Target, record
from fleetops.clock import now
from fleetops.review.search import Term, parse
from fleetops.web.context import within
from tests.factories import make_user

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def test_words_and_filters_are_told_apart():
    search = parse('who:mei.tanaka "drop slot" outcome:denied,failed replica unknown:x', now=NOON)
    assert search.terms == [
        Term("who", "mei.tanaka"),
        Term("", "drop slot"),
        Term("outcome", "denied,failed"),
        Term("", "replica"),
        Term("", "unknown:x"),
    ]
    assert search.problems == []
    assert parse(search.text, now=NOON).terms == search.terms


def test_a_nul_which_no_database_takes_is_left_out():
    assert parse("a\x00b", now=NOON).terms == [Term("", "ab")]


@given(st.text(max_size=80))
@example(':"')
@example('x:"')
def test_whatever_is_typed_is_read_and_reads_the_same_again(text):
    search = parse(text, now=NOON)
    again = parse(search.text, now=NOON)
    assert (again.terms, again.problems) == (search.terms, [])


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("since:90m", NOON - timedelta(minutes=90)),
        ("since:2h", NOON - timedelta(hours=2)),
        ("since:7d", NOON - timedelta(days=7)),
        ("since:today", NOON.replace(hour=0)),
        ("since:2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("since:2026-11-20T08:30Z", datetime(2026, 11, 20, 8, 30, tzinfo=UTC)),
        ("since:1h since:2h", NOON - timedelta(hours=2)),
    ],
)
def test_times_are_read(text, since):
    search = parse(text, now=NOON)
    assert (search.since, len(search.terms)) == (since, 1)


@pytest.mark.parametrize(
    "text",
    [
        *("since:soon", "until:-1h", "since:999999d", "outcome:good", "kind:x", "since:all"),
        *("since:0001-01-01T00:00:00+23:59", "until:9999-12-31T23:59:59-23:59"),  # no moments in UTC
    ],
)
def test_what_cannot_be_read_is_told_and_left_out(text):
    search = parse(f"{text} word", now=NOON)
    assert search.terms == [Term("", "word")] and len(search.problems) == 1
    assert (search.since, search.until) == (None, None)


def test_more_than_a_person_types_is_told_and_left_out():
    search = parse(" ".join(f"w{number}" for number in range(40)), now=NOON)
    assert len(search.terms) == 16 and search.problems == ["Only the first 16 words and filters are used."]
    assert len(Term("who", ",".join(f"p{number}" for number in range(40))).values) == 16


def test_a_value_of_a_facet_is_added_and_taken_out():
    assert parse("word", now=NOON).toggled("outcome", "denied") == "?q=word+outcome%3Adenied"
    assert parse("outcome:denied", now=NOON).toggled("outcome", "failed") == "?q=outcome%3Adenied%2Cfailed"
    assert parse("outcome:denied,failed", now=NOON).toggled("outcome", "denied") == "?q=outcome%3Afailed"
    assert parse("outcome:denied", now=NOON).toggled("outcome", "denied") == "?q="


@pytest.fixture
def log(db):
    mei, jonas = make_user("mei.tanaka"), make_user("jonas.lindqvist")
    with within("browser", source_address="10.8.4.21", request_id="r1"):
        record("identity.login", actor=mei, target=mei)
        record("sessions.open", actor=mei, target=Target("inventory.instance", "i-1", "pg-ledger"), session="s-1")
    with within("worker"):
        record("sessions.end", actor="terminal", session="s-1", reason="50% done_", note='Größe "x"')
        record("sessions.open.refuse", actor=jonas, outcome="denied", reason="no grant", target=Target("x", "i-9", "y"))
        record("inventory.region.refresh.fail", actor="worker", outcome="failed", places={"deep": ["Nadel"]})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", 5),
        ("who:mei.tanaka", 2),
        ("who:MEI", 2),
        ("who:mei.tanaka,worker", 3),
        ("action:sessions.open", 2),
        ("action:sessions.open.refuse", 1),
        ("kind:session", 3),
        ("kind:login,fleet", 2),
        ("outcome:denied", 1),
        ("outcome:denied,failed", 2),
        ("source:worker", 3),
        ("session:s-1", 2),
        ("target:i-1", 1),
        ("target:LEDGER", 1),
        ("address:10.8", 2),
        ("request:r1", 2),
        ("since:1h", 5),
        ("until:1h", 0),
        ("ledger", 1),
        ("LEDGER", 1),
        ("grant jonas", 1),
        ("grant mei", 0),
        ('"50% done_"', 1),
        ("50%d", 0),
        ("Größe", 1),
        ("Nadel", 1),
        ("10.8.4.21 outcome:done", 2),
    ],
)
def test_it_finds_what_fits_every_term(log, text, found):
    assert parse(text, now=now()).apply(AuditEvent.objects.all()).count() == found
