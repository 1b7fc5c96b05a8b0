"""The filter of the fleet: words and key:value, as typed, as chips and as a query. Every form lives in the URL."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat

from .models import InstanceTag
from .readiness import NEEDS_A_FIX, WORDS, Status

MOST_CHARACTERS = 500
MOST_FILTERS = 12  # each is a condition of one database query

# status:… takes a Status, or one of these.
STATUS_GROUPS: dict[str, frozenset[Status]] = {"needs-a-fix": NEEDS_A_FIX}


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: `key` is empty for a plain word; `text` is how it is typed."""

    key: str
    value: str
    text: str

    @property
    def group(self) -> str:
        """Filters of one group are alternatives: values of one key, or of one tag's key; a word stands for itself."""
        return f"tag:{self.value.partition('=')[0]}" if self.key == "tag" else self.key or self.text

    @property
    def label(self) -> str:
        """What stands before the value in a chip."""
        if self.key == "tag":
            name, has_value, _ = self.value.partition("=")
            return f"tag:{name} is" if has_value else "has tag"
        return f"{self.key} is" if self.key in {"status", "account", "region", "zone", "type", "id"} else self.key

    @property
    def shown(self) -> str:
        if self.key == "tag" and "=" in self.value:
            return self.value.partition("=")[2] or "empty"
        if self.key == "status":
            return self.value.replace("-", " ")
        return self.value


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """What somebody typed: the filters in it, and in words what could not be read."""

    filters: tuple[Filter, ...] = ()
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.filters)

    @property
    def text(self) -> str:
        return " ".join(each.text for each in self.filters)

    @property
    def statuses(self) -> frozenset[Status]:
        """The statuses that it lets through."""
        chosen = [_statuses(each.value) or frozenset() for each in self.filters if each.key == "status"]
        return frozenset().union(*chosen) if chosen else frozenset(Status)

    def without_status(self) -> "FleetQuery":
        return FleetQuery(tuple(each for each in self.filters if each.key != "status"))

    def without(self, unwanted: Filter) -> "FleetQuery":
        return FleetQuery(tuple(each for each in self.filters if each != unwanted))

    def apply(self, instances: QuerySet) -> QuerySet:
        """Those of `instances` that match: of several values of one key any will do, and all keys and words must."""
        groups: dict[str, list[Filter]] = {}
        for each in self.filters:
            groups.setdefault(each.group, []).append(each)
        instances = instances.with_status().alias(platform_text=Concat("platform_name", Value(" "), "platform_version"))
        for alternatives in groups.values():
            condition = Q()
            for each in alternatives:
                condition |= _CONDITIONS[each.key](each.value)
            instances = instances.filter(condition)
        return instances


def parse(text: str) -> FleetQuery:
    """Read a filter; never fails: what cannot be read is told in `problems` and left out.

    `word`, `"two words"`, `key:value`, `tag:key`, `tag:key=value`, each also with quotes around a part.
    """
    problems: list[str] = []
    if len(text) > MOST_CHARACTERS:
        problems.append(f"The filter is longer than {MOST_CHARACTERS} characters; the rest was left out.")
        text = text[:MOST_CHARACTERS]
    filters: list[Filter] = []
    for token in re.findall(r'(?:"[^"]*"|\S)+', text.replace("\x00", "")):
        found = re.fullmatch(r"([A-Za-z]+):(.*)", token, re.DOTALL)
        key = found.group(1).lower() if found else ""
        value = (found.group(2) if found else token).replace('"', "").strip()
        if key not in _CONDITIONS:
            problems.append(f"“{key}:” is nothing to filter by. Use {KEYS}, or a plain word.")
        elif not value:
            if key:
                problems.append(f"“{key}:” has no value.")
        elif key == "status" and _statuses(value) is None:
            known = ", ".join([*STATUS_GROUPS, *(status.value for status in WORDS if status is not Status.GONE)])
            problems.append(f"“{value}” is no status. Use one of {known}.")
        elif len(filters) == MOST_FILTERS:
            problems.append(f"Only the first {MOST_FILTERS} filters are used.")
            break
        else:
            made = Filter(key, value, _typed(key, value))
            if made not in filters:
                filters.append(made)
    return FleetQuery(tuple(filters), tuple(dict.fromkeys(problems)))


def _typed(key: str, value: str) -> str:
    quoted = f'"{value}"' if re.search(r"\s", value) or (not key and ":" in value) else value
    return f"{key}:{quoted}" if key else quoted


def _statuses(value: str) -> frozenset[Status] | None:
    value = value.lower().replace(" ", "-").replace("_", "-")
    if value in STATUS_GROUPS:
        return STATUS_GROUPS[value]
    # What is gone is in no list.
    return frozenset({Status(value)}) if value in set(Status) - {Status.GONE} else None


def _word(value: str) -> Q:
    return (
        Q(name__icontains=value)
        | Q(instance_id__icontains=value)
        | Q(computer_name__icontains=value)
        | Q(private_ip__startswith=value)
    )


def _tag(value: str) -> Q:
    key, has_value, wanted = value.partition("=")
    tags = InstanceTag.objects.filter(instance=OuterRef("pk"), key=key)
    return Q(Exists(tags.filter(value=wanted) if has_value else tags))


def _status(value: str) -> Q:
    return Q(status_key__in=[status.value for status in _statuses(value) or ()])


_CONDITIONS: dict[str, Callable[[str], Q]] = {
    "": _word,
    "tag": _tag,
    "status": _status,
    "platform": lambda value: Q(platform_text__icontains=value) | Q(platform_type__iexact=value),
    "account": lambda value: Q(account__name__icontains=value) | Q(account__account_id=value),
    "region": lambda value: Q(region__name__istartswith=value),
    "zone": lambda value: Q(zone__istartswith=value),
    "type": lambda value: Q(instance_type__istartswith=value),
    "name": lambda value: Q(name__icontains=value),
    "id": lambda value: Q(instance_id__istartswith=value),
    "profile": lambda value: Q(profile_arn__icontains=value),
    "agent": lambda value: Q(agent_version__startswith=value),
}
KEYS = ", ".join(f"{key}:" for key in _CONDITIONS if key)
