"""Restricted shells: sessions that run one program, with parameters that fit, and nothing else.

What holds, and how: the session's document names the program, so AWS starts nothing else; what is typed is that
program's input, and its end is the session's. Values are put into the command as they are, so each parameter has a
pattern, or a list, that a value has to match as a whole: here, at AWS, and once more by the agent. A program that
itself can start a shell (an editor, a pager, `psql` by \\!) is none for this: whoever defines one decides that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now
from fleetops.documents import InvalidDocument, InvalidParameters
from fleetops.documents import session as session_schema
from fleetops.documents.parameters import REFERENCE, check_parameters, foreign_to_agents
from fleetops.errors import FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance

from . import session_documents
from .models import RestrictedShell
from .session_documents import NoDocument

CHANGE_PERMISSION: Final = "sessions_app.change_restrictedshell"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
# What a value may be where nothing else is said: nothing that a shell reads as more than a word, nor a program as a
# switch.
PLAIN_PATTERN: Final = r"^[A-Za-z0-9_./][A-Za-z0-9._/:@=+,-]*$"
# Of ours in the document, and not to be taken by a restricted shell's own.
_TAKEN: Final = frozenset({"runAs", "nonce"})
MOST_PARAMETERS: Final = 20
MOST_VALUES: Final = 100
LONGEST_COMMAND: Final = 8_000  # characters; a document has 64 KiB
LONGEST_VALUE: Final = 1_000
_SYSTEMS: Final = ("linux", "macos", "windows")


class BadParameters(UserError):
    """Values that this restricted shell does not take."""


def define(*, actor: User, **fields: Any) -> RestrictedShell:
    """Make one. Raises FieldError."""
    cleaned = _clean(None, fields)
    with transaction.atomic():
        row = RestrictedShell.objects.create(**cleaned, changed_by=actor.username)
        record("sessions.restricted.define", actor=actor, target=row, **_facts(row))
    return row


def change(row: RestrictedShell, *, actor: User, **fields: Any) -> None:
    """Change one; its name stays. Sessions that are open go on as they were started. Raises FieldError."""
    cleaned = _clean(row, fields)
    with transaction.atomic():
        row = RestrictedShell.objects.select_for_update().get(pk=row.pk)
        before = _facts(row)
        for name, value in cleaned.items():
            setattr(row, name, value)
        row.version += 1
        row.changed_at, row.changed_by = now(), actor.username
        row.save()
        record("sessions.restricted.change", actor=actor, target=row, before=before, after=_facts(row))


def set_enabled(row: RestrictedShell, enabled: bool, *, actor: User) -> None:
    """Let it be opened, or no more. Sessions that are open go on."""
    with transaction.atomic():
        changed = RestrictedShell.objects.filter(pk=row.pk, enabled=not enabled).update(
            enabled=enabled, changed_at=now(), changed_by=actor.username
        )
        if changed:
            action = "sessions.restricted.enable" if enabled else "sessions.restricted.disable"
            record(action, actor=actor, target=row)
    row.refresh_from_db()


def require_usable(instance: Instance, document: str, parameters: Mapping[str, Sequence[str]]) -> None:
    """Hold what is asked for against the restricted shell of that name; documents of others are AWS's to judge.

    Raises NoDocument: none of that name, or not on this platform; BadParameters, which names each that is wrong.
    """
    row = session_documents.restricted_shell(document)
    if row is None:
        return
    if not row.commands(instance.platform_type):
        raise NoDocument(f"{row.document} is not for {instance.platform_type or 'an unknown platform'}.")
    wrong = [
        f"{name} has a character that does not show"
        for name, values in parameters.items()
        if any(not text.isprintable() for text in values)
    ]
    wrong += [
        f"{name} is too long" for name, values in parameters.items() if any(len(v) > LONGEST_VALUE for v in values)
    ]
    declared = session_schema.parse(session_documents.restricted(row, {}, run_as=False).content).parameters
    try:
        check_parameters(declared, {name: list(values) for name, values in parameters.items()})
    except InvalidParameters as error:
        wrong.append(str(error))
    if wrong:
        raise BadParameters(f"{row.document} does not take these parameters: {'; '.join(wrong)}.")


def openable(instance: Instance) -> list[RestrictedShell]:
    """Those that this instance's platform has a command for."""
    return [row for row in RestrictedShell.objects.enabled() if row.commands(instance.platform_type)]


def _facts(row: RestrictedShell) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "linux": row.linux,
        "macos": row.macos,
        "windows": row.windows,
        "parameters": row.parameters,
    }


def _clean(row: RestrictedShell | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they are stored. Raises FieldError."""
    wrong: dict[str, str] = {}
    name = row.name if row is not None else str(fields.get("name", "")).strip()
    if row is None:
        if not NAME.fullmatch(name):
            wrong["name"] = "Write 2 to 63 small letters, digits and hyphens, a letter or a digit first."
        elif RestrictedShell.objects.filter(name=name).exists():
            wrong["name"] = "There is one of this name; also a disabled one keeps its name."
    cleaned: dict[str, Any] = {"note": " ".join(str(fields.get("note", "")).split())[:256]}
    if row is None:
        cleaned["name"] = name
    for system in _SYSTEMS:
        text = str(fields.get(system, "")).replace("\r\n", "\n").strip()
        cleaned[system] = text
        if len(text) > LONGEST_COMMAND:
            wrong[system] = f"At most {LONGEST_COMMAND:,} characters."
        elif "\x00" in text:
            wrong[system] = "It holds a NUL."
    if not any(cleaned[system] for system in _SYSTEMS) and not wrong:
        wrong["linux"] = "Write the command of at least one platform."
    try:
        cleaned["parameters"] = _clean_parameters(fields.get("parameters") or [])
    except UserError as error:
        wrong["parameters"] = str(error)
    else:
        names = {each["name"] for each in cleaned["parameters"]}
        for system in _SYSTEMS:
            unknown = {found for found in REFERENCE.findall(cleaned[system]) if found not in names}
            if unknown:
                wrong[system] = f"There is no parameter {', '.join(sorted(unknown))}; add it below."
            elif re.search(r"\{\{\s*ssm", cleaned[system]):
                wrong[system] = "Parameters of Parameter Store are not put into these commands."
    if not wrong:
        probe = RestrictedShell(**{"name": name, **cleaned})
        try:
            session_schema.parse(session_documents.restricted(probe, {}, run_as=True).content)
        except InvalidDocument as error:
            wrong["parameters"] = f"AWS would not take this: {error}"
    if wrong:
        error = FieldError(*next(iter(wrong.items())))
        error.fields = wrong
        raise error
    return cleaned


def _clean_parameters(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises UserError, in words."""
    if len(given) > MOST_PARAMETERS:
        raise UserError(f"At most {MOST_PARAMETERS} parameters.")
    kept: list[dict[str, Any]] = []
    for each in given:
        name = str(each.get("name", "")).strip()
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,63}", name) or name in _TAKEN:
            raise UserError(
                f"“{name}” cannot be a parameter's name: letters and digits, a letter first, and not runAs."
            )
        if name in {other["name"] for other in kept}:
            raise UserError(f"There are two parameters {name}.")
        values = [text for text in (str(value).strip() for value in each.get("values") or []) if text]
        if len(values) > MOST_VALUES or any(len(text) > LONGEST_VALUE or not text.isprintable() for text in values):
            raise UserError(f"{name}: at most {MOST_VALUES} values, of at most {LONGEST_VALUE} characters that show.")
        pattern = str(each.get("pattern", "")).strip()
        if not pattern and not values:
            pattern = PLAIN_PATTERN
        if pattern and not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
            # AWS looks for a pattern anywhere in a value.
            raise UserError(f"{name}: write ^ first and $ last, or a value need only contain what the pattern says.")
        if pattern and _has_alternative(pattern):
            raise UserError(
                f"{name}: put alternatives into brackets, ^(?:one|two)$, or ^ and $ hold for one of them each."
            )
        if foreign := foreign_to_agents(pattern):
            raise UserError(f"{name}: the pattern has {foreign}, which the instances' agents cannot read.")
        entry: dict[str, Any] = {"name": name, "description": str(each.get("description", "")).strip()[:256]}
        entry |= {"pattern": pattern, "values": values, "default": str(each.get("default", "")).strip()}
        if entry["default"]:
            declared = session_schema.parse(
                {
                    "schemaVersion": "1.0",
                    "sessionType": "InteractiveCommands",
                    "properties": {"linux": {"commands": "true"}},
                    "parameters": {name: _rule(entry)},
                }
            ).parameters
            try:
                check_parameters(declared, {name: [entry["default"]]})
            except InvalidParameters as error:
                raise UserError(f"The default does not fit: {error}.") from None
        kept.append(entry)
    return kept


def _rule(entry: Mapping[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"type": "String"}
    if entry["values"]:
        rule["allowedValues"] = list(entry["values"])
    if entry["pattern"]:
        rule["allowedPattern"] = entry["pattern"]
    return rule


def _has_alternative(pattern: str) -> bool:
    """Whether a | stands outside all brackets."""
    depth, in_class, position = 0, False, 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            if pattern[position + 1 : position + 2] in {"]"} or pattern[position + 1 : position + 3] == "^]":
                position += 1 + (pattern[position + 1] == "^")
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "|" and depth == 0:
            return True
        position += 1
    return False
