"""What a reviewer asks of the log: words, and key:value filters that all have to hold."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from fleetops.audit.models import Outcome

from .words import KINDS, actions_of

MOST_TERMS = 16  # a word is looked for in a dozen fields, and once more for each facet
DEFAULT = "since:24h"  # what the bare page shows

LABELS = {
    "who": "who",
    "action": "action",
    "kind": "kind",
    "outcome": "outcome",
    "source": "source",
    "session": "session",
    "target": "target",
    "account": "account",
    "region": "region",
    "address": "address",
    "request": "request",
    "since": "since",
    "until": "until",
}
_TERM = re.compile(r'(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))')
_LENGTH = re.compile(r"(\d{1,6})(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_TEXT_FIELDS = (
    "action",
    "actor_name",
    "target_name",
    "target_id",
    "reason",
    "session_id",
    "source_address",
    "request_id",
    "account_id",
    "region",
)


@dataclass(frozen=True)
class Term:
    """One chip: a word (no key) or a filter. Several values of one filter stand behind commas: any may hold."""

    key: str
    value: str

    @property
    def text(self) -> str:
        # What holds a quote was not quoted when it was typed, and is read the same way as it stands.
        is_ambiguous = ":" in self.value and not self.key and '"' not in self.value
        value = f'"{self.value}"' if re.search(r"\s", self.value) or is_ambiguous else self.value
        return f"{self.key}:{value}" if self.key else value

    @property
    def label(self) -> str:
        return LABELS[self.key] if self.key else "text"

    @property
    def values(self) -> list[str]:
        return [value for value in self.value.split(",") if value][:MOST_TERMS]


@dataclass
class Search:
    """Parsed. `problems` say in words what could not be read; those terms are left out."""

    terms: list[Term] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def text(self) -> str:
        return " ".join(term.text for term in self.terms)

    @property
    def url(self) -> str:
        return _url(self.terms)

    def without(self, *gone: Term) -> str:
        """The page's address without these terms."""
        return _url([term for term in self.terms if term not in gone])

    def has(self, key: str, value: str) -> bool:
        return any(term.key == key and value in term.values for term in self.terms)

    def toggled(self, key: str, value: str) -> str:
        """The page's address with this value of a filter added, or taken out if it is there."""
        there = [term for term in self.terms if term.key == key]
        values = [each for term in there for each in term.values]
        values = [each for each in values if each != value] if value in values else [*values, value]
        terms = [term for term in self.terms if term.key != key]
        return _url([*terms, Term(key, ",".join(values))] if values else terms)

    def between(self, since: datetime, until: datetime) -> str:
        """The page's address for a narrower time."""
        terms = [term for term in self.terms if term.key not in {"since", "until"}]
        return _url([*terms, Term("since", _iso(since)), Term("until", _iso(until))])

    def apply(self, rows: QuerySet, *, but: str = "") -> QuerySet:
        """The rows for which every term holds; without those of the key `but`, to count what else could be chosen."""
        if any(not term.key for term in self.terms):
            rows = rows.annotate(details_text=Cast("details", TextField()))
        for term in self.terms:
            if term.key != but or not but:
                rows = rows.filter(self._condition(term))
        return rows

    def _condition(self, term: Term) -> Q:
        match term.key:
            case "":
                return _anywhere(term.value)
            case "since":
                return Q(at__gte=self.since)
            case "until":
                return Q(at__lt=self.until)
        found = Q()
        for value in term.values:
            found |= _one(term.key, value)
        return found


def _one(key: str, value: str) -> Q:
    match key:
        case "who":
            return Q(actor_name=value) | Q(actor_name__istartswith=value)
        case "action":
            return Q(action__startswith=value)
        case "kind":
            return Q(action__in=actions_of(value))
        case "outcome":
            return Q(outcome=value)
        case "source":
            return Q(source=value)
        case "session":
            return Q(session_id=value)
        case "target":
            return Q(target_id=value) | Q(target_name__icontains=value)
        case "account":
            return Q(account_id=value)
        case "region":
            return Q(region=value)
        case "address":
            return Q(source_address__startswith=value)
        case _:
            return Q(request_id=value)


def _anywhere(word: str) -> Q:
    found = Q()
    for name in _TEXT_FIELDS:
        found |= Q(**{f"{name}__icontains": word})
    # SQLite keeps JSON with letters beyond ASCII escaped, PostgreSQL as they are.
    for text in {word, json.dumps(word)[1:-1]}:
        found |= Q(details_text__icontains=text)
    return found


def parse(text: str, *, now: datetime) -> Search:
    """Read `text`: words, "several words", key:value, key:"a value"; `now` is what since:2h counts from."""
    search = Search()
    text = text[:500].replace("\x00", "")  # no PostgreSQL text holds NUL
    for key, quoted, plain in _TERM.findall(text):
        value = quoted or plain
        if key and key not in LABELS:
            key, value = "", f"{key}:{value}"
        if not value:
            continue
        term = Term(key, value)
        if problem := _read(search, term, now):
            search.problems.append(problem)
        elif len(search.terms) == MOST_TERMS and term not in search.terms:
            search.problems.append(f"Only the first {MOST_TERMS} words and filters are used.")
            break
        elif term not in search.terms:
            search.terms = [each for each in search.terms if key not in {"since", "until"} or each.key != key] + [term]
    return search


def _read(search: Search, term: Term, now: datetime) -> str:
    """Note what the term says of the time; returns what is wrong with it."""
    if term.key in {"since", "until"}:
        if term.value == "all" and term.key == "since":
            return "Leave since: out to search everything."
        moment = _moment(term.value, now)
        if moment is None:
            ways = ", ".join(f"{term.key}:{way}" for way in ("2h", "7d", "today", "2026-11-25T14:00"))
            return f"{term.text} is no time. Write one of {ways}."
        setattr(search, term.key, moment)
    choices = {"outcome": Outcome.values, "kind": list(KINDS)}.get(term.key)
    if choices and (wrong := [value for value in term.values if value not in choices]):
        return f"{term.key}:{wrong[0]} is none of {', '.join(choices)}."
    return ""


def _moment(text: str, now: datetime) -> datetime | None:
    if text == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    if found := _LENGTH.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:  # before the year 1 or after 9999, once it is UTC
        return None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _url(terms: list[Term]) -> str:
    return "?" + urlencode({"q": " ".join(term.text for term in terms)})
