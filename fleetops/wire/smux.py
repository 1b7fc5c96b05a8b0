"""smux, version 1: several TCP connections in the one byte stream of a port session.

The stream runs inside OUTPUT payloads, whose borders mean nothing to it. A frame, integers little-endian, by byte
offset: version 0 (uint8, 1), command 1 (uint8), length of data 2 (uint16), stream id 4 (uint32), data 8. The client's
ids are 3, 5, 7 ...; the agent opens none. A side that ends a stream sends FIN, and the other answers with its own.

Source: xtaci/smux, as session-manager-plugin (src/sessionmanagerplugin/session/portsession) and amazon-ssm-agent
(agent/session/plugins/port) use it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError

FIRST_STREAM: Final = 3  # the client's first id; each next one is two higher
MAX_DATA: Final = 32_768  # bytes in a frame that we write, as both real programs do; a reader takes all that fits

_VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBHI")


class Command(IntEnum):
    """What a frame says. Only PSH has data."""

    SYN = 0  # a stream begins
    FIN = 1  # a stream ends
    PSH = 2  # data
    NOP = 3  # a sign of life, of stream 0


@dataclass(frozen=True, slots=True)
class SmuxFrame:
    """One frame, read or to be written."""

    command: Command
    stream_id: int
    data: bytes = b""

    def serialize(self) -> bytes:
        """Raises LocalProtocolError for data outside PSH, more than 65,535 bytes of it, or an id that does not fit."""
        if self.data and self.command is not Command.PSH:
            raise LocalProtocolError(f"a {self.command.name} holds no data")
        try:
            return _HEADER.pack(_VERSION, self.command, len(self.data), self.stream_id) + self.data
        except struct.error as error:
            raise LocalProtocolError(f"a number does not fit its field: {error}") from None


def push(stream_id: int, data: bytes) -> list[bytes]:
    """Cut data of one stream into frames of at most MAX_DATA; none for no data."""
    return [
        SmuxFrame(Command.PSH, stream_id, data[start : start + MAX_DATA]).serialize()
        for start in range(0, len(data), MAX_DATA)
    ]


class SmuxReader:
    """Finds the frames in a stream of bytes. It keeps less than one frame (65,543 bytes) between two calls."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[SmuxFrame]:
        """Take in bytes and return the frames that they complete, in order.

        Raises RemoteProtocolError for another version, an unknown command, or data where none may be; the stream cannot
        be read on after that.
        """
        stream = self._rest + data if self._rest else data
        frames = []
        start = 0
        while len(stream) - start >= _HEADER.size:
            version, number, length, stream_id = _HEADER.unpack_from(stream, start)
            if version != _VERSION:
                raise RemoteProtocolError(f"smux version {version}, not {_VERSION}")
            if number > Command.NOP or (length and number != Command.PSH):
                raise RemoteProtocolError(f"smux command {number} with {length} bytes of data")
            end = start + _HEADER.size + length
            if end > len(stream):
                break
            frames.append(SmuxFrame(Command(number), stream_id, stream[start + _HEADER.size : end]))
            start = end
        self._rest = stream[start:]
        return frames
