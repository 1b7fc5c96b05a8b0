"""What the tests of the wire share: ids that count, frames by hand, and the golden vectors."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from fleetops.wire import DataChannel, Message, MessageType, PayloadType, Role, parse, payloads, serialize

NOW = 1_700_000_000.0  # seconds since 1970 UTC
SESSION = "user-0a1b2c3d4e5f60718"


def vectors(name: str) -> Any:
    return json.loads((Path(__file__).parent / "vectors" / name).read_text())


def ids(start: int = 1):
    """Return a source of UUIDs that never repeats and never surprises."""
    numbers = count(start)
    return lambda: UUID(int=next(numbers))


def channel(role: Role, **options: Any) -> DataChannel:
    return DataChannel(role, new_id=ids(), session_id=SESSION, **options)


def opened_client(**options: Any) -> DataChannel:
    """A client that has seen the agent's first output, and fetched all that came of it."""
    client = channel(Role.CLIENT, **options)
    client.receive(output(0, b"$ "), now=NOW)
    client.events()
    client.data_to_send()
    return client


def frame(message_type: str, payload: bytes = payloads.EMPTY, sequence: int = 0, payload_type: int = 0) -> bytes:
    message_id = UUID(int=0xABC << 64 | sequence % 2**64)
    return serialize(Message(message_type, sequence, payload, payload_type, message_id, int(NOW * 1000)))


def output(sequence: int, data: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return frame(MessageType.OUTPUT_STREAM_DATA, data, sequence, payload_type)


def typed(sequence: int, data: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return frame(MessageType.INPUT_STREAM_DATA, data, sequence, payload_type)


def acknowledged(sequence: int) -> bytes:
    payload = payloads.acknowledge("output_stream_data", str(UUID(int=7)), sequence)
    return frame(MessageType.ACKNOWLEDGE, payload)


def acknowledges(frames: list[bytes]) -> list[int]:
    """The numbers that the acknowledges among the frames name."""
    messages = [parse(item) for item in frames]
    return [
        payloads.acknowledged_sequence(message.payload)
        for message in messages
        if message.message_type == MessageType.ACKNOWLEDGE
    ]


def stream(frames: list[bytes]) -> list[tuple[int, bytes]]:
    """Number and payload of each stream message among the frames."""
    messages = [parse(item) for item in frames]
    return [
        (message.sequence, message.payload) for message in messages if message.message_type.endswith("_stream_data")
    ]
