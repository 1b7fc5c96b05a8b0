"""Session documents: kinds, preferences and their limits."""

from typing import Any

import pytest

from fleetops.documents import InvalidDocument, session

SHELL: dict[str, Any] = {
    "schemaVersion": "1.0",
    "description": "A shell",
    "sessionType": "Standard_Stream",
    "inputs": {
        "kmsKeyId": "alias/shells",
        "runAsEnabled": True,
        "runAsDefaultUser": "deploy",
        "idleSessionTimeout": "5",
        "maxSessionDuration": 60,
        "shellProfile": {"linux": "cd ~", "windows": ""},
    },
}


def test_preferences_are_read():
    document = session.parse(SHELL)
    assert (document.idle_seconds, document.longest_seconds) == (300, 3600)
    assert document.kms_key_id == "alias/shells"
    assert session.parse(SHELL | {"inputs": {}}).idle_seconds == 20 * 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schemaVersion": "2.2"}, "schemaVersion"),
        ({"sessionType": "Telnet"}, "sessionType"),
        ({"surprise": 1}, "surprise"),
        ({"inputs": {"idleSessionTimeout": "61"}}, "1 to 60 minutes"),
        ({"inputs": {"idleSessionTimeout": "9" * 5000}}, "1 to 60 minutes"),
        ({"inputs": {"idleSessionTimeout": "0"}}, "1 to 60 minutes"),
        ({"inputs": {"maxSessionDuration": "1441"}}, "1 to 1440 minutes"),
        ({"inputs": {"maxSessionDuration": True}}, "1 to 1440 minutes"),
        ({"inputs": {"runAsEnabled": "perhaps"}}, "neither true nor false"),
        ({"inputs": {"kmsKeyId": 7}}, "inputs.kmsKeyId"),
        ({"inputs": {"shellProfile": {"linux": "x" * 513}}}, "512"),
        ({"inputs": {"shellProfile": {"plan9": "x"}}}, "neither linux nor windows"),
        ({"inputs": {"unknown": 1}}, "inputs.unknown"),
        ({"sessionType": "Port"}, "properties.portNumber"),
        ({"sessionType": "InteractiveCommands"}, "properties"),
        ({"sessionType": "NonInteractiveCommands", "properties": {"linux": {}}}, "properties.linux.commands"),
        ({"sessionType": "InteractiveCommands", "properties": {"beos": {"commands": "ls"}}}, "properties.beos"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, Any], said: str):
    with pytest.raises(InvalidDocument) as refused:
        session.parse(SHELL | change)
    assert said in str(refused.value)


def test_commands_and_ports_are_read():
    command = {"linux": {"commands": "top", "runAsElevated": False}}
    document = session.parse(SHELL | {"sessionType": "InteractiveCommands", "properties": command})
    assert document.properties == command
    assert session.parse(SHELL | {"sessionType": "Port", "properties": {"portNumber": "{{ port }}"}}).idle_seconds
