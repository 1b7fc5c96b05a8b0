"""What the policy amounts to, for whoever reviews it: who may do what where, and which rules deserve a look."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.auth.models import Group
from django.db.models import Count, Q

from .decide import DEED_WORDS, OF_SESSIONS, WITH_DOCUMENT, WITH_USER, Deed, RuleFacts, in_force
from .forms import group_title
from .models import Rule
from .services import facts_of

UNUSED_AFTER = timedelta(days=90)
# Deeds that reach into an instance: open to everybody everywhere they are worth a second look.
_REACHING = frozenset(DEED_WORDS) - OF_SESSIONS
# What an approved request can open.
GRANTED = frozenset({Deed.SHELL, Deed.RUN_AS, Deed.FORWARD, Deed.TRANSFER})


@dataclass(frozen=True, slots=True)
class Part:
    """One rule's share of a cell: where, and under which conditions."""

    rule: Rule
    where: str
    conditions: str
    is_deny: bool


@dataclass
class Line:
    """One group's row of the matrix: a cell of parts for each column."""

    title: str
    people: int | None
    cells: list[list[Part]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Flag:
    """Why a rule deserves a look. `kind` is one of the status words."""

    rule: Rule
    kind: str
    word: str
    text: str


def matrix(rules: Sequence[Rule], deeds: Iterable[Deed], *, at: datetime) -> list[Line]:
    """Group by deed, from the rules in force; "everybody" first, people named one by one last. One query."""
    columns = list(deeds)
    facts = [(rule, facts_of(rule)) for rule in rules]
    living = [(rule, each) for rule, each in facts if in_force(each, at)]
    active = Count("user", filter=Q(user__is_active=True))
    groups = list(Group.objects.annotate(people=active).order_by("name"))

    def cells(named: list[tuple[Rule, RuleFacts]]) -> list[list[Part]]:
        return [[_part(rule, each, deed) for rule, each in named if deed in each.deeds] for deed in columns]

    lines = [Line("Everybody", None, cells([pair for pair in living if pair[1].everybody]))]
    for group in groups:
        named = [pair for pair in living if str(group.pk) in pair[1].groups]
        lines.append(Line(group_title(group), group.people, cells(named)))
    persons: dict[str, list[tuple[Rule, RuleFacts]]] = {}
    for rule, each in living:
        for user in rule.users.all():
            persons.setdefault(user.username, []).append((rule, each))
    lines += [Line(name, 1, cells(named)) for name, named in sorted(persons.items())]
    return lines


def _part(rule: Rule, facts: RuleFacts, deed: Deed) -> Part:
    where = "everywhere" if rule.targets == "all" else rule.targets
    if facts.whose != "any":
        where = f"{'own' if facts.whose == 'own' else 'of others'}, {where}"
    return Part(rule, where, ", ".join(conditions(facts, deed)), facts.is_deny)


def conditions(facts: RuleFacts, deed: Deed | None = None) -> list[str]:
    """What a rule asks for besides the person and the place, in a few words each; with `deed`, of that one alone."""
    found = []
    if facts.hours is not None:
        found.append(str(facts.hours))
    if facts.networks:
        found.append(f"from {', '.join(map(str, facts.networks))}")
    if facts.needs_mfa:
        found.append(f"second factor of {facts.mfa_minutes} min" if facts.mfa_minutes else "second factor")
    if facts.needs_reason:
        found.append("reason")
    if facts.approvals:
        found.append(f"approved by {facts.approvals}")
    is_of_shells = Deed.SHELL in facts.deeds and deed in {None, Deed.SHELL}
    if facts.needs_moderator and is_of_shells:
        found.append("moderator present")
    if facts.shell_user and is_of_shells:
        found.append(f"shells as {facts.shell_user}")
    if facts.session_documents and is_of_shells:
        found.append(f"by {', '.join(facts.session_documents)}")
    if facts.destinations and deed in {None, Deed.FORWARD}:
        found.append(f"to {', '.join(facts.destinations)}")
    if facts.run_as and (deed is None or deed in WITH_USER):
        found.append(f"as {', '.join(facts.run_as)}")
    if facts.documents and (deed is None or deed in WITH_DOCUMENT):
        found.append(f"documents {', '.join(facts.documents)}")
    if facts.role_arn and (deed is None or deed == Deed.SHELL):
        found.append(f"under {facts.role_arn.rpartition('/')[2]}")
    return found


def flags(rules: Sequence[Rule], *, at: datetime) -> list[Flag]:
    """Rules that are too wide, cannot work, have ended, or never decide."""
    found = []
    for rule in rules:
        facts = facts_of(rule)
        if facts.targets is None:
            text = (
                "Its expression can no longer be read: as an allow it allows nothing, as a deny it denies everywhere."
            )
            found.append(Flag(rule, "bad", "Cannot be read", text))
            continue
        if rule.valid_until is not None and rule.valid_until <= at:
            found.append(Flag(rule, "off", "Expired", f"It held until {rule.valid_until:%d %b %Y, %H:%M} UTC."))
            continue
        if not rule.enabled:
            continue
        if not facts.everybody and not facts.users and not facts.groups:
            found.append(Flag(rule, "warn", "Names nobody", "Whom it named is gone. Delete it, or name somebody."))
        is_bare = not conditions(facts)
        if not facts.is_deny and facts.everybody and facts.targets.matches_everything and facts.deeds & _REACHING:
            words = "on any instance" + (", unconditionally" if is_bare else "")
            found.append(Flag(rule, "bad", "Too wide", f"Whoever may log in may do this {words}."))
        elif not facts.is_deny and facts.whose == "any" and facts.everybody and facts.deeds & OF_SESSIONS:
            found.append(Flag(rule, "warn", "Too wide", "Everybody may see or end the sessions of all others."))
        elif not facts.is_deny and any(network.prefixlen == 0 for network in facts.networks):
            found.append(Flag(rule, "warn", "Too wide", "One of its networks is the whole internet."))
        elif (
            not facts.is_deny and "run_as" in facts.deeds and {"*", "root"} & set(facts.run_as) and _is_root_bare(facts)
        ):
            found.append(
                Flag(rule, "warn", "Root", "It lets people be root without second factor, reason or approval.")
            )
        if facts.approvals and not facts.deeds & GRANTED:
            text = "Grants are for shells, OS users, ports and files: nobody can meet this condition elsewhere."
            found.append(Flag(rule, "hold", "Cannot be met", text))
        seen = rule.last_used_at or rule.created_at
        if at - seen > UNUSED_AFTER:
            text = f"No door was decided by it in {UNUSED_AFTER.days} days."
            found.append(Flag(rule, "off", "Unused" if rule.last_used_at else "Never used", text))
    order = {"bad": 0, "warn": 1, "hold": 2, "off": 3}
    return sorted(found, key=lambda flag: (order[flag.kind], flag.rule.name))


def _is_root_bare(facts: RuleFacts) -> bool:
    return not (facts.needs_mfa or facts.needs_reason or facts.approvals)
