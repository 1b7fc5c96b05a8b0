"""What the fleet page shows: its rows, columns, tabs and sentence, and the URLs between its views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.urls import reverse

from fleetops.identity.models import User
from fleetops.policy.decide import Decision

from .doors import shells
from .filters import Chip, FleetQuery
from .models import Instance, InstanceQuerySet, Region
from .readiness import NEEDS_A_FIX, Status, status_of, status_words

ROWS = 100  # of one page
# A page asks for changes since it was made; a refresh that was committing at that moment is caught by asking twice.
OVERLAP = timedelta(seconds=15)
# Tags of a row, in the order in which people tell their machines apart; then whatever else there is.
_FIRST_TAGS = ("env", "cluster", "service", "team")
MOST_TAGS = 2
MOST_WEIGHED = 12  # conditions of a filter that are tried without one by one: each is a count of its own

# Sort key in the URL → columns. The rest makes the order whole, so that a page never repeats a row.
SORTS: dict[str, tuple[str, ...]] = {
    "name": (),
    "status": ("status_rank",),
    "platform": ("platform_name", "platform_version"),
    "account": ("account__name", "zone", "region__name"),
    "profile": ("profile_arn",),
}
_COLUMNS = (
    ("name", "Name"),
    ("status", "Status"),
    ("platform", "Platform"),
    ("account", "Account, zone"),
    ("", "Tags"),
    ("profile", "Profile"),
)
# Tab → its filter.
_TABS = (("All", "", frozenset(Status)), ("Needs a fix", "needs-a-fix", NEEDS_A_FIX)) + tuple(
    (label, status.value, frozenset({status}))
    for label, status in (("Online", Status.ONLINE), ("Stopped", Status.STOPPED))
)


@dataclass(frozen=True, slots=True)
class Column:
    """A head of the table, and where a click on it leads."""

    key: str
    label: str
    url: str
    direction: str  # of aria-sort: "ascending", "descending", or empty


@dataclass(frozen=True, slots=True)
class Tab:
    """A view of the fleet, with how many are in it."""

    key: str
    label: str
    url: str
    count: int
    is_active: bool
    is_bad: bool


class Row:
    """One instance as a row: the words of its cells."""

    __slots__ = (
        "can_connect",
        "hex",
        "instance",
        "kind",
        "more_tags",
        "name",
        "shell",
        "status",
        "tags",
        "url",
        "word",
    )

    def __init__(self, instance: Instance, moment: datetime, shell: Decision) -> None:
        self.instance, self.shell = instance, shell
        self.hex, self.name, self.url = instance.pk.hex, str(instance), instance.get_absolute_url()
        self.kind, self.word = status_words(instance, now=moment)
        self.status = status_of(instance)
        self.can_connect = self.status is Status.ONLINE
        tags = {key: value for key, value in instance.tags.items() if key != "Name" and not key.startswith("aws:")}
        ordered = [key for key in _FIRST_TAGS if key in tags] + sorted(tags.keys() - set(_FIRST_TAGS))
        self.tags = [(key, tags[key]) for key in ordered[:MOST_TAGS]]
        self.more_tags = [f"{key}={tags[key]}" for key in ordered[MOST_TAGS:]]


def rows(instances: Iterable[Instance], *, user: User, moment: datetime) -> list[Row]:
    """Rows of instances, with whether `user` may open a shell on each; two queries besides theirs."""
    found = list(instances)
    return [Row(each, moment, shell) for each, shell in zip(found, shells(user, found), strict=True)]


def sort_of(text: str) -> str:
    """The sort that `text` names, with "-" in front for the other direction; by name if it names none."""
    return text if text.removeprefix("-") in SORTS else "name"


def order(sort: str) -> list[str]:
    """Columns for order_by."""
    descends = sort.startswith("-")
    columns = [*SORTS[sort.removeprefix("-")], "name", "instance_id", "pk"]
    return [f"-{column}" for column in columns] if descends else columns


class Pages(Paginator):
    """Pages of a list whose order is whole; those beyond its middle are read from its end.

    A database walks over all rows that it skips, so that the last page would cost the whole list.
    """

    def page(self, number: int | str) -> Page:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        end = min(start + self.per_page, self.count)
        if start <= self.count // 2:
            return self._get_page(self.object_list[start:end], number, self)
        backwards = self.object_list.reverse()[self.count - end : self.count - start]
        return self._get_page(list(backwards)[::-1], number, self)


def parameters(query: FleetQuery, sort: str, page: int = 1) -> dict[str, str]:
    """The URL's parameters of a view; what is as usual is left out."""
    found = {"q": query.text, "sort": "" if sort == "name" else sort, "page": str(page) if page > 1 else ""}
    return {key: value for key, value in found.items() if value}


def url(query: FleetQuery, sort: str, page: int = 1) -> str:
    # Without any parameter the fleet opens with the filter that somebody has starred.
    return f"{reverse('inventory:fleet')}?{urlencode(parameters(query, sort, page) or {'q': ''})}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a filter cannot be read, and where."""

    words: str
    before: str  # the text up to the place
    behind: str


def problem(query: FleetQuery) -> Problem | None:
    error = query.error
    return error and Problem(str(error), query.typed[: error.position], query.typed[error.position :])


def columns(query: FleetQuery, sort: str) -> list[Column]:
    made = []
    for key, label in _COLUMNS:
        direction = {key: "ascending", f"-{key}": "descending"}.get(sort, "") if key else ""
        made.append(
            Column(key, label, url(query, f"-{key}" if direction == "ascending" else key) if key else "", direction)
        )
    return made


def tabs(counts: dict[Status, int], query: FleetQuery, sort: str) -> list[Tab]:
    """The views; the other filters stay when one changes between them, and `counts` are of what those let through."""
    made = []
    for label, value, statuses in _TABS:
        its_query = query.with_status(value) if value else query.without_status()
        made.append(
            Tab(
                key=value or "all",
                label=label,
                url=url(its_query, sort),
                count=sum(count for status, count in counts.items() if status in statuses),
                is_active=query.status == value if value else not query.has_status,
                is_bad=statuses is NEEDS_A_FIX,
            )
        )
    return made


def answer(counts: dict[Status, int]) -> dict:
    """The numbers of the sentence below the title, with the URLs of what they count."""

    def at(value: str) -> str:
        return url(FleetQuery().with_status(value), "name")

    return {
        "total": sum(counts.values()),
        "online": counts[Status.ONLINE],
        "online_url": at("online"),
        "to_fix": sum(counts[status] for status in NEEDS_A_FIX),
        "to_fix_url": at("needs-a-fix"),
        "stopped": counts[Status.STOPPED],
        "stopped_url": at("stopped"),
        "starting": counts[Status.STARTING],
        "starting_url": at("starting"),
    }


def digest(counts: dict[Status, int], in_tabs: dict[Status, int], failing: Sequence[Region]) -> str:
    """Tells two answers apart."""
    numbers = [each[status] for each in (counts, in_tabs) for status in Status]
    return ".".join(str(number) for number in (*numbers, len(failing)))


def best_drop(query: FleetQuery, sort: str, instances: InstanceQuerySet) -> tuple[Chip, int, str] | None:
    """Of a filter that matches nothing: the part that costs most, how many match without it, and the URL of that."""
    if len(query.conditions) > MOST_WEIGHED:
        return None
    found = [(each, query.without(each.condition).apply(instances).count()) for each in query.chips]
    worst, count = max(found, key=lambda pair: pair[1])
    return (worst, count, url(query.without(worst.condition), sort)) if count else None
