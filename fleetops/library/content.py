"""What a document's text says: read, checked before AWS is asked, compared. No database, no network."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from fleetops.documents import InvalidDocument, automation, command, session
from fleetops.documents.parameters import Parameter
from fleetops.errors import UserError

LONGEST: Final = command.LONGEST  # bytes
FORMATS: Final = ("JSON", "YAML")
# What FleetOps makes.
TYPES: Final = ("Command", "Session", "Automation")
_MOST_ALIASES: Final = 50  # of a YAML text: more of them is an attack on whoever reads it


class ContentError(UserError):
    """The text is no document; `path` says where in it, `line` where in the text if it could not be read at all."""

    def __init__(self, text: str, *, path: str = "", line: int = 0) -> None:
        super().__init__(text)
        self.path, self.line = path, line


@dataclass(frozen=True, slots=True)
class Read:
    """A document that was read. `parameters` and `steps` are empty where its type is not read by us."""

    description: str = ""
    schema_version: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    steps: tuple[command.Step, ...] = ()
    platform_types: tuple[str, ...] = ()


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: no dates, and keys that are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, document_format: str) -> Any:
    """The text as data. Raises ContentError, with the line."""
    if len(text.encode()) > LONGEST:
        raise ContentError(f"A document has at most {LONGEST:,} bytes; this one has {len(text.encode()):,}.")
    if document_format == "JSON":
        try:
            return json.loads(text)
        except ValueError as error:
            line = getattr(error, "lineno", 0)
            words = getattr(error, "msg", str(error))
            column = getattr(error, "colno", 0)
            raise ContentError(f"This is no JSON: line {line}, column {column}: {words}.", line=line) from None
        except RecursionError:
            raise ContentError("This is no JSON that can be read: it is nested too deeply.") from None
    if text.count("*") > _MOST_ALIASES and _aliases(text) > _MOST_ALIASES:
        raise ContentError(f"This YAML uses more than {_MOST_ALIASES} aliases; write them out.")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        words = getattr(error, "problem", "") or "it cannot be read"
        raise ContentError(f"This is no YAML: line {line}: {words}.", line=line) from None
    except (RecursionError, ValueError):
        raise ContentError("This is no YAML that can be read.") from None


def _aliases(text: str) -> int:
    try:
        return sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError, ValueError):
        return 0


def read(text: str, *, document_type: str, document_format: str) -> Read:
    """Read a document of a type that we know. Raises ContentError, which says where."""
    content = parse(text, document_format)
    try:
        if document_type == "Command":
            found = command.parse(content)
            return Read(found.description, found.schema_version, found.parameters, found.steps, found.platform_types)
        if document_type == "Session":
            told = session.parse(content)
            return Read("", "1.0", told.parameters)
        if document_type == "Automation":
            runbook = automation.parse(content)
            return Read(runbook.description, automation.SCHEMA, runbook.parameters)
    except InvalidDocument as error:
        where = f"At {error.path}: {error.message}" if error.path else error.message
        raise ContentError(f"{where[:1].upper()}{where[1:]}.", path=error.path) from None
    except RecursionError:
        raise ContentError("The document is nested too deeply.") from None
    if not isinstance(content, Mapping):
        raise ContentError("The document is not an object.")
    return Read(str(content.get("description", "")), str(content.get("schemaVersion", "")))


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A line of both texts side by side; `kind`: same, changed, added, removed, or gap (lines that are left out)."""

    kind: str
    left_number: int = 0
    left: str = ""
    right_number: int = 0
    right: str = ""


def compare(left: str, right: str, *, context: int = 4) -> list[DiffRow]:
    """Both texts side by side: what differs, with so many lines around it."""
    ours, theirs = left.splitlines(), right.splitlines()
    rows: list[DiffRow] = []
    for number, group in enumerate(difflib.SequenceMatcher(None, ours, theirs, False).get_grouped_opcodes(context)):
        if number or group[0][1]:
            rows.append(DiffRow("gap", group[0][1], "", group[0][3]))
        for tag, a_from, a_to, b_from, b_to in group:
            for step in range(max(a_to - a_from, b_to - b_from)):
                has_left, has_right = a_from + step < a_to, b_from + step < b_to
                kind = "same" if tag == "equal" else "changed"
                if kind == "changed" and not has_left:
                    kind = "added"
                elif kind == "changed" and not has_right:
                    kind = "removed"
                rows.append(
                    DiffRow(
                        kind,
                        a_from + step + 1 if has_left else 0,
                        ours[a_from + step] if has_left else "",
                        b_from + step + 1 if has_right else 0,
                        theirs[b_from + step] if has_right else "",
                    )
                )
    return rows
