"""Paths and names of files: what may be asked for, and how they get to the node as no text that a shell reads."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from fleetops.errors import FieldError

from ..states import TransferDirection

MOST_PATH: Final = 4095  # bytes. PATH_MAX of Linux, less the zero at its end
MOST_NAME: Final = 255  # bytes. NAME_MAX

# What the document takes: see session_documents.transfer.
DIRECTION, OVERWRITE, PATH, NAME, ID = "direction", "overwrite", "path", "name", "id"


def checked_path(path: str) -> str:
    """A path on the instance, as it was written. Raises FieldError."""
    if not path or path.isspace():
        raise FieldError("path", "Say where the file is, or goes, on the instance.")
    if not _is_sendable(path, MOST_PATH):
        raise FieldError("path", f"A path has at most {MOST_PATH} bytes of UTF-8, none of them zero.")
    return path


def checked_name(name: str) -> str:
    """The name of a file at the person's end, without its folders. Raises FieldError."""
    name = name.rpartition("/")[2]
    if name in ("", ".", "..") or not _is_sendable(name, MOST_NAME):
        raise FieldError("name", f"A file's name has 1 to {MOST_NAME} bytes of UTF-8, none of them zero.")
    return name


def name_of(path: str) -> str:
    """How a download of that path is called; browsers make a name of it that their system takes."""
    return path.rstrip("/").rpartition("/")[2] or "file"


def parameters(direction: str, path: str, name: str, *, overwrite: bool) -> dict[str, list[str]]:
    """Of the session document."""
    return {
        DIRECTION: [direction],
        OVERWRITE: ["yes" if overwrite else "no"],
        PATH: [encoded(path)],
        NAME: [encoded(name)],
        ID: [secrets.token_hex(16)],
    }


def what(given: Mapping[str, Sequence[str]]) -> str:
    """What a session with these parameters carries, in words on one line."""
    try:
        path = decoded(given[PATH][0])
        direction = TransferDirection(given[DIRECTION][0])
    except (KeyError, IndexError, ValueError):
        return "A file"
    shown = "".join(each if each.isprintable() else "�" for each in path)
    return f"{direction.label} {'to' if direction == TransferDirection.UPLOAD else 'of'} {shown}"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def decoded(text: str) -> str:
    """Raises ValueError. Bytes that are no UTF-8 are shown as such, and never go back to a node."""
    try:
        return base64.b64decode(text, validate=True).decode(errors="replace").replace("\0", "�")
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _is_sendable(text: str, longest: int) -> bool:
    try:
        return "\0" not in text and len(text.encode()) <= longest
    except UnicodeEncodeError:  # half a surrogate pair
        return False
