"""The form that a document's parameters make, and what it has sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetops.documents.parameters import Parameter
from fleetops.errors import UserError


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter as an input. `control`: text, area, choice."""

    parameter: Parameter
    name: str  # of the input
    control: str
    value: str
    choices: tuple[str, ...]
    hint: str
    rows: int = 3


def fields(parameters: Mapping[str, Parameter], shown: Mapping[str, str]) -> list[Field]:
    """The inputs of a document's form, with what was sent or the defaults."""
    return [_field(parameter, shown.get(name)) for name, parameter in parameters.items()]


def _field(parameter: Parameter, shown: str | None) -> Field:
    choices: tuple[str, ...] = tuple(map(_text, parameter.allowed_values))
    if parameter.type == "Boolean" and not choices:
        choices = ("true", "false")
    hints = [parameter.description]
    control = "text"
    if parameter.type in {"StringList", "MapList", "StringMap"} or parameter.display_type == "textarea":
        control = "area"
        hints += {
            "StringList": ["One a line."],
            "MapList": ["A JSON list of objects."],
            "StringMap": ["A JSON object."],
        }.get(parameter.type, [])
    elif choices:
        control = "choice"
    if parameter.allowed_pattern and control != "choice":
        hints.append(f"Must match {parameter.allowed_pattern}")
    value = _default(parameter) if shown is None else shown
    is_script = parameter.name.lower() in {"commands", "script", "runcommand"}
    return Field(
        parameter, f"p_{parameter.name}", control, value, choices, " ".join(filter(None, hints)), 10 if is_script else 3
    )


def _default(parameter: Parameter) -> str:
    if parameter.is_required:
        return ""
    if parameter.type == "StringList":
        return "\n".join(parameter.default)
    if parameter.type in {"MapList", "StringMap"}:
        return json.dumps(parameter.default, indent=2) if parameter.default else ""
    return _text(parameter.default)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def given_in(posted: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> dict[str, list[str]]:
    """The parameters that a form has sent, as SendCommand takes them; what is empty is left to its default.

    Raises UserError for a list of objects that is none.
    """
    found: dict[str, list[str]] = {}
    for name, parameter in parameters.items():
        text = str(posted.get(f"p_{name}", "")).replace("\r\n", "\n")
        if not text.strip():
            continue
        if parameter.type == "StringList":
            found[name] = text.rstrip("\n").split("\n")
        elif parameter.type == "MapList":
            try:
                items = json.loads(text)
            except (ValueError, RecursionError):
                items = None
            if not isinstance(items, list):
                raise UserError(f"{name} is no JSON list.")
            found[name] = [json.dumps(item) for item in items]
        else:
            found[name] = [text]
    return found
