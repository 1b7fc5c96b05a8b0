"""Parameters of a document: what it declares, whether given ones fit, and how they replace {{ name }}.

Source: Systems Manager user guide, "Data elements and parameters"; amazon-ssm-agent,
agent/framework/docparser/parameters/parameters.go, which is what replaces them on a node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import regex

from .errors import InvalidDocument, InvalidParameters

NAME: Final = re.compile(r"[A-Za-z0-9]+")  # parameters.go, paramNameRegex
REFERENCE: Final = re.compile(r"\{\{\s*([A-Za-z0-9]+)\s*\}\}")
STORE_REFERENCE: Final = re.compile(r"\{\{\s*ssm(?:-secure)?:[^}]*\}\}")
MOST_PARAMETERS: Final = 200  # of one document [SSM, SendCommand: CommandInvocation parameters]

# For one value: a pattern is whoever's who made the document, and some never end. An honest one takes microseconds.
_PATTERN_SECONDS: Final = 0.05

# What Go's regexp, which is the agent's, does not take: the first of these that is found outside an escape or a class.
_FOREIGN: Final = re.compile(
    r"""\\[1-9](?P<back>)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]
    |\(\?(?:<?[=!](?P<look>)|P=(?P<named>)|[(>|&+#R0-9](?P<group>))
    |(?:[*+?]|\{\d+(?:,\d*)?\})\+(?P<possessive>)
    |\{(?P<least>\d+)(?:,(?P<most>\d*))?\}""",
    re.VERBOSE | re.DOTALL,
)
_FOREIGN_WORDS: Final = {
    "back": "a reference back to a group",
    "look": "a look ahead or behind",
    "named": "a reference back to a group",
    "group": "a conditional, atomic or like group",
    "possessive": "a possessive repetition",
}
_MOST_REPEATS: Final = 1000  # of one repetition, in Go's regexp/syntax

_TYPES: Final = frozenset({"String", "StringList", "Boolean", "Integer", "MapList", "StringMap"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One that a document declares. `default` is None where there is none and `is_required`."""

    name: str
    type: str
    description: str = ""
    default: Any = None
    is_required: bool = True
    allowed_values: tuple[Any, ...] = ()
    allowed_pattern: str = ""
    display_type: str = ""
    min_items: int | None = None
    max_items: int | None = None
    min_chars: int | None = None
    max_chars: int | None = None

    @property
    def default_text(self) -> str | None:
        """The default as DescribeDocument gives it."""
        if self.is_required:
            return None
        return self.default if isinstance(self.default, str) else json.dumps(self.default, separators=(",", ":"))


def read_parameters(declared: Any, path: str = "parameters") -> dict[str, Parameter]:
    """The `parameters` of a document. Raises InvalidDocument."""
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise InvalidDocument("is not an object", path)
    if len(declared) > MOST_PARAMETERS:
        raise InvalidDocument(f"declares more than {MOST_PARAMETERS} parameters", path)
    return {name: _named(name, rule, f"{path}.{name}") for name, rule in declared.items()}


def _named(name: str, rule: Any, path: str) -> Parameter:
    if not NAME.fullmatch(name):
        raise InvalidDocument("a parameter's name is letters and digits only", path)
    return read_parameter(name, rule, path)


def read_parameter(name: str, rule: Any, path: str) -> Parameter:
    """One declared parameter; whether its name is one is for the kind of document to say. Raises InvalidDocument."""
    if not isinstance(rule, Mapping):
        raise InvalidDocument("is not an object", path)
    kind = rule.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidDocument(f"type must be one of {', '.join(sorted(_TYPES))}", path)
    pattern = rule.get("allowedPattern", "")
    if not isinstance(pattern, str):
        raise InvalidDocument("allowedPattern is not a string", path)
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise InvalidDocument(f"allowedPattern is not a regular expression: {error}", path) from None
    values = rule.get("allowedValues", [])
    if not isinstance(values, list):
        raise InvalidDocument("allowedValues is not a list", path)
    bounds = {}
    for word, attribute in (
        ("minItems", "min_items"),
        ("maxItems", "max_items"),
        ("minChars", "min_chars"),
        ("maxChars", "max_chars"),
    ):
        bound = rule.get(word)
        if isinstance(bound, str) and bound.isascii() and bound.isdigit():
            bound = int(bound[:9])
        if bound is not None and (not isinstance(bound, int) or isinstance(bound, bool) or bound < 0):
            raise InvalidDocument(f"{word} is not a whole number", path)
        bounds[attribute] = bound
    parameter = Parameter(
        name=name,
        type=str(kind),
        description=str(rule.get("description", "")),
        default=rule.get("default"),
        is_required="default" not in rule,
        allowed_values=tuple(values),
        allowed_pattern=pattern,
        display_type=str(rule.get("displayType", "")),
        **bounds,
    )
    if not parameter.is_required and not _has_type(parameter.default, parameter.type):
        raise InvalidDocument(f"the default is no {parameter.type}", path)
    return parameter


def foreign_to_agents(pattern: str) -> str:
    """What in a pattern that we can read the agent cannot, or "". Repetitions within repetitions are not counted.

    With such a pattern an agent starts no session, and says so in its log alone; a command fails. Sources:
    amazon-ssm-agent, framework/docparser/paramvalidator/allowedregexparamvalidator; golang.org/s/re2syntax.
    """
    for found in _FOREIGN.finditer(pattern):
        for kind, words in _FOREIGN_WORDS.items():
            if found[kind] is not None:
                return words
        if max(int((found[bound] or "0")[:9]) for bound in ("least", "most")) > _MOST_REPEATS:
            return f"a repetition of more than {_MOST_REPEATS} times"
    return ""


def _has_type(value: Any, kind: str) -> bool:
    match kind:
        case "String":
            return isinstance(value, str)
        case "StringList":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "Boolean":
            return isinstance(value, bool) or value in ("true", "false", "True", "False")
        case "Integer":
            return (isinstance(value, int) and not isinstance(value, bool)) or _is_number(value)
        case "StringMap":
            return isinstance(value, Mapping)
        case _:
            return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII) is not None


def check_parameters(declared: Mapping[str, Parameter], given: Mapping[str, list[str]]) -> dict[str, Any]:
    """The parameters as a node takes them: `given` as the API has them, each a list of texts; defaults filled in.

    A String is its text, a StringList the list, a Boolean and an Integer stay texts, a StringMap is an object, a
    MapList a list of objects. Raises InvalidParameters, which names every one that is wrong.
    """
    wrong = [f"{name} is not a parameter of this document" for name in given if name not in declared]
    values: dict[str, Any] = {}
    for name, parameter in declared.items():
        if name not in given:
            if parameter.is_required:
                wrong.append(f"{name} is required")
            else:
                values[name] = parameter.default
            continue
        try:
            values[name] = _value(parameter, given[name])
        except InvalidParameters as error:
            wrong.append(f"{name} {error}")
    if wrong:
        raise InvalidParameters("; ".join(wrong))
    return values


def _value(parameter: Parameter, texts: list[str]) -> Any:
    if parameter.type == "StringList":
        value: Any = list(texts)
        _check_count(parameter, len(texts))
        for text in texts:
            _check_text(parameter, text)
        return value
    if parameter.type == "MapList":
        _check_count(parameter, len(texts))
        return [_json_object(text) for text in texts]
    if len(texts) != 1:
        raise InvalidParameters("takes one value")
    (text,) = texts
    if parameter.type == "StringMap":
        return _json_object(text)
    if not _has_type(text, parameter.type):
        raise InvalidParameters(f"is no {parameter.type}")
    _check_text(parameter, text)
    return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidParameters("is not a JSON object")
    return value


def _check_count(parameter: Parameter, count: int) -> None:
    if parameter.min_items is not None and count < parameter.min_items:
        raise InvalidParameters(f"needs at least {parameter.min_items} items")
    if parameter.max_items is not None and count > parameter.max_items:
        raise InvalidParameters(f"takes at most {parameter.max_items} items")


def _check_text(parameter: Parameter, text: str) -> None:
    if parameter.allowed_values and text not in {_text(value) for value in parameter.allowed_values}:
        allowed = ", ".join(_text(value) for value in parameter.allowed_values)
        raise InvalidParameters(f"must be one of: {allowed}")
    if parameter.min_chars is not None and len(text) < parameter.min_chars:
        raise InvalidParameters(f"needs at least {parameter.min_chars} characters")
    if parameter.max_chars is not None and len(text) > parameter.max_chars:
        raise InvalidParameters(f"takes at most {parameter.max_chars} characters")
    if not parameter.allowed_pattern:
        return
    try:
        # AWS looks for the pattern anywhere in the value: those that mean the whole of it write ^ and $. Meanwhile the
        # other threads go on.
        found = regex.search(parameter.allowed_pattern, text, timeout=_PATTERN_SECONDS, concurrent=True)
    except TimeoutError:
        raise InvalidParameters(f"takes too long to be held against {parameter.allowed_pattern}") from None
    if not found:
        raise InvalidParameters(f"must match {parameter.allowed_pattern}")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def substitute(value: Any, parameters: Mapping[str, Any]) -> Any:
    """`value` with each {{ name }} of a known parameter replaced, in lists and objects too.

    A text that is one reference and nothing else becomes the parameter itself, of whatever type; within a longer text
    a list or an object is written as JSON. What is put in is not looked through again. "$$" in a value becomes "$"
    within a longer text, as the agent has it (parameters.go, ReplaceParameter).
    """
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        if whole and whole[1] in parameters:
            return parameters[whole[1]]
        return REFERENCE.sub(
            lambda found: _text(parameters[found[1]]).replace("$$", "$") if found[1] in parameters else found[0], value
        )
    if isinstance(value, list):
        return [substitute(item, parameters) for item in value]
    if isinstance(value, Mapping):
        return {key: substitute(item, parameters) for key, item in value.items()}
    return value


def references(value: Any) -> set[str]:
    """The names that `value` refers to."""
    if isinstance(value, str):
        return {found[1] for found in REFERENCE.finditer(value)}
    if isinstance(value, list):
        return set().union(*(references(item) for item in value)) if value else set()
    if isinstance(value, Mapping):
        return set().union(*(references(item) for item in value.values())) if value else set()
    return set()
