"""What has happened on a channel, as its caller learns it: past facts, in the order in which they came to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from .payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentTaskComplete,
    HandshakeRequest,
    HandshakeResponse,
    SessionTask,
)

# The data channel


@dataclass(frozen=True, slots=True)
class OutputReceived:
    """The agent sent bytes of the stream: OUTPUT, STDERR, or a type that we do not know. Client only."""

    data: bytes
    sequence: int
    payload_type: int


@dataclass(frozen=True, slots=True)
class InputReceived:
    """The client sent bytes of the stream. Agent only."""

    data: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class SizeReceived:
    """The client's terminal has this size, in characters. Agent only."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class FlagReceived:
    """The other end of a port session says something; see frames.Flag."""

    flag: int
    sequence: int = field(default=-1, compare=False)


@dataclass(frozen=True, slots=True)
class HandshakeRequested:
    """The agent wants an answer before anything else: respond_handshake, once. Client only."""

    request: HandshakeRequest


@dataclass(frozen=True, slots=True)
class HandshakeResponded:
    """The client has answered; look at the status of each action, then complete_handshake. Agent only."""

    response: HandshakeResponse


@dataclass(frozen=True, slots=True)
class ChallengeReceived:
    """The agent wants these bytes back, under our own key: answer_challenge. Client only."""

    challenge: bytes


@dataclass(frozen=True, slots=True)
class ChallengeMet:
    """The client holds the data key: complete_handshake. Agent only."""


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The stream is open. `customer_message` is for the user. Client only."""

    time_ns: int
    customer_message: str


@dataclass(frozen=True, slots=True)
class ExitCodeReceived:
    """The command ended with this code. Client only, and only where outputs are separated."""

    code: int
    sequence: int = field(default=-1, compare=False)


@dataclass(frozen=True, slots=True)
class AgentStateChanged:
    """The agent said "Connected" or "Terminating". A gateway keeps this to itself; a client seldom sees it."""

    state: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The other end has the stream message with this number."""

    sequence: int


@dataclass(frozen=True, slots=True)
class PublicationPaused:
    """The gateway wants no stream data for now. Agent only."""


@dataclass(frozen=True, slots=True)
class PublicationStarted:
    """The pause is over: by start_publication, by any input or acknowledge, or by a new transport. Agent only."""


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The gateway has ended the session. `output` is for the user, often empty."""

    output: str
    session_id: str


@dataclass(frozen=True, slots=True)
class RetransmissionGaveUp:
    """One message went unacknowledged for five minutes; nothing is repeated until it is, or until reconnected()."""


Event: TypeAlias = (
    OutputReceived
    | InputReceived
    | SizeReceived
    | FlagReceived
    | HandshakeRequested
    | HandshakeResponded
    | ChallengeReceived
    | ChallengeMet
    | HandshakeCompleted
    | ExitCodeReceived
    | AgentStateChanged
    | Acknowledged
    | PublicationPaused
    | PublicationStarted
    | ChannelClosed
    | RetransmissionGaveUp
)


# The control channel


@dataclass(frozen=True, slots=True)
class SessionRequested:
    """Start this session. Agent only."""

    task: SessionTask


@dataclass(frozen=True, slots=True)
class TerminationRequested:
    """End this session. Agent only."""

    session_id: str


@dataclass(frozen=True, slots=True)
class TaskCompleted:
    """A session has ended at the agent; already acknowledged. It can come more than once. Gateway only."""

    task: AgentTaskComplete
    message_id: UUID


@dataclass(frozen=True, slots=True)
class TaskAcknowledged:
    """The gateway knows of the end of a session. Agent only."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskGaveUp:
    """The end of a session was told three times and never acknowledged. Agent only."""

    task_id: str


@dataclass(frozen=True, slots=True)
class JobReceived:
    """Run or cancel a command; answer with acknowledge_job. Agent only."""

    job: AgentJob
    message_id: UUID
    created_ms: int  # milliseconds since 1970 UTC, for the acknowledgement


@dataclass(frozen=True, slots=True)
class JobAcknowledged:
    """The agent took a job, or says why not. Gateway only."""

    ack: AgentJobAck


@dataclass(frozen=True, slots=True)
class JobReplied:
    """How a command fares; already acknowledged. It can come more than once. Gateway only."""

    reply: AgentJobReply
    message_id: UUID


@dataclass(frozen=True, slots=True)
class JobReplyAcknowledged:
    """The gateway has a reply. Agent only."""

    job_id: str
    message_id: UUID


@dataclass(frozen=True, slots=True)
class MessageIgnored:
    """Something came that could not be read, or that has no meaning here. The channel goes on; write it in the log."""

    reason: str


ControlEvent: TypeAlias = (
    SessionRequested
    | TerminationRequested
    | TaskCompleted
    | TaskAcknowledged
    | TaskGaveUp
    | JobReceived
    | JobAcknowledged
    | JobReplied
    | JobReplyAcknowledged
    | MessageIgnored
)
