"""The filter of the fleet: a target expression as typed, as chips, and as a query. Every form lives in the URL."""

from collections.abc import Sequence
from dataclasses import dataclass

from fleetops.targets import (
    Comparison,
    Expression,
    ExpressionError,
    Node,
    Not,
    Or,
    TargetFacts,
    Word,
    all_of,
    comparison,
    side_by_side,
)
from fleetops.targets import parse as parse_expression

from .models import InstanceQuerySet
from .readiness import Status
from .selection import select


@dataclass(frozen=True, slots=True)
class Chip:
    """One condition of a filter, as a person reads it."""

    condition: Node
    label: str  # "env is"; empty where the condition speaks for itself
    shown: str

    @property
    def text(self) -> str:
        """How it is typed."""
        return str(self.condition)


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """What somebody typed: the expression in it, or why there is none."""

    expression: Expression | None = None
    typed: str = ""
    error: ExpressionError | None = None

    def __bool__(self) -> bool:
        return self.expression is not None

    @property
    def text(self) -> str:
        """As it stands in the URL."""
        return "" if self.expression is None else str(self.expression)

    @property
    def problems(self) -> tuple[str, ...]:
        return () if self.error is None else (str(self.error),)

    @property
    def conditions(self) -> tuple[Node, ...]:
        return () if self.expression is None else self.expression.conditions

    @property
    def chips(self) -> list[Chip]:
        return [_chip(condition) for condition in self.conditions]

    @property
    def statuses(self) -> frozenset[Status]:
        """The statuses that it lets through."""
        asked = [condition for condition in self.conditions if _is_status(condition)]
        return frozenset(
            status
            for status in Status
            if all(condition.matches(TargetFacts("", status=status.value)) for condition in asked)
        )

    @property
    def status(self) -> str:
        """The one value of status that it asks for, if it is one."""
        asked = [condition for condition in self.conditions if _is_status(condition)]
        return str(asked[0]).removeprefix("status=") if len(asked) == 1 and isinstance(asked[0], Comparison) else ""

    @property
    def has_status(self) -> bool:
        return any(_is_status(condition) for condition in self.conditions)

    def without_status(self) -> "FleetQuery":
        return _query([condition for condition in self.conditions if not _is_status(condition)])

    def without(self, unwanted: Node) -> "FleetQuery":
        return _query([condition for condition in self.conditions if condition != unwanted])

    def with_status(self, value: str) -> "FleetQuery":
        return _query([*self.without_status().conditions, comparison("status", value).root])

    def beside(self, other: "FleetQuery") -> "FleetQuery":
        """Both, as if typed side by side."""
        both = [each.expression for each in (self, other) if each.expression is not None]
        return FleetQuery(side_by_side(*both)) if both else FleetQuery()

    def apply(self, instances: InstanceQuerySet) -> InstanceQuerySet:
        """Those of `instances` that match, to be sorted by their statuses too."""
        instances = instances.with_status()
        return instances if self.expression is None else select(self.expression, instances)


def parse(text: str) -> FleetQuery:
    """Read a filter; never fails: of what cannot be read `error` tells why, and it filters nothing."""
    if not text.strip():
        return FleetQuery()
    try:
        return FleetQuery(parse_expression(text, words=True), text)
    except ExpressionError as error:
        return FleetQuery(None, text, error)


def search(text: str) -> FleetQuery:
    """As `parse`, and what is no expression is looked for as a word."""
    query = parse(text)
    if query.error is None:
        return query
    quoted = "".join(f"\\{char}" if char in '\\"*' else char for char in text if char.isprintable())
    return parse(f'"{quoted}"')


def _query(conditions: Sequence[Node]) -> FleetQuery:
    return FleetQuery(all_of(*map(Expression, conditions))) if conditions else FleetQuery()


def _is_status(condition: Node) -> bool:
    return Expression(condition).keys() == {"status"}


# (is exactly, has in it, begins with, is like), and the same denied.
_VERBS = {False: ("is", "has", "begins with", "is like"), True: ("is not", "has no", "begins not with", "is not like")}


def _chip(condition: Node) -> Chip:
    denied = isinstance(condition, Not)
    inner = condition.part if isinstance(condition, Not) else condition
    if isinstance(inner, Word):
        return Chip(condition, "not" if denied else "", str(inner.pattern))
    compared = inner.parts if isinstance(inner, Or) else (inner,)
    facts = {part.name for part in compared if isinstance(part, Comparison)}
    if len(facts) != 1 or not all(isinstance(part, Comparison) for part in compared):
        return Chip(condition, "", str(condition))
    (name,) = facts
    patterns = [pattern for part in compared for pattern in part.patterns]
    if any(pattern.is_anything for pattern in patterns):
        is_tag = compared[0].key == "tag"
        label = ("has no tag" if denied else "has tag") if is_tag else f"{name} is{' not' if denied else ''}"
        return Chip(condition, label, name if is_tag else "anything")
    shapes = {
        "is" if each.is_exact else (bool(each.parts[0]), len(each.parts), bool(each.parts[-1])) for each in patterns
    }
    exact, has, begins, like = _VERBS[denied]
    if shapes == {"is"}:
        verb, texts = exact, [each.parts[0] or "empty" for each in patterns]
    elif shapes == {(False, 3, False)}:
        verb, texts = has, [each.parts[1] for each in patterns]
    elif shapes == {(True, 2, False)}:
        verb, texts = begins, [each.parts[0] for each in patterns]
    else:
        verb, texts = like, [str(each) for each in patterns]
    shown = " or ".join(texts)
    return Chip(condition, f"{name} {verb}", shown.replace("-", " ") if name == "status" else shown)
