"""Who goes in which wave. Pure: facts of the targets and rules come in, waves go out.

What the rules mean, all of it:

- A **list** is an expression: its targets go in its wave, whatever other rules say.
- A **canary** takes a few of the others, each from another cluster, zone and platform as far as there are such.
- A **tag** (`role=web`, or `role` for a wave for each value) and a **zone** (one, or a wave for each) take what they
  name of what is left.
- **Percent** (of all targets) and **count** share what nobody has named; **rest** takes what is left of it. If there is
  no such rule, what is left goes in a last wave of its own.
- A target that two lists, or two rules by tag or zone, name makes the waves overlap: that is refused.
- Members of a cluster are spread over the waves by percent, count and rest as evenly as their sizes allow.
- A rule that no target is left for makes no wave; a note says so.

The same targets, rules and seed always make the same waves.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fleetops.errors import UserError
from fleetops.targets import Expression, ExpressionError, TargetFacts, parse

MOST_WAVES: Final = 100
KINDS: Final = ("canary", "percent", "count", "tag", "zone", "list", "rest")
_NAMED: Final = 3  # targets that a refusal names


@dataclass(frozen=True, slots=True)
class Member:
    """One target: what the rules are asked about, and the clusters that it is a member of."""

    key: Hashable
    facts: TargetFacts
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as a person wrote it. `value`: "1", "10", "role=web", "eu-west-1a", an expression; see KINDS."""

    by: str
    value: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """A wave: which rule made it (its place in the rules; after the last one for what was left), and who goes in it."""

    rule: int
    name: str
    keys: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Waves:
    """All waves in their order, and what there is to say about them."""

    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Wave:
    rule: int
    name: str
    members: list[Member] = field(default_factory=list)
    room: int = 0  # how many a wave that shares may take


def check(rules: Sequence[Rule]) -> None:
    """What can be said of rules without any target. Raises UserError."""
    if len(rules) > MOST_WAVES:
        raise UserError(f"A run has at most {MOST_WAVES} waves.")
    shares = 0
    for number, rule in enumerate(rules, 1):
        if rule.by not in KINDS:
            raise UserError(f"Wave {number} is made by “{rule.by}”; use one of {', '.join(KINDS)}.")
        if rule.by == "rest" and number < len(rules) and any(each.by in _POOL for each in rules[number:]):
            raise UserError(f"Wave {number} takes the rest, and another comes after it that would be left nothing.")
        if rule.by in {"canary", "count", "percent"}:
            amount = _number(rule, number)
            shares += amount if rule.by == "percent" else 0
        if rule.by == "tag" and not rule.value.partition("=")[0].strip():
            raise UserError(f"Wave {number} goes by a tag: name it, as role, or role=web for one value.")
        if rule.by == "list":
            _expression(rule, number)
    if shares > 100:
        raise UserError(f"The waves by percent overlap: together they are {shares} % of the targets.")
    if sum(rule.by == "canary" for rule in rules) > 1 or any(rule.by == "canary" for rule in rules[1:]):
        raise UserError("A canary goes first: it is the first wave, and the only one of its kind.")


def split(members: Sequence[Member], rules: Sequence[Rule], *, seed: str) -> Waves:
    """Every member in exactly one wave; no wave without any. Raises UserError for rules that overlap or say nothing."""
    check(rules)
    notes: list[str] = []
    made: dict[int, list[_Wave]] = {}
    left = dict.fromkeys(sorted(range(len(members)), key=lambda index: _mixed(seed, members[index].key)))

    def taken(index: int) -> Member:
        del left[index]
        return members[index]

    for number, indexes in _named(members, rules, "list").items():
        made[number] = [_Wave(number, rules[number].name or "List", [taken(index) for index in indexes])]
    if rules and rules[0].by == "canary":
        chosen = _canary(members, list(left), _number(rules[0], 1))
        made[0] = [_Wave(0, rules[0].name or "Canary", [taken(index) for index in chosen])]
    for number, indexes in _named(members, rules, "tag", "zone").items():
        made[number] = _by_value(rules[number], number, [taken(index) for index in indexes if index in left])
    pool = [number for number, rule in enumerate(rules) if rule.by in _POOL]
    shared = _rooms(rules, pool, total=len(members), left=len(left))
    if any(wave.room for wave in shared):
        _spread([members[index] for index in left], shared)
    for wave in shared:
        made.setdefault(wave.rule, []).append(wave)
    splits = []
    for number in range(len(rules) + 1):
        waves = [wave for wave in made.get(number, []) if wave.members]
        if not waves and number < len(rules):
            notes.append(f"No target is left for {_shown(rules[number])}, so it makes no wave.")
        splits += [Split(wave.rule, wave.name, _in_order(wave.members, seed)) for wave in waves]
    if len(splits) > MOST_WAVES:
        raise UserError(f"These rules make {len(splits)} waves; a run has at most {MOST_WAVES}.")
    return Waves(tuple(splits), tuple(notes))


# --- by name ---------------------------------------------------------------------------------------------------------

_POOL: Final = frozenset({"percent", "count", "rest"})


def _named(members: Sequence[Member], rules: Sequence[Rule], *kinds: str) -> dict[int, list[int]]:
    """Rule → the members that it names, of rules of `kinds`. Raises UserError if two name the same."""
    found: dict[int, list[int]] = {number: [] for number, rule in enumerate(rules) if rule.by in kinds}
    holds = {number: _condition(rules[number], number + 1) for number in found}
    twice: dict[tuple[int, int], list[str]] = defaultdict(list)
    for index, member in enumerate(members):
        mine = [number for number, condition in holds.items() if condition(member.facts)]
        for number in mine[:1]:
            found[number].append(index)
        if len(mine) > 1:
            twice[mine[0], mine[1]].append(member.facts.name or member.facts.instance_id)
    for (one, other), names in twice.items():
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        raise UserError(
            f"Waves {one + 1} and {other + 1} overlap: {', '.join(names[:_NAMED])}{more} would go in both. "
            "Make one of them narrower."
        )
    return found


def _condition(rule: Rule, number: int) -> Any:
    value = rule.value.strip()
    if rule.by == "list":
        return _expression(rule, number).matches
    if rule.by == "zone":
        return (lambda facts: facts.zone == value) if value else (lambda facts: True)
    key, sign, wanted = (part.strip() for part in value.partition("="))
    return lambda facts: key in facts.tags and (not sign or facts.tags[key] == wanted)


def _by_value(rule: Rule, number: int, members: Iterable[Member]) -> list[_Wave]:
    """A wave for each value of the tag or zone; one if the rule names the value."""
    waves: dict[str, _Wave] = {}
    key, sign, wanted = (part.strip() for part in rule.value.partition("="))
    for member in members:
        value = member.facts.zone if rule.by == "zone" else wanted if sign else member.facts.tags[key]
        if rule.by == "zone":
            name = f"Zone {value}" if value else "No zone"
        else:
            name = f"{key}={value}"
        if rule.name:
            name = rule.name if sign or (rule.by == "zone" and rule.value) else f"{rule.name} {value}".strip()
        waves.setdefault(value, _Wave(number, name[:64])).members.append(member)
    return [waves[value] for value in sorted(waves)]


def _expression(rule: Rule, number: int) -> Expression:
    try:
        return parse(rule.value, words=True)
    except ExpressionError as error:
        raise UserError(f"Wave {number}: {error}") from None


# --- a few that differ -----------------------------------------------------------------------------------------------


def _canary(members: Sequence[Member], left: Sequence[int], count: int) -> list[int]:
    """The first of `left` that differ from those before them in cluster, then in zone and platform."""
    chosen: list[int] = []
    clusters: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    # Of ten thousand the first few hundred differ as much as all do.
    open_ = list(left[: max(500, 4 * count)])
    while open_ and len(chosen) < count:
        best = min(
            range(len(open_)),
            key=lambda at: (
                sum(clusters[each] for each in members[open_[at]].clusters),
                kinds[_kind(members[open_[at]])],
                at,
            ),
        )
        index = open_.pop(best)
        chosen.append(index)
        clusters.update(members[index].clusters)
        kinds[_kind(members[index])] += 1
    return chosen


def _kind(member: Member) -> tuple[str, str]:
    return member.facts.zone, member.facts.platform


# --- shares ----------------------------------------------------------------------------------------------------------


def _rooms(rules: Sequence[Rule], pool: Sequence[int], *, total: int, left: int) -> list[_Wave]:
    """The waves that share what is left, with how many each takes; together all of it."""
    waves, percent = [], 0
    for number in pool:
        rule = rules[number]
        if rule.by == "percent":
            before, percent = percent, percent + _number(rule, number + 1)
            size = max(1, total * percent // 100 - total * before // 100)
            name = f"{rule.value.strip().rstrip('%')} %"
        elif rule.by == "count":
            size = _number(rule, number + 1)
            name = f"{size} targets" if size > 1 else "One"
        else:
            size, name = left, "Rest"
        size = min(size, left)
        left -= size
        waves.append(_Wave(number, rule.name or name, room=size))
    if left:
        waves.append(_Wave(len(rules), "Rest" if rules else "All", room=left))
    return waves


def _spread(members: Sequence[Member], waves: Sequence[_Wave]) -> None:
    """Put each of `members` into one of `waves`: where the fewest of its clusters are, then where most room is left.

    The largest clusters choose first, while there is room everywhere.
    """
    sizes = Counter(cluster for member in members for cluster in member.clusters)
    there: list[Counter[str]] = [Counter() for _ in waves]
    rooms = [wave.room for wave in waves]
    alone: list[Member] = []
    together: list[Member] = []
    for member in members:
        (together if any(sizes[each] > 1 for each in member.clusters) else alone).append(member)
    together.sort(key=lambda member: (-max(sizes[each] for each in member.clusters), member.clusters))
    for member in together:
        open_ = [at for at, room in enumerate(rooms) if room]
        best = min(
            open_,
            key=lambda at: (
                sum(there[at][each] for each in member.clusters),
                len(waves[at].members) / waves[at].room,
                at,
            ),
        )
        waves[best].members.append(member)
        rooms[best] -= 1
        there[best].update(member.clusters)
    at = 0
    for member in alone:
        while not rooms[at]:
            at += 1
        waves[at].members.append(member)
        rooms[at] -= 1


# --- order -----------------------------------------------------------------------------------------------------------


def _in_order(members: Sequence[Member], seed: str) -> tuple[Hashable, ...]:
    """The first of each cluster, then the second of each: what may not be out together stands apart."""
    ranks: Counter[str] = Counter()
    placed = []
    for member in sorted(members, key=lambda member: _mixed(seed, member.key)):
        rank = max((ranks[each] for each in member.clusters), default=0)
        ranks.update(member.clusters)
        placed.append((rank, member.key))
    placed.sort(key=lambda pair: pair[0])  # stable
    return tuple(key for _, key in placed)


def _mixed(seed: str, key: Hashable) -> bytes:
    """An order that looks like none, and is the same each time."""
    return hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()


def _number(rule: Rule, number: int) -> int:
    text = rule.value.strip().removesuffix("%").strip() if rule.by == "percent" else rule.value.strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= (100 if rule.by == "percent" else 20_000):
        most = "1 to 100" if rule.by == "percent" else "1 or more"
        raise UserError(f"Wave {number} goes by {rule.by}: give it a number, {most}.")
    return int(text)


def _shown(rule: Rule) -> str:
    what: Mapping[str, str] = {
        "canary": "the canary",
        "percent": f"the wave of {rule.value} %",
        "count": f"the wave of {rule.value}",
        "tag": f"the wave by tag {rule.value}",
        "zone": f"the wave by zone {rule.value}".strip(),
        "list": f"the list “{rule.value[:60]}”",
        "rest": "the rest",
    }
    return f"“{rule.name}”, {what[rule.by]}," if rule.name else what[rule.by]
