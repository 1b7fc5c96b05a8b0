"""Websocket frames of whole binary messages below 64 KiB, read and written in one loop.

They are nearly all that passes between our processes. The `websockets` library takes a generator, two objects and an
enumeration for each, which is more than all the rest that a keystroke needs in a relay; whatever is not of this plain
kind is left to it.
Source: RFC 6455, section 5.2.
"""

import os
from collections.abc import Iterable
from typing import Final

from websockets.frames import apply_mask
from websockets.protocol import OPEN, Protocol

_BINARY: Final = 0x82  # FIN, and the opcode of a binary message
_MASKED: Final = 0x80
_TWO_BYTES: Final = 126  # in place of a length: two bytes of it follow; above it: eight


def is_between_messages(protocol: Protocol) -> bool:
    """Whether `protocol` is open and has nothing of a frame or a message in hand, so that `split` may go before it."""
    return protocol.state is OPEN and protocol.current_size is None and not protocol.reader.buffer


def split(data: bytes, *, masked: bool) -> tuple[list[bytes], int]:
    """Read the plain messages at the front of `data`; returns them, and where the rest begins."""
    messages: list[bytes] = []
    position, size = 0, len(data)
    bit, mask_size = (_MASKED, 4) if masked else (0, 0)
    while position + 2 <= size and data[position] == _BINARY:
        length = data[position + 1] ^ bit
        start = position + 2
        if length >= _TWO_BYTES:
            if length != _TWO_BYTES or start + 2 > size:
                break
            length = data[start] << 8 | data[start + 1]
            start += 2
        begin = start + mask_size
        end = begin + length
        if end > size:
            break
        payload = data[begin:end]
        messages.append(apply_mask(payload, data[start:begin]) if masked else payload)
        position = end
    return messages, position


def join(messages: Iterable[bytes], *, masked: bool) -> bytes:
    """Write binary messages, of any size, as they go over the wire."""
    parts: list[bytes] = []
    bit = _MASKED if masked else 0
    for message in messages:
        size = len(message)
        if size < _TWO_BYTES:
            head = bytes((_BINARY, bit | size))
        elif size < 65536:
            head = bytes((_BINARY, bit | _TWO_BYTES, size >> 8, size & 0xFF))
        else:
            head = bytes((_BINARY, bit | _TWO_BYTES + 1)) + size.to_bytes(8, "big")
        parts.append(head)
        if masked:
            mask = os.urandom(4)
            parts += (mask, apply_mask(message, mask))
        else:
            parts.append(message)
    return b"".join(parts)
