"""Whether a baseline can be meant as it is written: limits, legal values, and rules that contradict each other.

Pure: what AWS takes is handed in. Every problem says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from .content import ACTIONS, ANY, LEVELS, Content, Filter, Rule
from .families import KEY_NAMES, OPERATING_SYSTEMS, PATCH_SETS, Family, family_of, traits_of
from .formats import list_problems

# Limits of botocore's model of ssm, CreatePatchBaseline.
MOST_RULES = 10
MOST_FILTERS = 4
MOST_VALUES = 20
MOST_SOURCES = 20
MOST_DAYS = 360
NAME = re.compile(r"[a-zA-Z0-9_.-]{3,128}")
SOURCE_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,50}")
LONGEST_DESCRIPTION = 1024
LONGEST_CONFIGURATION = 1024
_OF_SYSTEM = re.compile(r"Windows(Server)?[0-9]")  # products that are Windows itself
_RESERVED = ("aws", "amazon", "amzn")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong; `field` is "name", "rule-2" (from 0), "approved", "rejected", "source-0", or ""."""

    field: str
    text: str


Legal = Mapping[str, Sequence[str]]  # by filter key; a key that is not here, or has no value, is not known


def problems(content: Content, *, legal: Legal) -> list[Problem]:
    """All that is wrong with `content`; empty if AWS can be asked to keep it."""
    if content.operating_system not in OPERATING_SYSTEMS:
        return [Problem("", f"AWS knows no operating system {content.operating_system}.")]
    return [
        *_of_facts(content),
        *_of_global_filters(content, legal),
        *(each for number in range(len(content.rules)) for each in _of_rule(content, number, legal)),
        *_of_rules_together(content),
        *_of_lists(content),
        *_of_sources(content, legal),
    ]


def _of_facts(content: Content) -> list[Problem]:
    found = []
    if not NAME.fullmatch(content.name):
        found.append(Problem("name", "A name has 3 to 128 letters, digits, dots, dashes and underscores."))
    elif content.name.lower().startswith(_RESERVED):
        found.append(Problem("name", "AWS keeps names that begin with aws, amazon or amzn for itself. Choose another."))
    if len(content.description) > LONGEST_DESCRIPTION:
        found.append(Problem("description", f"Keep the description to {LONGEST_DESCRIPTION:,} characters."))
    if content.approved_level not in LEVELS:
        found.append(Problem("approved", f"A level is one of {', '.join(LEVELS)}."))
    if content.rejected_action not in ACTIONS:
        found.append(Problem("rejected", f"What becomes of a rejected dependency is one of {', '.join(ACTIONS)}."))
    if content.security_updates and content.operating_system != "WINDOWS":
        text = "How security updates that are not approved yet count can be said of Windows alone. Leave it out."
        found.append(Problem("security_updates", text))
    if content.approved_non_security and not traits_of(content.operating_system).has_non_security:
        found.append(Problem("approved", "Updates that are no security updates can be let in on Linux alone."))
    return found


def _of_global_filters(content: Content, legal: Legal) -> list[Problem]:
    return [Problem("global", text) for text in _of_filters(content, content.global_filters, legal)]


def _of_filters(content: Content, filters: Sequence[Filter], legal: Legal) -> list[str]:
    keys = traits_of(content.operating_system).keys
    system = OPERATING_SYSTEMS[content.operating_system]
    found = []
    if len(filters) > MOST_FILTERS:
        found.append(f"It has {len(filters)} filters; AWS takes {MOST_FILTERS}. Take some out.")
    seen = set()
    for each in filters:
        name = KEY_NAMES.get(each.key, each.key)
        if each.key in seen:
            found.append(f"{name} is filtered twice. Put all values into one filter.")
        seen.add(each.key)
        if each.key not in keys:
            wanted = ", ".join(keys)
            found.append(f"{system} has no filter {each.key}; it has {wanted}.")
            continue
        if not each.values:
            found.append(f"{name} names nothing. Choose a value, or leave the filter out.")
        if len(each.values) > MOST_VALUES:
            found.append(
                f"{name} names {len(each.values)} values; AWS takes {MOST_VALUES}. Choose * or make two rules."
            )
        known = PATCH_SETS if each.key == "PATCH_SET" else legal.get(each.key) or ()
        if known and (unknown := [value for value in each.values if value != ANY and value not in known]):
            found.append(
                f"AWS knows no “{unknown[0]}” among the {name.lower()} of {system}. {_near(unknown[0], known)}"
            )
        elif ANY in each.values and len(each.values) > 1:
            found.append(f"{name} has * and more. * is any, so take the others out.")
    return found


def _near(wrong: str, known: Sequence[str]) -> str:
    plain = re.sub(r"[^a-z0-9]", "", wrong.lower())
    same = next((each for each in known if re.sub(r"[^a-z0-9]", "", each.lower()) == plain), "")
    return f"Did you mean {same}?" if same else f"It knows {', '.join(known[:6])}{', …' if len(known) > 6 else ''}."


def _of_rule(content: Content, number: int, legal: Legal) -> list[Problem]:
    rule, traits = content.rules[number], traits_of(content.operating_system)
    system = OPERATING_SYSTEMS[content.operating_system]
    found = _of_filters(content, rule.filters, legal)
    has_days, has_date = rule.approve_after_days is not None, bool(rule.approve_until)
    if not traits.has_delay and (has_days or has_date):
        found.append(f"On {system} what matches is approved at once: AWS takes no days and no date. Leave both empty.")
    elif has_days and has_date:
        found.append("It has days and a date. Keep one of them.")
    elif traits.has_delay and not has_days and not has_date:
        found.append("Say when it approves: after so many days (0 is at once), or what is released until a date.")
    if has_days and not 0 <= (rule.approve_after_days or 0) <= MOST_DAYS:
        found.append(f"Days are 0 to {MOST_DAYS}.")
    if has_date and not is_date(rule.approve_until):
        found.append(f"“{rule.approve_until}” is no date. Write one as 2026-12-31.")
    if rule.level not in LEVELS:
        found.append(f"A level is one of {', '.join(LEVELS)}.")
    if rule.non_security and not traits.has_non_security:
        found.append(f"Updates that are no security updates can be let in on Linux alone, not on {system}.")
    if family_of(content.operating_system) == Family.WINDOWS:
        found += _of_patch_set(rule)
    found += _against_global(content, rule)
    return [Problem(f"rule-{number}", text) for text in found]


def _of_patch_set(rule: Rule) -> list[str]:
    """Applications are filtered by family and product; the operating system has one family."""
    families = [each for each in rule.values("PRODUCT_FAMILY") if each != ANY]
    if rule.values("PATCH_SET") != ("APPLICATION",):
        others = [each for each in families if each != "Windows"]
        if others and "APPLICATION" not in rule.values("PATCH_SET"):
            return [f"{others[0]} is an application. Choose the patch set APPLICATION for it, in a rule of its own."]
        return []
    products = [each for each in rule.values("PRODUCT") if _OF_SYSTEM.match(each)]
    if "Windows" in families or products:
        name = products[0] if products else "Windows"
        return [f"{name} is no application. Choose the patch set OS for it, in a rule of its own."]
    return []


def _against_global(content: Content, rule: Rule) -> list[str]:
    """A rule that the global filters leave nothing of approves nothing."""
    found = []
    for each in content.global_filters:
        ruled = rule.values(each.key)
        if ruled and ANY not in ruled and ANY not in each.values and not set(ruled) & set(each.values):
            name = KEY_NAMES.get(each.key, each.key).lower()
            found.append(
                f"It can never match: the filter for all rules lets in only {', '.join(each.values)} of the {name}, "
                f"and the rule wants {', '.join(ruled)}. Change one of the two."
            )
    return found


def _of_rules_together(content: Content) -> list[Problem]:
    found = []
    if len(content.rules) > MOST_RULES:
        found.append(Problem("", f"There are {len(content.rules)} rules; AWS takes {MOST_RULES}. Join some of them."))
    for number, rule in enumerate(content.rules):
        for before, other in enumerate(content.rules[:number]):
            if rule.filters != other.filters or rule.non_security != other.non_security:
                continue
            if rule == other:
                text = f"It says the same as rule {before + 1}. Take one of them out."
            else:
                text = (
                    f"It contradicts rule {before + 1}: both match the same patches. One approves them {other.when} as "
                    f"{other.level.lower()}, the other {rule.when} as {rule.level.lower()}. Keep one of them."
                )
            found.append(Problem(f"rule-{number}", text))
    return found


def _of_lists(content: Content) -> list[Problem]:
    family = family_of(content.operating_system)
    found = [Problem("approved", text) for text in list_problems(list(content.approved), family, is_rejection=False)]
    found += [Problem("rejected", text) for text in list_problems(list(content.rejected), family, is_rejection=True)]
    for entry in content.approved:
        if entry in content.rejected:
            text = f"{entry} is approved and rejected. AWS would reject it: take it out of one of the lists."
            found.append(Problem("rejected", text))
        elif over := next((each for each in content.rejected if "*" in each and _covers(each, entry)), ""):
            text = f"{over} rejects {entry} too, which is approved. AWS would reject it: change one of the lists."
            found.append(Problem("rejected", text))
    return found


def _covers(pattern: str, entry: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), entry) is not None


def _of_sources(content: Content, legal: Legal) -> list[Problem]:
    found = []
    if content.sources and not traits_of(content.operating_system).has_sources:
        found.append(Problem("sources", "Repositories of one's own are for Linux alone. Take them out."))
    if len(content.sources) > MOST_SOURCES:
        found.append(Problem("sources", f"There are {len(content.sources)} repositories; AWS takes {MOST_SOURCES}."))
    names = [each.name for each in content.sources]
    for number, source in enumerate(content.sources):
        where, products = f"source-{number}", legal.get("PRODUCT") or ()
        if not SOURCE_NAME.fullmatch(source.name):
            found.append(Problem(where, "A repository's name has 3 to 50 letters, digits, dots, dashes, underscores."))
        if source.name in names[:number]:
            found.append(Problem(where, f"{source.name} is there twice. Give one of them another name."))
        if not source.products:
            found.append(Problem(where, "Say for which products it is, as * or AmazonLinux2023."))
        elif products and (unknown := [each for each in source.products if each != ANY and each not in products]):
            found.append(Problem(where, f"AWS knows no product “{unknown[0]}”. {_near(unknown[0], products)}"))
        if not 1 <= len(source.configuration) <= LONGEST_CONFIGURATION:
            text = f"Its configuration has 1 to {LONGEST_CONFIGURATION:,} characters, as the package manager reads it."
            found.append(Problem(where, text))
    return found


def is_date(text: str) -> bool:
    """Whether AWS takes it as a rule's date."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
