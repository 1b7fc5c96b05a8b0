"""The node's end of a transfer: the command of its session document, and the lines that the two ends exchange.

The node's side is transfer.sh. It runs on a terminal, which it sets to raw, since a session document has no other way
in. So what goes up is base64, in parts of known length; what comes down is base64 in lines, which end with a line of
the node's own. Parts are acknowledged: what is under way, and so what either end holds, is bounded.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

PART_BYTES: Final = 192 * 1024  # of a download: 256 KiB of base64, in whole lines of 57 bytes
# Of an upload. What is under way in base64 fits into what our own node keeps for a program that does not read just
# then (node/terminal.py): what it has no room for, it lets come again, a message at a time.
UPLOAD_PART_BYTES: Final = 90 * 1024
UPLOADS_AHEAD: Final = 2  # parts that may be on their way
DOWNLOADS_AHEAD: Final = 4
OUR_PAYLOAD: Final = 16 * 1024  # bytes in a message to a node behind our own endpoint, whose programs take them
LINE_BYTES: Final = 80  # of what the node hears
STOP: Final = b"\x03"  # at any moment
_LONGEST_LINE: Final = 64 * 1024  # of what it says: a path has 4,095 bytes

_FAILURES: Final = {
    "exists": "There is a file of that name already. Choose to replace it, or another name.",
    "directory": "There is no such folder on the instance.",
    "denied": "The OS user of the session may not do that there: permission denied.",
    "missing": "There is no such file on the instance.",
    "irregular": "That is no regular file but a folder, a device or the like.",
    "full": "There is no space left on that file system of the instance.",
    "quota": "The disk quota of the OS user is used up.",
    "large": "The instance does not let its user write files so large.",
    "sum": "What the instance has is not what was sent: the digests differ. Nothing was kept.",
    "stopped": "It was stopped on the instance.",
    "protocol": "The instance was sent something that it did not understand.",
}


@cache
def commands() -> str:
    """What `sh -c` runs on Linux and macOS."""
    lines = Path(__file__).with_name("transfer.sh").read_text().splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return text.replace("{{ part }}", str(PART_BYTES))


def parameters() -> dict[str, Any]:
    """Of the session document. Nothing but letters of base64 gets between the quotes of the script."""
    # No bound in the pattern: the agent's own regexp takes none above 1,000, and the paths' are checked in paths.py.
    letters = "^[A-Za-z0-9+/]+={0,2}$"
    return {
        "direction": {"type": "String", "description": "Which way.", "allowedValues": ["upload", "download"]},
        "overwrite": {"type": "String", "description": "Whether to replace.", "allowedValues": ["yes", "no"]},
        "path": {"type": "String", "description": "Where, in base64.", "allowedPattern": letters},
        "name": {"type": "String", "description": "Of the file, in base64.", "allowedPattern": letters},
        "id": {"type": "String", "description": "Of the transfer.", "allowedPattern": "^[0-9a-f]{32}$"},
    }


def line(verb: str, argument: str = "") -> bytes:
    """What the node is told: `p` and a length of base64 that follows; `n` for a part; `s`, for the end."""
    return f"{verb} {argument}".ljust(LINE_BYTES - 1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the node: ready, part, sum or fail, and what it adds."""

    verb: str
    words: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of ready: the path as the node understood it."""
        try:
            return base64.b64decode(self.words[1], validate=True).decode(errors="replace").replace("\0", "�")
        except (IndexError, binascii.Error):
            return ""

    @property
    def failure(self) -> str:
        """Of fail: why, in words for the person."""
        code, *more = self.words or ("other",)
        if code == "tool":
            return f"The instance has no {' '.join(more) or 'tool that this needs'}, which is needed for it."
        text = "".join(each for each in " ".join(more) if each.isprintable())[:160]
        return _FAILURES.get(code) or f"The instance could not do it{f': {text}' if text else ''}."


class NodeReader:
    """Reads what the node writes: its lines, and the parts between them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._part = bytearray()  # base64

    def feed(self, data: bytes) -> list[Said | bytes]:
        """What these bytes complete, in order. A part comes as its bytes, before the line that ends it.

        Raises ValueError for what no node of ours writes.
        """
        self._buffer += data
        found: list[Said | bytes] = []
        *lines, rest = self._buffer.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ValueError("a line without an end")
        self._buffer = bytearray(rest)
        for each in lines:
            text = each.rstrip(b"\r")
            if not text.startswith(b"@"):
                if _BASE64.fullmatch(text):  # else a word of the system's, before the script began
                    self._part += text
                if len(self._part) > 2 * PART_BYTES:
                    raise ValueError("a part that is too long")
                continue
            verb, *words = text[1:].decode(errors="replace").split(" ")
            if verb == "part":
                found.append(base64.b64decode(self._part, validate=True))
                self._part.clear()
            found.append(Said(verb, tuple(words)))
        return found


_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
