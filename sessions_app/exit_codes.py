"""The exit code of a command, also where the session document tells none: AWS's own does not.

The command is wrapped, and prints its code behind a word of its own, which is taken out of the output again before
anybody sees or records it. Where the document separates outputs, the agent tells the code itself.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

COMMAND_DOCUMENT: Final = "AWS-StartNonInteractiveCommand"
_WORD: Final = re.compile(r"fleetops-exit-[0-9a-f]{16}")
_LONGEST_CODE: Final = 3  # digits


def telling(command: str) -> str:
    """What runs a line of sh as the agent takes it, as words, and tells its exit code."""
    word = f"fleetops-exit-{secrets.token_hex(8)}"
    return shlex.join(["/bin/sh", "-c", f'/bin/sh -c "$1"; echo "{word}:$?"', "sh", command])


def plain(command: str) -> str:
    """The line of sh that `telling` was given; what it has not made is left as it is."""
    if not _WORD.search(command):
        return command
    try:
        return shlex.split(command)[-1]
    except ValueError:
        return command


class ExitCode:
    """Finds the code in a command's output, wherever that is cut."""

    def __init__(self, parameters: Mapping[str, Sequence[str]]) -> None:
        found = _WORD.search(" ".join(parameters.get("command") or ()))
        self._word = f"{found[0]}:".encode() if found else b""
        self._rest = b""

    @property
    def is_looked_for(self) -> bool:
        return bool(self._word)

    def feed(self, data: bytes) -> tuple[bytes, int | None]:
        """The output without the word, and the code once it is there; what may be the word's beginning waits."""
        data = self._rest + data
        self._rest = b""
        at = data.find(self._word)
        if at < 0:
            at = self._beginning_in(data)
            self._rest = data[at:]
            return data[:at], None
        digits, newline, behind = data[at + len(self._word) :].partition(b"\n")
        if not newline and len(digits) <= _LONGEST_CODE:
            self._rest = data[at:]
            return data[:at], None
        return data[:at] + behind, int(digits) if digits.isdigit() else None

    def _beginning_in(self, data: bytes) -> int:
        """Where the end of `data` begins that may be the beginning of the word."""
        for length in range(min(len(self._word) - 1, len(data)), 0, -1):
            if data.endswith(self._word[:length]):
                return len(data) - length
        return len(data)
