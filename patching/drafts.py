"""A baseline as a person types it: read from a form, checked, and laid out for the form to show again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from django.http import QueryDict

from .content import ACTIONS, LEVELS, Content, Filter, Rule, Source
from .families import KEY_NAMES, LISTED_KEYS, PATCH_SETS, family_of, traits_of
from .formats import entries, list_problems
from .sound import MOST_RULES, MOST_SOURCES, Problem, problems

_LONGEST = 20_000  # characters of one field
_NEW_RULE = Rule(approve_after_days=7)


@dataclass(frozen=True, slots=True)
class FilterField:
    """One filter of a rule in the form."""

    name: str  # of the inputs
    key: str
    title: str
    chosen: tuple[str, ...]
    options: tuple[str, ...]  # to be ticked; empty: it is typed

    @property
    def told(self) -> str:
        if not self.chosen:
            return "any"
        more = f" and {len(self.chosen) - 2} more" if len(self.chosen) > 2 else ""
        return ", ".join(self.chosen[:2]) + more

    @property
    def typed(self) -> str:
        return ", ".join(self.chosen)


@dataclass(frozen=True, slots=True)
class RuleField:
    """One rule in the form."""

    position: int  # from 0
    rule: Rule
    days: str  # as typed
    filters: tuple[FilterField, ...]
    problems: tuple[str, ...]

    @property
    def number(self) -> int:
        return self.position + 1


@dataclass(slots=True)
class Draft:
    """What stands in the form."""

    content: Content
    approved_text: str = ""
    rejected_text: str = ""
    days: list[str] = field(default_factory=list)  # of each rule, as typed
    tags_text: str = ""
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, content: Content) -> Draft:
        return cls(
            content,
            "\n".join(content.approved),
            "\n".join(content.rejected),
            ["" if rule.approve_after_days is None else str(rule.approve_after_days) for rule in content.rules],
        )

    @classmethod
    def posted(cls, data: QueryDict, operating_system: str) -> Draft:
        """Out of a form. What cannot be read stands among the problems."""
        given = _Given(data)
        wrong: list[Problem] = []
        days = [given.text(f"rule-{n}-days") for n in range(given.count("rules", MOST_RULES + 1))]
        rules = []
        for position, text in enumerate(days):
            name = f"rule-{position}"
            number = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None
            if text and number is None:
                wrong.append(Problem(name, f"Days are a whole number from 0 to 360, not “{text[:20]}”."))
                number = 0
            rules.append(
                Rule(
                    filters=given.filters(operating_system, name),
                    approve_after_days=number,
                    approve_until=given.text(f"{name}-until"),
                    level=given.choice(f"{name}-level", LEVELS),
                    non_security=given.flag(f"{name}-non_security"),
                )
            )
        sources = []
        for position in range(given.count("sources", MOST_SOURCES + 1)):
            name = f"source-{position}"
            products = tuple(sorted(set(entries(given.text(f"{name}-products")))))
            sources.append(Source(given.text(f"{name}-name"), products, given.lines(f"{name}-configuration")))
        approved, rejected = given.lines("approved"), given.lines("rejected")
        family = family_of(operating_system)
        for which, text in (("approved", approved), ("rejected", rejected)):
            told = list_problems(entries(text), family, is_rejection=which == "rejected", has_lines=True)
            wrong += [Problem(which, each) for each in told]
        content = Content(
            operating_system,
            given.text("name"),
            given.text("description"),
            given.filters(operating_system, "global"),
            tuple(rules),
            tuple(sorted(set(entries(approved)))),
            given.choice("approved_level", LEVELS),
            given.flag("approved_non_security"),
            tuple(sorted(set(entries(rejected)))),
            given.choice("rejected_action", ACTIONS, ACTIONS[0]),
            tuple(sources),
            given.choice("security_updates", ("COMPLIANT", "NON_COMPLIANT"), "")
            if operating_system == "WINDOWS"
            else "",
        )
        return cls(content, approved, rejected, days, given.lines("tags"), wrong)

    def check(self, legal: Mapping[str, Sequence[str]]) -> bool:
        """Find all problems; whether there are none."""
        has_wrong_list = {each.field for each in self.problems if each.field in {"approved", "rejected"}}
        found = [
            each
            for each in problems(self.content, legal=legal)
            if each.field not in has_wrong_list or "approved and rejected" in each.text
        ]
        unread = {each.field for each in self.problems if each.field.startswith("rule-")}
        self.problems += [each for each in found if each.field not in unread]
        return not self.problems

    def of_field(self, name: str) -> list[str]:
        return [each.text for each in self.problems if each.field == name]

    def tags(self) -> dict[str, str]:
        """Tags as key=value, one a line; a problem for a line that is none."""
        found: dict[str, str] = {}
        for line in filter(None, (each.strip() for each in self.tags_text.splitlines())):
            key, sign, value = line.partition("=")
            if not sign or not 1 <= len(key.strip()) <= 128 or len(value) > 256:
                self.problems.append(Problem("tags", f"“{line[:40]}” is no tag. Write one as team=core."))
            found[key.strip()] = value.strip()
        if len(found) > 50:
            self.problems.append(Problem("tags", f"These are {len(found)} tags; a baseline has 50 at most."))
        return found

    # What the buttons beside "Save" do.

    def do(self, button: str) -> None:
        """Add or take out a rule or a source."""
        verb, _, number = button.partition("-")
        position = int(number) if re.fullmatch(r"[0-9]{1,2}", number) else -1
        rules, sources = self.content.rules, self.content.sources
        if verb == "add_rule":
            has_delay = traits_of(self.content.operating_system).has_delay
            self.content = replace(self.content, rules=(*rules, _NEW_RULE if has_delay else Rule()))
            self.days.append("7" if has_delay else "")
        elif verb == "remove_rule" and 0 <= position < len(rules):
            self.content = replace(self.content, rules=rules[:position] + rules[position + 1 :])
            del self.days[position]
        elif verb == "add_source":
            self.content = replace(self.content, sources=(*sources, Source("", ("*",), "")))
        elif verb == "remove_source" and 0 <= position < len(sources):
            self.content = replace(self.content, sources=sources[:position] + sources[position + 1 :])

    # What the form shows.

    def rule_fields(self, legal: Mapping[str, Sequence[str]]) -> list[RuleField]:
        return [
            RuleField(
                position,
                rule,
                self.days[position],
                filter_fields(self.content.operating_system, f"rule-{position}", rule.filters, legal),
                tuple(self.of_field(f"rule-{position}")),
            )
            for position, rule in enumerate(self.content.rules)
        ]

    def source_fields(self) -> list[tuple[int, Source, list[str]]]:
        return [(n, each, self.of_field(f"source-{n}")) for n, each in enumerate(self.content.sources)]


def filter_fields(
    operating_system: str, name: str, filters: Iterable[Filter], legal: Mapping[str, Sequence[str]]
) -> tuple[FilterField, ...]:
    """The filters that an operating system has, and those that are there besides."""
    held = {each.key: each.values for each in filters}
    keys = traits_of(operating_system).keys
    found = []
    for key in (*keys, *(each for each in held if each not in keys)):
        chosen = held.get(key, ())
        known = PATCH_SETS if key == "PATCH_SET" else tuple(legal.get(key) or ()) if key in LISTED_KEYS else ()
        options = tuple(dict.fromkeys([*(["*"] if known else []), *known, *(chosen if known else ())]))
        found.append(FilterField(f"{name}-{key}", key, KEY_NAMES.get(key, key), chosen, options))
    return tuple(found)


class _Given:
    """The fields of a form, without what no field can hold."""

    def __init__(self, data: QueryDict) -> None:
        self.data = data

    def lines(self, name: str) -> str:
        return self.data.get(name, "")[:_LONGEST].replace("\x00", "").replace("\r\n", "\n").strip()

    def text(self, name: str) -> str:
        return " ".join(self.lines(name).split())

    def flag(self, name: str) -> bool:
        return bool(self.data.get(name))

    def choice(self, name: str, values: Sequence[str], default: str = "UNSPECIFIED") -> str:
        value = self.data.get(name, "")
        return value if value in values else default

    def count(self, name: str, most: int) -> int:
        text = self.data.get(name, "")
        return min(int(text), most) if re.fullmatch(r"[0-9]{1,3}", text) else 0

    def filters(self, operating_system: str, name: str) -> tuple[Filter, ...]:
        """Ticked values, and typed ones; one that names nothing is no filter."""
        keys = traits_of(operating_system).keys
        starts = f"{name}-"
        there = {each.removeprefix(starts).removesuffix("-typed") for each in self.data if each.startswith(starts)}
        more = sorted(each for each in there if re.fullmatch(r"[A-Z_]{3,20}", each) and each not in keys)
        found = []
        for key in (*keys, *more):
            ticked = {each.replace("\x00", "").strip()[:256] for each in self.data.getlist(f"{name}-{key}")[:200]}
            typed = set(entries(self.lines(f"{name}-{key}-typed")))
            values = tuple(sorted((ticked | typed) - {""}))
            if values:
                found.append(Filter(key, values))
        return tuple(found)
