"""The session documents that AWS provides, in schema 1.0. Source: the Systems Manager user guide and GetDocument."""

from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.documents import InvalidParameters, parameters, session

DEFAULT_DOCUMENT = "SSM-SessionManagerRunShell"

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


def check_parameters(document: dict[str, Any], given: dict[str, list[str]]) -> dict[str, Any]:
    """The parameters of a session as the agent takes them. Raises ApiError (InvalidParameters)."""
    try:
        return parameters.check_parameters(session.parse(document).parameters, given)
    except InvalidParameters as error:
        raise ApiError("InvalidParameters", str(error)) from None


def under_preferences(document: dict[str, Any], preferences: dict[str, Any]) -> dict[str, Any]:
    """A document that says nothing of how its sessions are held is run under the account's preferences.

    AWS's own ones are such: what is set for the account in SSM-SessionManagerRunShell holds for their sessions too.
    """
    if "inputs" in document or "inputs" not in preferences:
        return document
    return {**document, "inputs": preferences["inputs"]}


def for_agent(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The document as the agent can read it: switches are true or false, ports are texts.

    A text in the place of a switch makes the real agent pass over the whole start message, or fail the start. Source:
    amazon-ssm-agent, agent/contracts/model.go and agent/framework/docparser/docparser.go.
    """
    inputs = dict(document.get("inputs") or {})
    for name in session.SWITCHES:
        if isinstance(inputs.get(name), str):
            inputs[name] = str(parameters.substitute(inputs[name], values)).lower() in {"true", "1", "t"}
    read = {**document, "inputs": inputs}
    properties = document.get("properties")
    if isinstance(properties, dict) and document.get("sessionType") == "Port":
        ports = {name: str(properties[name]) for name in ("portNumber", "localPortNumber") if name in properties}
        read["properties"] = {**properties, **ports}
    return read


def limits(document: dict[str, Any]) -> tuple[int, int]:
    """(idle seconds, longest seconds; 0 for no limit) of a session under this document."""
    read = session.parse(document)
    return read.idle_seconds, read.longest_seconds
