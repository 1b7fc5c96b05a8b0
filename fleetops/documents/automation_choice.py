"""The conditions of a runbook: aws:branch's choices and aws:loop's condition.

Source: Systems Manager user guide, "Using conditional statements in runbooks".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .automation_values import as_text
from .errors import InvalidDocument


class NotComparable(Exception):
    """A condition whose two sides are not of its kind; the text says which."""


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise NotComparable("a Boolean is no number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise NotComparable(f"{as_text(value)[:100]} is no number") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = as_text(value).lower()
    if text not in {"true", "false"}:
        raise NotComparable(f"{as_text(value)[:100]} is neither true nor false")
    return text == "true"


OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "StringEquals": lambda held, wanted: as_text(held) == as_text(wanted),
    "EqualsIgnoreCase": lambda held, wanted: as_text(held).lower() == as_text(wanted).lower(),
    "StartsWith": lambda held, wanted: as_text(held).startswith(as_text(wanted)),
    "EndsWith": lambda held, wanted: as_text(held).endswith(as_text(wanted)),
    "Contains": lambda held, wanted: as_text(wanted) in (held if isinstance(held, list) else as_text(held)),
    "NumericEquals": lambda held, wanted: _number(held) == _number(wanted),
    "NumericGreater": lambda held, wanted: _number(held) > _number(wanted),
    "NumericLesser": lambda held, wanted: _number(held) < _number(wanted),
    "NumericGreaterOrEquals": lambda held, wanted: _number(held) >= _number(wanted),
    "NumericLesserOrEquals": lambda held, wanted: _number(held) <= _number(wanted),
    "BooleanEquals": lambda held, wanted: _boolean(held) == _boolean(wanted),
}
_DEEPEST: Final = 10


def check(condition: Any, path: str, *, beside: frozenset[str] = frozenset(), depth: int = 0) -> None:
    """Return if this is a condition; `beside`: keys that may stand in it besides. Raises InvalidDocument."""
    if not isinstance(condition, Mapping):
        raise InvalidDocument("is not an object", path)
    if depth > _DEEPEST:
        raise InvalidDocument(f"is deeper than {_DEEPEST}", path)
    keys = set(map(str, condition)) - beside
    if joined := sorted(keys & {"And", "Or", "Not"}):
        name = joined[0]
        if len(keys) > 1:
            raise InvalidDocument(f"{name} stands by itself, not with {', '.join(sorted(keys - {name}))}", path)
        inner = condition[name]
        parts = inner if isinstance(inner, list) else [inner] if name == "Not" else []
        if not parts:
            raise InvalidDocument(f"{name} takes a list of conditions", path)
        for number, part in enumerate(parts):
            check(part, f"{path}.{name}[{number}]", depth=depth + 1)
        return
    if unknown := sorted(keys - OPERATORS.keys() - {"Variable"}):
        raise InvalidDocument(f"is no operator; there are {', '.join(OPERATORS)}", f"{path}.{unknown[0]}")
    if "Variable" not in condition:
        raise InvalidDocument("has no Variable", path)
    if len(keys) != 2:
        raise InvalidDocument("takes exactly one operator", path)


def holds(condition: Mapping[str, Any]) -> bool:
    """Whether a condition, its references already replaced, is true. Raises NotComparable."""
    if "And" in condition:
        return all(holds(part) for part in condition["And"])
    if "Or" in condition:
        return any(holds(part) for part in condition["Or"])
    if "Not" in condition:
        inner = condition["Not"]
        return not all(holds(part) for part in (inner if isinstance(inner, list) else [inner]))
    name = next(key for key in condition if key in OPERATORS)
    return OPERATORS[name](condition["Variable"], condition[name])
