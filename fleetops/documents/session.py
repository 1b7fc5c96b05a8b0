"""Session documents, schema 1.0: what kind of session, and under which preferences.

Source: Systems Manager user guide, "Session document schema"; amazon-ssm-agent, agent/contracts (SessionInputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import InvalidDocument
from .parameters import Parameter, read_parameters

SESSION_TYPES: Final = ("Standard_Stream", "InteractiveCommands", "NonInteractiveCommands", "Port")
SYSTEMS: Final = ("linux", "macos", "windows")
DEFAULT_IDLE_MINUTES: Final = 20  # AWS ends a shell after 20 minutes without input or output
IDLE_MINUTES: Final = (1, 60)  # [user guide, session document schema]
LONGEST_MINUTES: Final = (1, 1440)
LONGEST_PROFILE: Final = 512  # characters of a shell profile for one system [user guide, shell profiles]

_KEYS: Final = frozenset({"schemaVersion", "description", "sessionType", "inputs", "parameters", "properties"})
_TEXTS: Final = ("s3BucketName", "s3KeyPrefix", "cloudWatchLogGroupName", "kmsKeyId", "runAsDefaultUser")
SWITCHES: Final = ("s3EncryptionEnabled", "cloudWatchEncryptionEnabled", "cloudWatchStreamingEnabled", "runAsEnabled")
_MINUTES: Final = ("idleSessionTimeout", "maxSessionDuration")


@dataclass(frozen=True, slots=True)
class SessionDocument:
    """A session document that has been read and found sound."""

    session_type: str
    description: str
    parameters: Mapping[str, Parameter]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    properties: Any = None
    idle_seconds: int = DEFAULT_IDLE_MINUTES * 60
    longest_seconds: int = 0  # 0: no limit

    @property
    def kms_key_id(self) -> str:
        return str(self.inputs.get("kmsKeyId", ""))

    @property
    def platform_types(self) -> tuple[str, ...]:
        return ("Windows", "Linux", "MacOS")


def parse(content: Any) -> SessionDocument:
    """Read a session document's content, already parsed from JSON or YAML. Raises InvalidDocument."""
    if not isinstance(content, Mapping):
        raise InvalidDocument("the document is not an object")
    if content.get("schemaVersion") != "1.0":
        raise InvalidDocument("must be 1.0 for a Session document", "schemaVersion")
    if unknown := sorted(set(map(str, content)) - _KEYS):
        raise InvalidDocument("is not part of schema 1.0", unknown[0])
    session_type = content.get("sessionType")
    if session_type not in SESSION_TYPES:
        raise InvalidDocument(f"must be one of {', '.join(SESSION_TYPES)}", "sessionType")
    description = content.get("description", "")
    if not isinstance(description, str):
        raise InvalidDocument("is not a string", "description")
    inputs = content.get("inputs", {})
    if not isinstance(inputs, Mapping):
        raise InvalidDocument("is not an object", "inputs")
    _check_inputs(inputs)
    properties = content.get("properties")
    if session_type == "Port":
        if not isinstance(properties, Mapping) or not properties.get("portNumber"):
            raise InvalidDocument("a Port document names the port on the node", "properties.portNumber")
    elif session_type != "Standard_Stream":
        _check_commands(properties)
    return SessionDocument(
        session_type=str(session_type),
        description=description,
        parameters=read_parameters(content.get("parameters")),
        inputs=inputs,
        properties=properties,
        idle_seconds=60 * _minutes(inputs, "idleSessionTimeout", IDLE_MINUTES, DEFAULT_IDLE_MINUTES),
        longest_seconds=60 * _minutes(inputs, "maxSessionDuration", LONGEST_MINUTES, 0),
    )


def _check_inputs(inputs: Mapping[str, Any]) -> None:
    known = {*_TEXTS, *SWITCHES, *_MINUTES, "shellProfile"}
    if unknown := sorted(set(map(str, inputs)) - known):
        raise InvalidDocument("is not part of schema 1.0", f"inputs.{unknown[0]}")
    for name in _TEXTS:
        if not isinstance(inputs.get(name, ""), str):
            raise InvalidDocument("is not a string", f"inputs.{name}")
    for name in SWITCHES:
        value = inputs.get(name, False)
        # A switch may also be a parameter, "{{ name }}", which the agent fills in.
        is_text = isinstance(value, str) and (value in {"", "true", "false"} or value.startswith("{{"))
        if not isinstance(value, bool) and not is_text:
            raise InvalidDocument("is neither true nor false", f"inputs.{name}")
    profile = inputs.get("shellProfile", {})
    if not isinstance(profile, Mapping) or not all(isinstance(text, str) for text in profile.values()):
        raise InvalidDocument("is not an object of strings", "inputs.shellProfile")
    for system, text in profile.items():
        if system not in {"linux", "windows"}:
            raise InvalidDocument("is neither linux nor windows", f"inputs.shellProfile.{system}")
        if len(text) > LONGEST_PROFILE:
            raise InvalidDocument(f"has more than {LONGEST_PROFILE} characters", f"inputs.shellProfile.{system}")


def _check_commands(properties: Any) -> None:
    if not isinstance(properties, Mapping) or not properties:
        raise InvalidDocument("is missing", "properties")
    for system, rule in properties.items():
        path = f"properties.{system}"
        if system not in SYSTEMS:
            raise InvalidDocument(f"is none of {', '.join(SYSTEMS)}", path)
        if not isinstance(rule, Mapping) or not isinstance(rule.get("commands"), str) or not rule["commands"]:
            raise InvalidDocument("is missing or not a string", f"{path}.commands")


def _minutes(inputs: Mapping[str, Any], name: str, bounds: tuple[int, int], default: int) -> int:
    value = inputs.get(name, "")
    if value in ("", None):
        return default
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    low, high = bounds
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10
    if not is_number or not low <= int(text) <= high:
        raise InvalidDocument(f"must be {low} to {high} minutes", f"inputs.{name}")
    return int(text)
