"""Whether IAM policies allow a request: identity, session, boundary and trust policies.

`decide` answers as AWS does: an explicit deny wins; else every layer that is there must allow. Source: the IAM user
guide, "Policy evaluation logic" and "IAM JSON policy elements". Not here: resource policies, SCPs.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fleetops.awsapi import globs

Policy = Mapping[str, Any]
Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing somebody asks to do. `context` has lower-case keys, each with its values."""

    action: str
    resource: str
    context: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layers:
    """The policies that bear on a principal; None for a layer that is not there."""

    identity: Sequence[Policy]
    boundary: Policy | None = None
    session: Sequence[Policy] | None = None


def decide(layers: Layers, question: Question) -> str:
    """ "allowed", "explicitDeny" or "implicitDeny"."""
    groups = [layers.identity]
    if layers.boundary is not None:
        groups.append([layers.boundary])
    if layers.session is not None:
        groups.append(layers.session)
    effects = [_effects(group, question) for group in groups]
    if any("Deny" in found for found in effects):
        return "explicitDeny"
    return "allowed" if all("Allow" in found for found in effects) else "implicitDeny"


def trusts(policy: Policy, principals: Iterable[str], action: str, context: Values) -> bool:
    """Whether a role's trust policy lets one of `principals` do `action`.

    `principals`: the caller's names as a trust policy may write them: its ARNs, its account's root ARN and number, or
    a service's name.
    """
    names = set(principals)
    question = Question(action, "*", context)
    found = set()
    for statement in _statements(policy):
        if not _matches_action(statement, action) or not _matches_condition(statement, question):
            continue
        if "NotPrincipal" in statement:
            matched = not _matches_principal(statement["NotPrincipal"], names)
        else:
            matched = _matches_principal(statement.get("Principal", {}), names)
        if matched:
            found.add(statement.get("Effect"))
    return "Allow" in found and "Deny" not in found


@lru_cache(maxsize=4096)
def parse(text: str) -> Policy:
    """Read a policy's JSON; one that cannot be read allows nothing and denies nothing."""
    try:
        policy = json.loads(text)
    except ValueError:
        return {}
    return policy if isinstance(policy, dict) else {}


def _effects(policies: Iterable[Policy], question: Question) -> set[str]:
    return {
        str(statement.get("Effect"))
        for policy in policies
        for statement in _statements(policy)
        if _matches_action(statement, question.action)
        and _matches_resource(statement, question)
        and _matches_condition(statement, question)
    }


def _statements(policy: Policy) -> list[Mapping[str, Any]]:
    return [statement for statement in _list(policy.get("Statement", [])) if isinstance(statement, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@lru_cache(maxsize=8192)
def _glob(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    wild = {"*": None, "?": "."}
    parts = [wild[character] if character in wild else re.escape(character) for character in pattern]
    return globs.compile_parts(parts, ignore_case=ignore_case)


def _like(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    return _glob(pattern, ignore_case).fullmatch(value) is not None


def _matches_action(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(str(item), action, ignore_case=True) for item in _list(statement["NotAction"]))
    return any(_like(str(item), action, ignore_case=True) for item in _list(statement.get("Action", [])))


def _matches_resource(statement: Mapping[str, Any], question: Question) -> bool:
    if "NotResource" in statement:
        return not any(_resource(str(item), question) for item in _list(statement["NotResource"]))
    return any(_resource(str(item), question) for item in _list(statement.get("Resource", [])))


def _resource(pattern: str, question: Question) -> bool:
    if pattern == "*":
        return True
    filled = _fill(pattern, question.context)
    return filled is not None and _like(filled, question.resource)


def _matches_principal(principal: Any, names: set[str]) -> bool:
    if principal == "*":
        return True
    if not isinstance(principal, dict):
        return False
    return any(str(item) == "*" or str(item) in names for items in principal.values() for item in _list(items))


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def _fill(text: str, context: Values) -> str | None:
    """Put the context's values in the place of ${...}; None if one is missing, for then nothing can match."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, _, default = match[1].partition(",")
        name = name.strip()
        if name in {"*", "?", "$"}:
            return name
        held = context.get(name.lower())
        if held:
            return held[0]
        if default:
            return default.strip().strip("'")
        missing = True
        return ""

    filled = _VARIABLE.sub(value, text)
    return None if missing else filled


# --- Conditions -----------------------------------------------------------------------------------------------------


def _matches_condition(statement: Mapping[str, Any], question: Question) -> bool:
    conditions = statement.get("Condition", {})
    if not isinstance(conditions, dict):
        return False
    return all(
        _test(
            str(operator),
            str(key),
            [str(item) if not isinstance(item, bool) else str(item).lower() for item in _list(wanted)],
            question.context,
        )
        for operator, block in conditions.items()
        for key, wanted in (block.items() if isinstance(block, dict) else ())
    )


def _test(operator: str, key: str, wanted: list[str], context: Values) -> bool:
    held = context.get(key.lower())
    quantifier, _, rest = operator.rpartition(":")
    name = rest.lower()
    if name == "null":
        return bool(wanted) and (not held) is (wanted[0].lower() == "true")
    if_exists = name.endswith("ifexists")
    name = name.removesuffix("ifexists")
    if not held:
        if if_exists or quantifier.lower() == "forallvalues":
            return True
        # A negated comparison with a key that is not there is true, as the guide says.
        return name in _NEGATED and not quantifier
    negated = name in _NEGATED
    compare = _COMPARISONS.get(_NEGATED.get(name, name))
    if compare is None:
        return False
    filled = [text for item in wanted if (text := _fill(item, context)) is not None]

    def matches(value: str) -> bool:
        found = any(_safely(compare, pattern, value) for pattern in filled)
        return not found if negated else found

    if quantifier.lower() == "forallvalues" or (negated and not quantifier):
        return all(matches(value) for value in held)
    return any(matches(value) for value in held)


def _safely(compare: Callable[[str, str], bool], wanted: str, value: str) -> bool:
    try:
        return compare(wanted, value)
    except (ValueError, TypeError):
        return False


def _moment(text: str) -> datetime:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _arn_like(pattern: str, value: str) -> bool:
    wanted, held = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(held) and all(_like(a, b) for a, b in zip(wanted, held, strict=True))


_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "stringequals": lambda wanted, value: wanted == value,
    "stringequalsignorecase": lambda wanted, value: wanted.lower() == value.lower(),
    "stringlike": lambda wanted, value: _like(wanted, value),
    "arnequals": _arn_like,
    "arnlike": _arn_like,
    "bool": lambda wanted, value: wanted.lower() == value.lower(),
    "binaryequals": lambda wanted, value: wanted == value,
    "numericequals": lambda wanted, value: float(value) == float(wanted),
    "numericlessthan": lambda wanted, value: float(value) < float(wanted),
    "numericlessthanequals": lambda wanted, value: float(value) <= float(wanted),
    "numericgreaterthan": lambda wanted, value: float(value) > float(wanted),
    "numericgreaterthanequals": lambda wanted, value: float(value) >= float(wanted),
    "dateequals": lambda wanted, value: _moment(value) == _moment(wanted),
    "datelessthan": lambda wanted, value: _moment(value) < _moment(wanted),
    "datelessthanequals": lambda wanted, value: _moment(value) <= _moment(wanted),
    "dategreaterthan": lambda wanted, value: _moment(value) > _moment(wanted),
    "dategreaterthanequals": lambda wanted, value: _moment(value) >= _moment(wanted),
    "ipaddress": lambda wanted, value: ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False),
}
_NEGATED: Mapping[str, str] = {
    "stringnotequals": "stringequals",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "stringnotlike": "stringlike",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
    "notipaddress": "ipaddress",
}
