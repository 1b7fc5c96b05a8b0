"""What the API budget's page says: the governor's counts and people's ceilings as figures, words and drawings. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlencode

from fleetops.aws.governor import Lesson, MinuteUse, OperationUse, Priority

ROWS = 25  # of one page
MINUTES = 60  # that the page looks back
MOST_CHARACTERS = 400  # of a filter
MOST_LEARNED = 10  # entries of what the governor learned
FULL = 0.95  # of what is allowed a second: from here on the next call is likely to wait
SLOWED = timedelta(minutes=10)  # a bucket counts as slowed so long after AWS refused a call, unless it has recovered
MINUTE = timedelta(minutes=1)
# Whose calls: one, many.
CALLERS = {Priority.PERSON: ("person", "people"), Priority.RUN: ("wave", "waves"), Priority.POLL: ("poll", "polls")}


class State(StrEnum):
    """How a bucket is; what needs a person most comes first."""

    PERSON = "person"
    SLOWED = "slowed"
    WAVES = "waves"
    POLLS = "polls"
    LIMIT = "limit"
    FREE = "free"


# State → kind of status, and its word.
WORDS = {
    State.PERSON: ("bad", "A person waits"),
    State.SLOWED: ("warn", "Slowed by AWS, learning"),
    State.WAVES: ("hold", "Waves wait"),
    State.POLLS: ("hold", "Polls wait"),
    State.LIMIT: ("warn", "At its limit"),
    State.FREE: ("ok", "Free"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling that a person has set."""

    account_id: str
    region: str
    operation: str
    per_second: float
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Bucket:
    """The calls of one operation in one region of one account, as a row."""

    account_id: str
    account: str  # its name
    region: str
    operation: str
    per_second: float  # calls, on the average of the last 60 s
    allowed: float  # calls a second, now
    ceiling: float  # calls a second that `allowed` may grow to
    waiting: Mapping[Priority, int]
    minutes: tuple[MinuteUse, ...]
    limit: Limit | None  # a person's
    is_told: bool  # the governor holds it to `limit`, or to none
    is_slowed: bool  # AWS has refused calls lately, and is asked less often for it

    @property
    def key(self) -> str:
        """Tells it from all others, in 12 hex digits; for the address with which an open page asks again."""
        return hashlib.sha256(f"{self.account_id} {self.region} {self.operation}".encode()).hexdigest()[:12]

    @property
    def fill(self) -> float:
        """The share of what is allowed that is used; never more than 1."""
        return min(1.0, self.per_second / self.allowed) if self.allowed > 0 else 1.0

    @property
    def percent(self) -> int:
        return round(100 * self.fill)

    @property
    def waits(self) -> int:
        """Calls that wait now."""
        return sum(self.waiting.values())

    @property
    def state(self) -> State:
        if self.waiting.get(Priority.PERSON):
            return State.PERSON
        if self.is_slowed:
            return State.SLOWED
        if self.waiting.get(Priority.RUN):
            return State.WAVES
        if self.waiting.get(Priority.POLL):
            return State.POLLS
        return State.LIMIT if self.fill >= FULL else State.FREE

    @property
    def kind(self) -> str:
        return WORDS[self.state][0]

    @property
    def word(self) -> str:
        return WORDS[self.state][1]

    @property
    def bar(self) -> str:
        """What its bar is painted as: bad where it is full, warn where calls wait, off where there is room."""
        return "bad" if self.fill >= FULL else "warn" if self.waits or self.is_slowed else "off"

    @property
    def use(self) -> str:
        """4.8 of 5 a second."""
        return f"{number(self.per_second)} of {number(self.allowed)} a second"

    @property
    def waiting_words(self) -> str:
        """38 waves, 12 polls."""
        return ", ".join(counted(self.waiting[each], CALLERS[each]) for each in CALLERS if self.waiting.get(each))

    @property
    def held_words(self) -> str:
        """38 wave calls and 12 polls: what waits for more than a person's turn."""
        words = {Priority.RUN: ("wave call", "wave calls"), Priority.POLL: ("poll", "polls")}
        return " and ".join(counted(self.waiting[each], words[each]) for each in words if self.waiting.get(each))

    @property
    def time_to_go(self) -> str:
        """How long the calls that wait take to get through, if no other comes."""
        return length(self.waits / self.allowed) if self.allowed > 0 else "unknown"

    @property
    def limit_words(self) -> str:
        return number(self.limit.per_second) if self.limit else ""

    @property
    def query(self) -> str:
        """The page's parameters that show this bucket alone."""
        return place_query(self.account_id, self.region, self.operation)

    @property
    def limit_query(self) -> str:
        """The parameters of the form that sets its ceiling."""
        given = {"account": self.account_id, "region": self.region, "operation": self.operation}
        return urlencode(given | ({"per_second": f"{self.limit.per_second:g}"} if self.limit else {}))


def number(value: float) -> str:
    """5, 4.8, 0.25, 1,200: a rate as people write it."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 1 else f"{value:.2f}".rstrip("0").removesuffix(".")


def counted(count: int, words: tuple[str, str]) -> str:
    return f"{count:,} {words[0] if count == 1 else words[1]}"


def length(seconds: float) -> str:
    """12 ms, 1.4 s, 31 s, 4 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# --- rows ---


def buckets(
    uses: Iterable[OperationUse], *, names: Mapping[str, str], limits: Iterable[Limit], now: datetime
) -> list[Bucket]:
    """A row for each bucket, fullest first. `names` are the accounts', by their numbers."""
    by_place = {(each.account_id, each.region, each.operation): each for each in limits}
    made = []
    for use in uses:
        if not (use.minutes or use.limit or any(use.waiting.values())):
            continue  # its last call is longer ago
        limit = by_place.get((use.account_id, use.region, use.operation))
        made.append(
            Bucket(
                account_id=use.account_id,
                account=names.get(use.account_id, use.account_id),
                region=use.region,
                operation=use.operation,
                per_second=last_minute(use.minutes, now) / 60,
                allowed=use.rate,
                ceiling=use.ceiling,
                waiting=use.waiting,
                minutes=use.minutes,
                limit=limit,
                is_told=use.limit == (limit.per_second if limit else None),
                is_slowed=use.rate < use.ceiling and _throttled_since(use.minutes, now - SLOWED),
            )
        )
    return sorted(made, key=lambda each: (-each.fill, -each.waits, each.operation, each.account, each.region))


def _throttled_since(minutes: Sequence[MinuteUse], since: datetime) -> bool:
    return any(each.throttled for each in minutes if each.at >= since)


def calls(minute: MinuteUse) -> int:
    return minute.person + minute.run + minute.poll


def last_minute(minutes: Sequence[MinuteUse], now: datetime) -> float:
    """Calls within the last 60 s: those of this clock minute, and of the one before the share that lies within them."""
    this = now.replace(second=0, microsecond=0)
    share = 1 - (now - this).total_seconds() / 60
    return sum(calls(each) * (1 if each.at == this else share if each.at == this - MINUTE else 0) for each in minutes)


def in_order(found: Sequence[Bucket], keys: Sequence[str]) -> list[Bucket]:
    """Those of `keys`, in their order: an open page's rows keep their places."""
    by_key = {each.key: each for each in found}
    return [by_key[key] for key in keys if key in by_key]


def out_of_order(shown: Sequence[Bucket], fresh: Sequence[Bucket]) -> bool:
    """Whether a page that shows `shown` hides, or has below a free one, what of `fresh` is not free."""
    places = {each.key: place for place, each in enumerate(shown)}
    busy = [places.get(each.key) for each in fresh if each.state != State.FREE]
    return any(place is None or any(each.state == State.FREE for each in shown[:place]) for place in busy)


# --- what a person asks for ---

KEYS = ("account", "region", "operation", "state")


@dataclass(frozen=True, slots=True)
class Filter:
    """Words and key:value, which must all hold."""

    terms: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> "Filter":
        return cls(tuple(dict.fromkeys(text.split())))

    @property
    def text(self) -> str:
        return " ".join(self.terms)

    def without(self, term: str) -> str:
        return " ".join(each for each in self.terms if each != term)

    def holds(self, bucket: Bucket) -> bool:
        return all(_holds(term, bucket) for term in self.terms)

    def holds_place(self, account_id: str, account: str, region: str, operation: str) -> bool:
        """Whether something at that place belongs to what is asked for, whatever its state."""
        return all(
            _holds_place(term, account_id, account, region, operation)
            for term in self.terms
            if not term.lower().startswith("state:")
        )


def _holds(term: str, bucket: Bucket) -> bool:
    key, _, value = term.lower().partition(":")
    if key == "state":
        return value == bucket.state or (value == "waits" and bucket.waits > 0)
    return _holds_place(term, bucket.account_id, bucket.account, bucket.region, bucket.operation)


def _holds_place(term: str, account_id: str, account: str, region: str, operation: str) -> bool:
    key, _, value = term.lower().partition(":")
    account, operation = account.lower(), operation.lower()
    if key == "account" and value:
        return value == account_id or value in account
    if key == "region" and value:
        return f"{region}-".startswith(f"{value}-")  # eu, eu-west, eu-west-1
    if key == "operation" and value:
        return value == operation if ":" in value else value in operation
    return any(term.lower() in each for each in (account, account_id, region, operation))


def place_query(account_id: str, region: str, operation: str) -> str:
    """The page's parameters that show one bucket alone."""
    return urlencode({"q": f"account:{account_id} region:{region} operation:{operation}"})


# --- the sentence ---


@dataclass(frozen=True, slots=True)
class Answer:
    """The numbers of the sentence below the title."""

    total: int  # buckets
    people: int  # calls of people that wait
    holding: int  # buckets that hold back waves or polls
    first: Bucket | None  # of these, the one that holds back most
    slowed: int
    limited: int  # at their limit, with nobody waiting

    @property
    def is_calm(self) -> bool:
        return not (self.people or self.holding or self.slowed or self.limited)


def answer(found: Sequence[Bucket]) -> Answer:
    holding = [each for each in found if each.waits > each.waiting.get(Priority.PERSON, 0)]
    return Answer(
        total=len(found),
        people=sum(each.waiting.get(Priority.PERSON, 0) for each in found),
        holding=len(holding),
        first=max(holding, key=lambda each: each.waits, default=None),
        slowed=sum(each.is_slowed for each in found),
        limited=sum(each.state == State.LIMIT for each in found),
    )


# --- figures ---


@dataclass(frozen=True, slots=True)
class Figure:
    """A label, a number, and what it is measured against."""

    label: str
    value: str
    small: str


def figures(found: Sequence[Bucket], *, now: datetime) -> list[Figure]:
    """At most five numbers. How long a call of each kind waits the governor does not tell; how many did, it does."""
    minutes = [minute for each in found for minute in each.minutes]
    total, throttled = sum(calls(each) for each in minutes), sum(each.throttled for each in minutes)
    recent = sum(last_minute(each.minutes, now) for each in found)

    def waited(label: str, count: int, of: int) -> Figure:
        of = max(of, count)  # who gave up waiting never called
        return Figure(label, f"{count:,}", f"of {of:,}, {share(count, of)}" if of else "of none")

    return [
        Figure("Calls, last minute", f"{recent:,.0f}", f"{total:,} in the hour"),
        Figure("Throttled by AWS, last hour", f"{throttled:,}", f"of {total:,}, {share(throttled, total)}"),
        waited("People’s calls that waited", sum(m.person_waited for m in minutes), sum(m.person for m in minutes)),
        waited("Waves’ calls that waited", sum(m.run_waited for m in minutes), sum(m.run for m in minutes)),
        waited("Polls that waited", sum(m.poll_waited for m in minutes), sum(m.poll for m in minutes)),
    ]


def share(part: float, whole: float) -> str:
    """58 %, 7.7 %, 0.03 %, under 0.01 %; of nothing it is 0 %."""
    percent = 100 * part / whole if whole else 0.0
    if percent and percent < 0.01:
        return "under 0.01 %"
    digits = 0 if percent >= 10 else 1 if percent >= 1 else 2
    return f"{percent:.{digits}f}".removesuffix(".0").removesuffix(".00") + " %"


def mean_wait(found: Sequence[Bucket]) -> str:
    """How long those calls waited that waited, on the average; empty if none did."""
    minutes = [minute for each in found for minute in each.minutes]
    waited = sum(each.waited for each in minutes)
    return length(sum(each.waited_ms for each in minutes) / waited / 1000) if waited else ""


@dataclass(frozen=True, slots=True)
class Part:
    """One purpose's part of all calls, as a piece of a bar that is 100 wide."""

    name: str
    css: str
    count: int
    share: str
    x: float
    width: float


def parts(found: Sequence[Bucket]) -> list[Part]:
    """By purpose; empty if there was no call. None that has calls is too narrow to be seen."""
    counts = dict.fromkeys(CALLERS, 0)
    for minute in (minute for each in found for minute in each.minutes):
        counts[Priority.PERSON] += minute.person
        counts[Priority.RUN] += minute.run
        counts[Priority.POLL] += minute.poll
    total = sum(counts.values())
    widths = {each: max(1.0, 100 * count / total) for each, count in counts.items() if count}
    scale, x, made = 100 / sum(widths.values(), 0.0) if widths else 0, 0.0, []
    for each, name in ((Priority.PERSON, "people"), (Priority.RUN, "waves"), (Priority.POLL, "polling")):
        width = round(widths.get(each, 0.0) * scale, 2)
        made.append(Part(name, each.value, counts[each], share(counts[each], total), round(x, 2), width))
        x += width
    return made if total else []


# --- the drawing ---

CHART_HEIGHT = 96
COLUMN = 10  # units of the drawing for a minute, of which a bar has
BAR = 8.4
STRIP = 12  # units below the bars, for what AWS throttled


@dataclass(frozen=True, slots=True)
class Piece:
    """A painted piece of a column: whose calls, or "throttled"."""

    css: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """One minute."""

    at: datetime
    x: int
    title: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Five minutes, in numbers."""

    start: datetime
    person: int
    run: int
    poll: int
    throttled: int
    waited: int
    mean: str  # wait of those that waited


@dataclass(frozen=True, slots=True)
class Chart:
    """The last hour, a column a minute, in the drawing's units."""

    columns: tuple[Column, ...]
    spans: tuple[Span, ...]
    most: int  # calls of the fullest minute: the height of the drawing
    total: int
    throttled: int
    start: datetime
    middle: datetime
    end: datetime
    width: int = MINUTES * COLUMN
    bars: int = CHART_HEIGHT
    height: int = CHART_HEIGHT + 2 + STRIP


def chart(found: Sequence[Bucket], *, now: datetime) -> Chart:
    last = now.replace(second=0, microsecond=0)
    starts = [last - MINUTE * (MINUTES - 1 - position) for position in range(MINUTES)]
    sums = {start: [0] * 6 for start in starts}
    for minute in (minute for each in found for minute in each.minutes):
        if row := sums.get(minute.at):
            for place, value in enumerate(
                (minute.person, minute.run, minute.poll, minute.throttled, minute.waited, minute.waited_ms)
            ):
                row[place] += value
    most = max((sum(row[:3]) for row in sums.values()), default=0)
    most_throttled = max((row[3] for row in sums.values()), default=0)
    columns = tuple(
        Column(start, position * COLUMN, _title(start, sums[start]), _pieces(sums[start], most, most_throttled))
        for position, start in enumerate(starts)
    )
    spans = []
    for first in range(0, MINUTES, 5):
        person, run, poll, throttled, waited, waited_ms = (
            sum(row[place] for row in (sums[start] for start in starts[first : first + 5])) for place in range(6)
        )
        mean = length(waited_ms / waited / 1000) if waited else ""
        spans.append(Span(starts[first], person, run, poll, throttled, waited, mean))
    return Chart(
        columns=columns,
        spans=tuple(reversed(spans)),
        most=most,
        total=sum(sum(row[:3]) for row in sums.values()),
        throttled=sum(row[3] for row in sums.values()),
        start=starts[0],
        middle=starts[MINUTES // 2],
        end=last,
    )


def _pieces(row: Sequence[int], most: int, most_throttled: int) -> tuple[Piece, ...]:
    """From below: polls, waves, people; and what was throttled in the strip under them. A few calls still show."""
    made, foot = [], float(CHART_HEIGHT)
    for css, count in (("poll", row[2]), ("run", row[1]), ("person", row[0])):
        if count:
            height = max(1.5, (CHART_HEIGHT - 3) * count / most)
            foot -= height
            made.append(Piece(css, round(max(0.0, foot), 1), round(height, 1)))
    if row[3]:
        height = max(3.0, STRIP * row[3] / most_throttled)
        made.append(Piece("throttled", CHART_HEIGHT + 2, round(height, 1)))
    return tuple(made)


def _title(start: datetime, row: Sequence[int]) -> str:
    text = f"{start:%H:%M} UTC: {row[0]:,} by people, {row[1]:,} by waves, {row[2]:,} by polling"
    return f"{text}; {row[3]:,} throttled by AWS" if row[3] else text


# --- what was learned ---


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline: what changed how often an operation may be called."""

    at: datetime
    kind: str  # of state: warn for slower, ok for faster, empty for a person's deed
    icon: str
    who: str  # a person, or empty
    operation: str
    where: str
    words: str
    query: str  # the page's parameters that show the bucket


def timeline(
    learned: Iterable[Lesson], limits: Iterable[Limit], *, names: Mapping[str, str], asked: Filter
) -> list[Entry]:
    """The newest first, of the places that `asked` lets through."""

    def entry(thing: Lesson | Limit, at: datetime, kind: str, icon: str, who: str, words: str) -> Iterator[Entry]:
        account = names.get(thing.account_id)
        if account is not None and asked.holds_place(thing.account_id, account, thing.region, thing.operation):
            query = place_query(thing.account_id, thing.region, thing.operation)
            yield Entry(at, kind, icon, who, thing.operation, f"{account}, {thing.region}", words, query)

    made: list[Entry] = []
    for each in learned:
        words = f"{number(each.before)} to {number(each.after)} a second"
        made += entry(each, each.at, "warn" if each.after < each.before else "ok", "gauge", "", words)
    for limit in limits:
        words = f"{number(limit.per_second)} a second at most"
        made += entry(limit, limit.set_at, "", "adjust", limit.set_by, words)
    return sorted(made, key=lambda each: each.at, reverse=True)[:MOST_LEARNED]
