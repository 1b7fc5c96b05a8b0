"""The session documents that AWS provides, in schema 1.0. Source: the Systems Manager user guide and GetDocument."""

import copy
import hashlib
import json
import re
from typing import Any

from fleetops.awsapi.errors import ApiError

DEFAULT_DOCUMENT = "SSM-SessionManagerRunShell"
# AWS ends a shell after 20 minutes without input or output, unless the document says otherwise.
DEFAULT_IDLE_MINUTES = 20

_INPUTS = {
    "s3BucketName": "",
    "s3KeyPrefix": "",
    "s3EncryptionEnabled": True,
    "cloudWatchLogGroupName": "",
    "cloudWatchEncryptionEnabled": True,
    "cloudWatchStreamingEnabled": False,
    "idleSessionTimeout": "20",
    "maxSessionDuration": "",
    "kmsKeyId": "",
    "runAsEnabled": False,
    "runAsDefaultUser": "",
    "shellProfile": {"windows": "", "linux": ""},
}
_PORT_PATTERN = "^([1-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
_LOCAL_PORT_PATTERN = "^([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"


def _command(session_type: str, description: str) -> dict[str, Any]:
    return {
        "schemaVersion": "1.0",
        "description": description,
        "sessionType": session_type,
        "parameters": {
            "command": {"type": "String", "description": "(Required) The command to run.", "minChars": 1},
        },
        "properties": {
            system: {"commands": "{{ command }}", "runAsElevated": False} for system in ("linux", "macos", "windows")
        },
    }


def _port(description: str, properties: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "schemaVersion": "1.0",
        "description": description,
        "sessionType": "Port",
        "parameters": {
            "portNumber": {
                "type": "String",
                "description": "(Optional) Port number of the server on the instance",
                "allowedPattern": _PORT_PATTERN,
                "default": "80",
            },
            **parameters,
        },
        "properties": {"portNumber": "{{ portNumber }}", **properties},
    }


_LOCAL_PORT = {
    "localPortNumber": {
        "type": "String",
        "description": "(Optional) Port number on the local machine to forward traffic to; 0 or none for any",
        "allowedPattern": _LOCAL_PORT_PATTERN,
        "default": "0",
    }
}
_FORWARDING = {"type": "LocalPortForwarding", "localPortNumber": "{{ localPortNumber }}"}

DOCUMENTS: dict[str, dict[str, Any]] = {
    DEFAULT_DOCUMENT: {
        "schemaVersion": "1.0",
        "description": "Document to hold regional settings for Session Manager",
        "sessionType": "Standard_Stream",
        "inputs": _INPUTS,
    },
    "AWS-StartInteractiveCommand": _command("InteractiveCommands", "Document to run an interactive command"),
    "AWS-StartNonInteractiveCommand": _command(
        "NonInteractiveCommands", "Document to run a command without a terminal"
    ),
    "AWS-StartSSHSession": {
        **_port("Document to start an SSH connection through Session Manager", {}, {}),
    },
    "AWS-StartPortForwardingSession": _port(
        "Document to start port forwarding session over Session Manager", _FORWARDING, _LOCAL_PORT
    ),
    "AWS-StartPortForwardingSessionToRemoteHost": _port(
        "Document to start port forwarding session over Session Manager to a remote host",
        {**_FORWARDING, "host": "{{ host }}"},
        {
            **_LOCAL_PORT,
            "host": {
                "type": "String",
                "description": "(Required) Hostname or IP address of the destination server",
                "allowedPattern": r"^[A-Za-z0-9.:_-]{1,256}$",
            },
        },
    ),
}
DOCUMENTS["AWS-StartSSHSession"]["parameters"]["portNumber"]["default"] = "22"


def find(name: str) -> dict[str, Any]:
    """The content of a session document, by name or ARN. Raises ApiError (InvalidDocument)."""
    document = DOCUMENTS.get(name.rpartition("/")[2] if name.startswith("arn:") else name)
    if document is None:
        raise ApiError("InvalidDocument", f"Document with name {name} does not exist.")
    return copy.deepcopy(document)


def check_parameters(document: dict[str, Any], given: dict[str, list[str]]) -> dict[str, str]:
    """The parameters of a session as plain strings, which is how the agent takes them.

    Raises ApiError (InvalidParameters) for one that the document does not have or allow, or needs and did not get.
    """
    declared = document.get("parameters", {})
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ApiError("InvalidParameters", f"Invalid parameters: {', '.join(unknown)}")
    values = {}
    for name, rule in declared.items():
        texts = given.get(name)
        if not texts:
            if "default" not in rule:
                raise ApiError("InvalidParameters", f"Parameter {name} is required")
            values[name] = rule["default"]
            continue
        if len(texts) != 1:
            raise ApiError("InvalidParameters", f"Parameter {name} takes one value")
        pattern = rule.get("allowedPattern")
        if pattern and not re.fullmatch(pattern, texts[0]):
            raise ApiError("InvalidParameters", f"Parameter {name} must match {pattern}")
        values[name] = texts[0]
    return values


def limits(document: dict[str, Any]) -> tuple[int, int]:
    """(idle seconds, longest seconds; 0 for no limit) of a session under this document."""
    inputs = document.get("inputs", {})
    idle = str(inputs.get("idleSessionTimeout") or DEFAULT_IDLE_MINUTES)
    longest = str(inputs.get("maxSessionDuration") or 0)
    return int(idle) * 60, int(longest) * 60


def owner(name: str) -> str:
    return "Amazon" if name.startswith("AWS-") else ""


def text_of(name: str) -> str:
    """The document's content as GetDocument gives it."""
    return json.dumps(find(name), indent=2)


def digest(name: str) -> str:
    return hashlib.sha256(text_of(name).encode()).hexdigest()
