"""What the owner of a session has to know of its client to go on after the owner before it was killed.

A file beside the journal, of one page, written in place before anything that it speaks of is sent: a process that is
killed leaves the old or the new one, and the checksum tells one that is neither.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

import orjson

NAME: Final = "client"
_PAGE: Final = 4096  # bytes; a write within one page is whole, or is not
_MOST_PLACES: Final = 24


@dataclass(frozen=True, slots=True)
class Place:
    """A number of our stream towards the client, and where in the journal its message comes from.

    `payload_type`: of the output there. `notice`: the message of this number is this text, and the next comes from
    `offset`: the client skipped what it had not seen.
    """

    sequence: int
    offset: int
    payload_type: int = 1
    notice: str = ""


@dataclass(slots=True)
class Kept:
    """The client of a session: who it is, and how far both streams have come."""

    client_id: str = ""
    is_ours: bool = False  # it takes more than 1,024 bytes in a message
    expected: int = 0  # the number of the client's next message
    through: int = -1  # of a forward: all of the client's messages through this one have reached the agent
    places: list[Place] = field(default_factory=list)  # the first: from where on it may have to be sent again
    to_instance: int = 0  # bytes of a forward, and connections
    from_instance: int = 0
    connections: int = 0

    def pack(self) -> bytes:
        body = orjson.dumps(
            {
                "client": self.client_id,
                "ours": self.is_ours,
                "expected": self.expected,
                "through": self.through,
                "places": [
                    [place.sequence, place.offset, place.payload_type, place.notice]
                    for place in self.places[:_MOST_PLACES]
                ],
                "counts": [self.to_instance, self.from_instance, self.connections],
            }
        )
        return b"%08x" % crc32(body) + body

    @classmethod
    def unpack(cls, data: bytes) -> Kept | None:
        """None for what is no such page."""
        data = data.rstrip(b"\0")
        if len(data) < 8 or data[:8] != b"%08x" % crc32(data[8:]):
            return None
        found = orjson.loads(data[8:])
        to_instance, from_instance, connections = found["counts"]
        return cls(
            found["client"],
            found["ours"],
            found["expected"],
            found["through"],
            [Place(*place) for place in found["places"]],
            to_instance,
            from_instance,
            connections,
        )


class KeptFile:
    """The file of one session; its owner alone writes it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def read(self) -> Kept:
        """What the owner before wrote; nothing where there was none."""
        try:
            return Kept.unpack(self._path.read_bytes()) or Kept()
        except FileNotFoundError:
            return Kept()

    def write(self, kept: Kept) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, kept.pack().ljust(_PAGE, b"\0"), 0)
        finally:
            os.close(descriptor)
