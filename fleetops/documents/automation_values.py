"""Values in a runbook: {{ references }}, the JSONPath that selects from an answer, the types of outputs, moments.

Source: Systems Manager user guide, "Automation system variables", "Using action outputs as inputs", "Using JSONPath in
runbooks" and "aws:sleep".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

# A name, step.Output, or one of a family: global:DATE, automation:EXECUTION_ID, variable:count, ssm:a/b.
REFERENCE: Final = re.compile(r"\{\{\s*([A-Za-z0-9_\-]+(?:[:.][A-Za-z0-9_\-./]+)*)\s*\}\}")
SYSTEM: Final = frozenset(
    {"global:ACCOUNT_ID", "global:DATE", "global:DATE_TIME", "global:AWS_PARTITION", "global:REGION"}
    | {"automation:EXECUTION_ID"}
)
OUTPUT_TYPES: Final = ("String", "Integer", "Boolean", "StringList", "StringMap", "MapList")

_DURATION: Final = re.compile(
    r"P(?:(?P<weeks>\d{1,9})W)?(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9})S)?)?"
)
_PART: Final = re.compile(
    r"""\.\.(?P<deep>[A-Za-z_][\w\-:]*|\*)
    |\.(?P<name>[\w\-:]+|\*)
    |\[\s*(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)")\s*\]
    |\[\s*(?P<index>-?\d{1,9})\s*\]
    |\[\s*(?P<start>(?:-?\d{1,9})?)\s*:\s*(?P<end>(?:-?\d{1,9})?)\s*\]
    |\[\s*(?P<all>\*)\s*\]
    |\[\?\(\s*@\.(?P<key>[\w\-:.]+)\s*(?P<operator>==|!=)\s*(?:'(?P<text>[^']*)'|"(?P<quoted>[^"]*)"|(?P<bare>[\w.\-]+))
      \s*\)\]""",
    re.VERBOSE | re.ASCII,
)
_MOST_FOUND: Final = 100_000  # values that one path may pass through


class NoValue(Exception):
    """A reference, a path or a type that nothing answers; the text says which."""


def references(value: Any) -> Iterator[str]:
    """Every name that a value refers to, in lists and objects too."""
    if isinstance(value, str):
        yield from (found[1] for found in REFERENCE.finditer(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(value: Any, known: Callable[[str], Any]) -> Any:
    """`value` with its references replaced; `known` gives a name's value, or raises NoValue.

    A text that is one reference and nothing else becomes the value itself, of whatever type; within a longer text a
    list or an object is written as JSON. What is put in is not looked through again.
    """
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value.strip())
        if whole:
            return known(whole[1])
        return REFERENCE.sub(lambda found: as_text(known(found[1])), value)
    if isinstance(value, Mapping):
        return {key: resolve(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, known) for item in value]
    return value


def as_text(value: Any) -> str:
    """A value within a text."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def as_texts(value: Any) -> list[str]:
    """A value as the API shows outputs and parameters: a list of texts."""
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return [as_text(value)]


# --- JSONPath ---


def path_error(path: Any) -> str:
    """What is wrong with a path, or ""."""
    try:
        _parts(path)
    except NoValue as error:
        return str(error)
    return ""


def select(path: str, value: Any) -> Any:
    """What a path selects: one value; a list where it may be several (`*`, `..`, a slice, a filter).

    Raises NoValue if it names one value and there is none.
    """
    found, is_definite = [value], True
    for part in _parts(path):
        found = list(_step(part, found))
        is_definite = is_definite and not _is_many(part)
        if len(found) > _MOST_FOUND:
            raise NoValue(f"{path} selects more than {_MOST_FOUND} values")
    if not is_definite:
        return found
    if not found:
        raise NoValue(f"No results for path: {path}")
    return found[0]


def _parts(path: Any) -> list[re.Match[str]]:
    if not isinstance(path, str) or not path:
        raise NoValue("a path is a text")
    if not path.startswith("$"):  # as AWS's own runbooks leave it out too
        path = f"${path}" if path.startswith(("[", ".")) else f"$.{path}"
    parts, at = [], 1
    while at < len(path):
        match = _PART.match(path, at)
        if match is None:
            raise NoValue(f"{path[at:]} is not understood")
        parts.append(match)
        at = match.end()
    return parts


def _is_many(part: re.Match[str]) -> bool:
    kind = part.lastgroup
    return kind in {"deep", "all", "start", "end", "text", "quoted", "bare"} or part["name"] == "*"


def _step(part: re.Match[str], values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if part["deep"] is not None:
            yield from _below(value, part["deep"])
        elif part["all"] is not None or part["name"] == "*":
            yield from value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        elif part["index"] is not None:
            number = int(part["index"])
            if isinstance(value, list) and -len(value) <= number < len(value):
                yield value[number]
        elif part["start"] is not None:
            if isinstance(value, list):
                start, end = part["start"], part["end"]
                yield from value[int(start) if start else None : int(end) if end else None]
        elif part["key"] is not None:
            yield from (item for item in (value if isinstance(value, list) else ()) if _fits(part, item))
        else:
            name = next(text for text in (part["name"], part["single"], part["double"]) if text is not None)
            if isinstance(value, Mapping) and name in value:
                yield value[name]


def _below(value: Any, name: str) -> Iterator[Any]:
    """Every value of this name, however deep."""
    if isinstance(value, Mapping):
        if name == "*":
            yield from value.values()
        elif name in value:
            yield value[name]
        for item in value.values():
            yield from _below(item, name)
    elif isinstance(value, list):
        if name == "*":
            yield from value
        for item in value:
            yield from _below(item, name)


def _fits(part: re.Match[str], item: Any) -> bool:
    for name in part["key"].split("."):
        if not isinstance(item, Mapping) or name not in item:
            return False
        item = item[name]
    wanted = next(text for text in (part["text"], part["quoted"], part["bare"]) if text is not None)
    return (as_text(item) == wanted) == (part["operator"] == "==")


# --- Types ---


def typed(value: Any, kind: str) -> Any:
    """A selected value as an output of its type. Raises NoValue if it is none of that type."""
    match kind:
        case "String":
            if isinstance(value, list | Mapping) or value is None:
                raise NoValue(f"{_shown(value)} is no String")
            return as_text(value)
        case "Integer":
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
                return int(value)
        case "Boolean":
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in {"true", "false"}:
                return value.lower() == "true"
        case "StringList":
            if isinstance(value, list):
                return [as_text(item) for item in value]
        case "StringMap":
            if isinstance(value, Mapping):
                return dict(value)
        case "MapList":
            if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
                return list(value)
    raise NoValue(f"{_shown(value)} is no {kind}")


def _shown(value: Any) -> str:
    return as_text(value)[:100]


def duration(text: Any) -> timedelta | None:
    """A length in ISO 8601, weeks to seconds ("PT10M"); None if it is none."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or not any(found.groups()):
        return None
    return timedelta(**{name: int(number) for name, number in found.groupdict().items() if number})
