"""The binary message that follows the opener on every channel: its layout, its checks, its names.

The agent calls it AgentMessage, the plugin ClientMessage; one websocket message holds exactly one.
Source: amazon-ssm-agent, agent/session/contracts/agentmessage.go and model.go; session-manager-plugin,
src/message/messageparser.go and clientmessage.go.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from .errors import LocalProtocolError, RemoteProtocolError

HEADER_LENGTH: Final = (
    116  # bytes before the payload length; the header says this number, and only this one is accepted
)
PAYLOAD_OFFSET: Final = 120  # HEADER_LENGTH and the four bytes of the payload length

# The largest honest message is an agent_job_reply: its content is at most 120,000 bytes, and becomes a string inside
# JSON, where each quote and backslash takes two bytes. Stream data is 1,024 bytes (the real programs) or 32 KiB (ours).
MAX_FRAME: Final = 256 * 1024  # bytes

MAX_PAYLOAD: Final = MAX_FRAME - PAYLOAD_OFFSET  # bytes

SYN: Final = 1  # flag: the first message of a stream. No receiver looks at the flags
FIN: Final = 2  # flag: the last message; an acknowledge and a session state carry both

_SCHEMA_VERSION: Final = 1
_NO_UUID: Final = UUID(int=0)

# header length, type, schema version, created, sequence, flags, id (halves swapped), digest, payload type and length
_HEADER: Final = struct.Struct(">I32sIQqQ16s32sII")


class MessageType:
    """The names that a frame can bear; the comment says who sends it to whom."""

    INPUT_STREAM_DATA: Final = "input_stream_data"  # data channel, client to agent
    OUTPUT_STREAM_DATA: Final = "output_stream_data"  # data channel, agent to client
    ACKNOWLEDGE: Final = "acknowledge"  # data channel, both ways
    CHANNEL_CLOSED: Final = "channel_closed"  # both channels, gateway to either end
    PAUSE_PUBLICATION: Final = "pause_publication"  # data channel, gateway to either end
    START_PUBLICATION: Final = "start_publication"  # data channel, gateway to either end
    AGENT_SESSION_STATE: Final = "agent_session_state"  # data channel, agent to gateway
    INTERACTIVE_SHELL: Final = "interactive_shell"  # control channel, gateway to agent; for every type of session
    AGENT_TASK_COMPLETE: Final = "agent_task_complete"  # control channel, agent to gateway
    AGENT_TASK_ACKNOWLEDGE: Final = "agent_task_acknowledge"  # control channel, gateway to agent
    AGENT_JOB: Final = "agent_job"  # control channel, gateway to agent
    AGENT_JOB_ACK: Final = "agent_job_ack"  # control channel, agent to gateway
    AGENT_JOB_REPLY: Final = "agent_job_reply"  # control channel, agent to gateway
    AGENT_JOB_REPLY_ACK: Final = "agent_job_reply_ack"  # control channel, gateway to agent
    AGENT_TELEMETRY: Final = "agent_telemetry"  # control channel, agent to gateway; nothing is expected back
    AGENT_UPDATE_RESULT: Final = "agent_update_result"  # control channel, agent to gateway; nothing is expected back


class PayloadType(IntEnum):
    """What stream data holds. Other messages carry 0."""

    NONE = 0
    OUTPUT = 1  # bytes of the stream, both ways
    ERROR = 2  # defined by the real programs, used by neither
    SIZE = 3
    PARAMETER = 4  # defined by the real programs, used by neither
    HANDSHAKE_REQUEST = 5
    HANDSHAKE_RESPONSE = 6
    HANDSHAKE_COMPLETE = 7
    ENC_CHALLENGE_REQUEST = 8
    ENC_CHALLENGE_RESPONSE = 9
    FLAG = 10  # uint32, big-endian: see Flag
    STDERR = 11
    EXIT_CODE = 12  # ASCII, "EXIT_CODE: 3"


class Flag(IntEnum):
    """The values of a FLAG payload."""

    DISCONNECT_TO_PORT = 1
    TERMINATE_SESSION = 2
    CONNECT_TO_PORT_ERROR = 3


_NAMES: Final = tuple(name for key, name in vars(MessageType).items() if key.isupper())
_NAME_ON_WIRE: Final = {name: name.encode().ljust(32) for name in _NAMES}
_NAME_BY_WIRE: Final = {padded: name for name, padded in _NAME_ON_WIRE.items()}

# The plugin skips its checks of digest and date for these two, so a gateway may leave them empty (clientmessage.go).
_UNCHECKED: Final = frozenset({MessageType.PAUSE_PUBLICATION, MessageType.START_PUBLICATION})


@dataclass(frozen=True, slots=True)
class Message:
    """One frame, read. `created_ms`: milliseconds since 1970 UTC; `payload_type` may be a number we do not know."""

    message_type: str
    sequence: int
    payload: bytes
    payload_type: int
    message_id: UUID
    created_ms: int
    flags: int = 0
    schema_version: int = 1


class Head(NamedTuple):
    """What a relay has to know of a frame. A tuple, since the relay makes one for each frame that passes."""

    message_type: str
    payload_type: int
    sequence: int
    payload_length: int  # bytes


# A checked header: type, schema version, created, sequence, flags, id as on the wire, payload type. A bare tuple, since
# one is made for each frame and a named one costs as much as the digest of a keystroke.
Fields: TypeAlias = tuple[str, int, int, int, int, bytes, int]


def milliseconds(now: float) -> int:
    """Turn seconds since 1970 UTC into the date of a message. Never 0, which receivers drop in silence."""
    return max(1, int(now * 1000))


def to_wire_id(message_id: UUID) -> bytes:
    """Return the 16 bytes of a UUID as a frame holds them: the last eight first."""
    octets = message_id.bytes
    return octets[8:] + octets[:8]


def from_wire_id(wire_id: bytes) -> UUID:
    """The inverse of to_wire_id."""
    return UUID(bytes=wire_id[8:] + wire_id[:8])


def wire_id_text(wire_id: bytes) -> str:
    """Return the usual text of a UUID (36 characters, lower case) without making one; acknowledges need it."""
    digits = wire_id.hex()
    return f"{digits[16:24]}-{digits[24:28]}-{digits[28:]}-{digits[:4]}-{digits[4:16]}"


def serialize(message: Message) -> bytes:
    """Write one frame.

    Raises LocalProtocolError for what the serializers of the real programs refuse (an empty payload, a type that is
    empty or longer than 32 bytes, no id), for what every receiver drops (created 0), and for what no field can hold.
    Source: amazon-ssm-agent, agent/session/contracts/agentmessage.go.
    """
    if not message.payload:
        raise LocalProtocolError("a message needs a payload: the serializers of the real programs refuse an empty one")
    if message.created_ms < 1:
        raise LocalProtocolError("a message needs a date of creation: receivers drop one that has 0")
    if message.message_id == _NO_UUID:
        raise LocalProtocolError("a message needs an id")
    name = message.message_type.encode()
    if not 0 < len(name) <= 32 or name.strip(b"\0").strip() != name:
        raise LocalProtocolError(f"a message type has 1 to 32 bytes and no padding: {message.message_type!r}")
    if len(message.payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"{len(message.payload)} bytes of payload are over the limit of {MAX_PAYLOAD}")
    try:
        header = _HEADER.pack(
            HEADER_LENGTH,
            name.ljust(32),
            message.schema_version,
            message.created_ms,
            message.sequence,
            message.flags,
            to_wire_id(message.message_id),
            sha256(message.payload).digest(),
            message.payload_type,
            len(message.payload),
        )
    except struct.error as error:
        raise LocalProtocolError(f"a number does not fit its field: {error}") from None
    return header + message.payload


def pack(
    message_type: str, created_ms: int, sequence: int, flags: int, wire_id: bytes, payload_type: int, payload: bytes
) -> bytes:
    """Write a frame without the checks of serialize; the channels use it, which know what they send.

    `message_type` is one of MessageType, `payload` not empty and at most MAX_PAYLOAD bytes.
    """
    return (
        _HEADER.pack(
            HEADER_LENGTH,
            _NAME_ON_WIRE[message_type],
            _SCHEMA_VERSION,
            created_ms,
            sequence,
            flags,
            wire_id,
            sha256(payload).digest(),
            payload_type,
            len(payload),
        )
        + payload
    )


def check(frame: bytes, payload: bytes | memoryview) -> Fields:
    """Check a frame, whose bytes from PAYLOAD_OFFSET on are `payload`, and return its header. See parse for the errors.

    The caller cuts the payload, so that one cut serves the digest and the use of it.
    """
    size = len(frame)
    if size < PAYLOAD_OFFSET:
        raise RemoteProtocolError(f"a frame of {size} bytes is cut short: {PAYLOAD_OFFSET} are the least")
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
    (
        header_length,
        name,
        schema_version,
        created_ms,
        sequence,
        flags,
        wire_id,
        digest,
        payload_type,
        payload_length,
    ) = _HEADER.unpack_from(frame)
    if header_length != HEADER_LENGTH:
        raise RemoteProtocolError(f"the header length is {header_length}, not {HEADER_LENGTH}")
    if payload_length != size - PAYLOAD_OFFSET:
        raise RemoteProtocolError(f"the payload length says {payload_length}, {size - PAYLOAD_OFFSET} bytes are there")
    message_type = _NAME_BY_WIRE.get(name) or _read_name(name)
    if message_type not in _UNCHECKED:
        if created_ms == 0:
            raise RemoteProtocolError("the date of creation is missing")
        # Nobody checks the digest of an empty payload, and Go's receivers accept such a message.
        if payload_length and sha256(payload).digest() != digest:
            raise RemoteProtocolError("the digest does not match the payload")
    return message_type, schema_version, created_ms, sequence, flags, wire_id, payload_type


def parse(frame: bytes) -> Message:
    """Read one binary websocket frame.

    Big-endian; byte offsets: header length 0 (uint32: where the payload length stands, 116), message type 4
    (32 bytes of UTF-8, padded with spaces or zeros), schema version 36 (uint32), created 40 (uint64, milliseconds
    since 1970 UTC), sequence number 48 (int64), flags 56 (uint64), message id 64 (UUID, its low eight bytes first),
    SHA-256 of the payload 80, payload type 112 (uint32), payload length 116 (uint32), payload 120.

    Raises RemoteProtocolError if the frame is cut short or over MAX_FRAME, if its header length is not 116, its payload
    length not what is there, its type empty or not UTF-8, its date 0, or its digest wrong. Two leniences, both the
    plugin's: date and digest of pause_publication and start_publication, and the digest of an empty payload.
    Source: session-manager-plugin, src/message/clientmessage.go and messageparser.go.
    """
    payload = frame[PAYLOAD_OFFSET:]
    message_type, schema_version, created_ms, sequence, flags, wire_id, payload_type = check(frame, payload)
    return Message(
        message_type, sequence, payload, payload_type, from_wire_id(wire_id), created_ms, flags, schema_version
    )


def peek(frame: bytes) -> Head:
    """Check a frame as parse does, and copy nothing: for a relay that passes it on as it is.

    Raises RemoteProtocolError as parse does.
    """
    message_type, _, _, sequence, _, _, payload_type = check(frame, memoryview(frame)[PAYLOAD_OFFSET:])
    return Head(message_type, payload_type, sequence, len(frame) - PAYLOAD_OFFSET)


def _read_name(name: bytes) -> str:
    """Trim zeros at both ends, then white space, as the real parsers do."""
    try:
        message_type = name.strip(b"\0").decode().strip()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the message type is not UTF-8") from None
    if not message_type:
        raise RemoteProtocolError("the message type is missing")
    return message_type
