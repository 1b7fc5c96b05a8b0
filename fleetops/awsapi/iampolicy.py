"""Whether IAM policies allow a request: identity, session, boundary, trust and resource policies.

`evaluate` answers as AWS does: an explicit deny wins, wherever it stands; else every layer that is there must allow,
and a resource's own policy may allow instead of the identity's, or must allow too where the resource is another's.
Source: the IAM user guide, "Policy evaluation logic", "Cross-account policy evaluation logic", "IAM JSON policy
elements" and "IAM policy elements: variables and tags". Not here: service and resource control policies.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fleetops.awsapi import globs

Policy = Mapping[str, Any]
Values = Mapping[str, Sequence[str]]

ALLOWED, EXPLICIT_DENY, IMPLICIT_DENY = "allowed", "explicitDeny", "implicitDeny"
_SERVICE_SUFFIX = ".amazonaws.com"
_WITH_VARIABLES = "2012-10-17"  # a policy of the older version takes ${...} as it stands
_AS_IT_STANDS = "\0"  # before a wildcard that came out of a variable, and is none


@dataclass(frozen=True, slots=True)
class Question:
    """One thing somebody asks to do. `context` has lower-case keys, each with its values."""

    action: str
    resource: str
    context: Values = field(default_factory=dict)
    also: tuple[str, ...] = ()  # other names that policies may give the resource


@dataclass(frozen=True, slots=True)
class Layers:
    """The policies that bear on a principal; None for a layer that is not there."""

    identity: Sequence[Policy]
    boundary: Policy | None = None
    session: Sequence[Policy] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal as policies that have a Principal element name it."""

    arn: str  # of the user, or of the role's session
    account_id: str = ""
    role_arn: str = ""
    service: str = ""  # "ssm.amazonaws.com", where a service calls; the rest is empty then


@dataclass(frozen=True, slots=True)
class Owned:
    """The policy that a resource itself has."""

    policy: Policy
    caller: Caller
    is_same_account: bool
    is_master: bool = False  # a KMS key's: without its word the account's own policies count for nothing


@dataclass(frozen=True, slots=True)
class Hit:
    """A statement that bears on a question."""

    layer: str  # "identity", "boundary", "session" or "resource"
    policy: int  # its number within the layer, from 0
    statement: int
    effect: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and what it follows from."""

    decision: str
    hits: tuple[Hit, ...]
    boundary_allows: bool | None  # None without a boundary


def decide(layers: Layers, question: Question, owned: Owned | None = None) -> str:
    """ "allowed", "explicitDeny" or "implicitDeny"."""
    return evaluate(layers, question, owned).decision


def evaluate(layers: Layers, question: Question, owned: Owned | None = None) -> Verdict:
    """The decision, with the statements that bear on it."""
    hits = list(_hits("identity", layers.identity, question))
    if layers.boundary is not None:
        hits += _hits("boundary", [layers.boundary], question)
    if layers.session is not None:
        hits += _hits("session", layers.session, question)
    granted = ""
    if owned is not None:
        found = list(_granting(owned.policy, owned.caller, question))
        hits += [Hit("resource", 0, number, effect) for number, effect, _ in found]
        granted = _strongest(way for _, effect, way in found if effect == "Allow")
    says = {layer: {hit.effect for hit in hits if hit.layer == layer} for layer in {hit.layer for hit in hits}}

    def allows(layer: str) -> bool:
        return "Allow" in says.get(layer, ())

    bounded = layers.boundary is None or allows("boundary")
    limits = bounded and (layers.session is None or allows("session"))
    own = allows("identity") and limits
    if any("Deny" in effects for effects in says.values()):
        decision = EXPLICIT_DENY
    elif _combined(owned, granted, own, limits):
        decision = ALLOWED
    else:
        decision = IMPLICIT_DENY
    return Verdict(decision, tuple(hits), None if layers.boundary is None else bounded)


def _combined(owned: Owned | None, granted: str, own: bool, limits: bool) -> bool:
    """Whether the caller's policies (`own`) and what the resource grants come to an Allow."""
    if owned is None:
        return own
    if not owned.is_same_account:
        return own and bool(granted)
    by_resource = granted == "direct" or (granted == "limited" and limits)
    if owned.is_master:
        return by_resource or (granted == "delegated" and own)
    return by_resource or own


def grant(policy: Policy, caller: Caller, action: str, context: Values) -> str:
    """What a role's trust policy grants `caller`: "denied", "direct", "limited", "delegated", or "" for nothing.

    "direct": it names the user or the session; "limited": it names the role behind the session, or everybody;
    "delegated": it names the account, whose own policies then decide.
    """
    found = list(_granting(policy, caller, Question(action, "*", context), is_trust=True))
    if any(effect == "Deny" for _, effect, _ in found):
        return "denied"
    return _strongest(way for _, effect, way in found if effect == "Allow")


def trusts(policy: Policy, service: str, action: str, context: Values | None = None) -> bool:
    """Whether a role's trust policy, or the policy of what a service calls, lets the service do `action`."""
    return grant(policy, Caller("", service=service), action, context or {}) in {"direct", "limited"}


@lru_cache(maxsize=4096)
def parse(text: str) -> Policy:
    """Read a policy's JSON; one that cannot be read allows nothing and denies nothing."""
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return policy if isinstance(policy, dict) else {}


def statements(policy: Policy) -> list[Mapping[str, Any]]:
    """A policy's statements, whatever else it holds."""
    return [statement for statement in _list(policy.get("Statement", [])) if isinstance(statement, dict)]


def context_keys(policies: Iterable[Policy]) -> list[str]:
    """The condition keys that policies ask for, in their conditions or as variables; by name."""
    return _named_keys((policy, statement) for policy in policies for statement in statements(policy))


def missing_keys(policies: Iterable[Policy], question: Question) -> list[str]:
    """The keys that the statements about a question's action and resource ask for, and its context does not have."""
    bearing = [
        (policy, statement)
        for policy in policies
        for statement in statements(policy)
        if _matches_action(statement, question.action)
        and (_matches_resource(statement, question, False) or _names_a_variable(policy, statement))
    ]
    return [key for key in _named_keys(bearing) if key.lower() not in question.context]


def _named_keys(pairs: Iterable[tuple[Policy, Mapping[str, Any]]]) -> list[str]:
    found: dict[str, str] = {}
    for policy, statement in pairs:
        conditions = statement.get("Condition", {})
        for block in conditions.values() if isinstance(conditions, dict) else ():
            for key in block if isinstance(block, dict) else ():
                found.setdefault(str(key).lower(), str(key))
        if policy.get("Version") == _WITH_VARIABLES:
            for match in _VARIABLE.finditer(json.dumps([statement.get(name) for name in _HOLDS_VARIABLES])):
                name = match[1].partition(",")[0].strip()
                if name not in _WILD:
                    found.setdefault(name.lower(), name)
    return sorted(found.values())


def _names_a_variable(policy: Policy, statement: Mapping[str, Any]) -> bool:
    return policy.get("Version") == _WITH_VARIABLES and "${" in json.dumps(statement.get("Resource"))


# --- Statements -----------------------------------------------------------------------------------------------------


def _hits(layer: str, policies: Iterable[Policy], question: Question) -> Iterator[Hit]:
    for number, policy in enumerate(policies):
        with_variables = policy.get("Version") == _WITH_VARIABLES
        for position, statement in enumerate(statements(policy)):
            if (
                _matches_action(statement, question.action)
                and _matches_resource(statement, question, with_variables)
                and _matches_condition(statement, question, with_variables)
            ):
                yield Hit(layer, number, position, str(statement.get("Effect")))


def _granting(
    policy: Policy, caller: Caller, question: Question, *, is_trust: bool = False
) -> Iterator[tuple[int, str, str]]:
    """The statements of a policy with principals that bear on a question: number, effect, and the way of naming."""
    with_variables = policy.get("Version") == _WITH_VARIABLES
    for position, statement in enumerate(statements(policy)):
        effect = str(statement.get("Effect"))
        way = _way(statement, caller, is_deny=effect == "Deny")
        if (
            way
            and _matches_action(statement, question.action)
            and (is_trust or _matches_resource(statement, question, with_variables))
            and _matches_condition(statement, question, with_variables)
        ):
            yield position, effect, way


_WAYS = ("direct", "limited", "delegated")


def _strongest(ways: Iterable[str]) -> str:
    held = set(ways)
    return next((way for way in _WAYS if way in held), "")


def _way(statement: Mapping[str, Any], caller: Caller, *, is_deny: bool) -> str:
    """How a statement's Principal or NotPrincipal means the caller; "" if it does not."""
    if "NotPrincipal" in statement:
        # For an Allow that means everybody else: no further than a wildcard would.
        return "" if _named(statement["NotPrincipal"], caller) else "limited"
    way = _named(statement.get("Principal", {}), caller)
    return "direct" if way and is_deny else way


def _named(principal: Any, caller: Caller) -> str:
    if principal == "*":
        return "limited"
    if not isinstance(principal, dict):
        return ""
    ways = set()
    for kind, items in principal.items():
        for item in map(str, _list(items)):
            if kind == "Service" and caller.service:
                ways |= {"direct"} if item == caller.service else set()
            elif kind == "AWS" and not caller.service:
                if item == caller.arn:
                    ways.add("direct")
                elif item in {"*", caller.role_arn}:
                    ways.add("limited")
                elif item in {caller.account_id, f"arn:aws:iam::{caller.account_id}:root"}:
                    ways.add("delegated")
    return _strongest(ways)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@lru_cache(maxsize=8192)
def _glob(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    wild = {"*": None, "?": "."}
    parts = [
        wild[part] if part in wild else re.escape(part[-1]) for part in re.findall(r"\0[*?]|.", pattern, re.DOTALL)
    ]
    return globs.compile_parts(parts, ignore_case=ignore_case)


def _like(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    return _glob(pattern, ignore_case).fullmatch(value) is not None


def _matches_action(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(str(item), action, ignore_case=True) for item in _list(statement["NotAction"]))
    return any(_like(str(item), action, ignore_case=True) for item in _list(statement.get("Action", [])))


def _matches_resource(statement: Mapping[str, Any], question: Question, with_variables: bool) -> bool:
    if "NotResource" in statement:
        return not any(_resource(str(item), question, with_variables) for item in _list(statement["NotResource"]))
    return any(_resource(str(item), question, with_variables) for item in _list(statement.get("Resource", [])))


def _resource(pattern: str, question: Question, with_variables: bool) -> bool:
    if pattern == "*":
        return True
    filled = _fill(pattern, question.context, as_pattern=True) if with_variables else pattern
    return filled is not None and any(_like(filled, name) for name in (question.resource, *question.also))


_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_WILD: Collection[str] = frozenset({"*", "?", "$"})
_HOLDS_VARIABLES = ("Resource", "NotResource", "Condition")


def _fill(text: str, context: Values, *, as_pattern: bool) -> str | None:
    """Put the context's values in the place of ${...}; None if one is missing, for then nothing can match.

    `as_pattern`: a wildcard within a value stands for itself, so that nobody widens a policy by what they are called.
    """
    if "${" not in text:
        return text
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, _, default = match[1].partition(",")
        name = name.strip()
        held = context.get(name.lower())
        if name in _WILD:
            found = name
        elif held:
            found = held[0]
        elif default:
            found = default.strip().strip("'")
        else:
            missing = True
            return ""
        return re.sub(r"([*?])", _AS_IT_STANDS + r"\1", found) if as_pattern else found

    filled = _VARIABLE.sub(value, text)
    return None if missing else filled


# --- Conditions -----------------------------------------------------------------------------------------------------


def _matches_condition(statement: Mapping[str, Any], question: Question, with_variables: bool) -> bool:
    conditions = statement.get("Condition", {})
    if not isinstance(conditions, dict):
        return False
    return all(
        _test(
            str(operator),
            str(key),
            [str(item) if not isinstance(item, bool) else str(item).lower() for item in _list(wanted)],
            question.context,
            with_variables,
        )
        for operator, block in conditions.items()
        for key, wanted in (block.items() if isinstance(block, dict) else ())
    )


def _test(operator: str, key: str, wanted: list[str], context: Values, with_variables: bool) -> bool:
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
    if with_variables:
        as_pattern = compare in {_string_like, _arn_like}
        wanted = [text for item in wanted if (text := _fill(item, context, as_pattern=as_pattern)) is not None]

    def matches(value: str) -> bool:
        found = any(_safely(compare, pattern, value) for pattern in wanted)
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


def _string_like(pattern: str, value: str) -> bool:
    return _like(pattern, value)


def _arn_like(pattern: str, value: str) -> bool:
    wanted, held = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(held) and all(_like(a, b) for a, b in zip(wanted, held, strict=True))


_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "stringequals": lambda wanted, value: wanted == value,
    "stringequalsignorecase": lambda wanted, value: wanted.lower() == value.lower(),
    "stringlike": _string_like,
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
