"""One end of a control channel, the gateway's or the agent's: sessions begin and end here, and commands run.

Driven as a data channel is. There is no order and no repetition but for agent_task_complete; what is acknowledged is
acknowledged at once, in data_to_send behind the event, so an owner may write the event down first.

Source: amazon-ssm-agent, agent/session/controlchannel/controlchannel.go and
agent/messageservice/interactor/mgsinteractor/mgsinteractor.go, sendreply.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final
from uuid import UUID

from . import events, payloads
from .errors import LocalProtocolError, RemoteProtocolError
from .events import ControlEvent
from .frames import MAX_PAYLOAD, Message, MessageType, milliseconds, pack, parse, to_wire_id

COMPLETE_TRIES: Final = 3  # how often the end of a session is told. sendreply.go
COMPLETE_SECONDS: Final = 1.0  # how long each of them waits for its acknowledge. sendreply.go

# An agent runs at most 1,001 sessions (Mgs.SessionWorkersLimit and its buffer), and a failed one is told twice.
MAX_TASKS: Final = 2_002

# Facts that the owner has not fetched yet; it does so after each frame, and one frame makes one. More are dropped.
MAX_CONTROL_EVENTS: Final = 1_000


class ControlRole(Enum):
    """Which end of the control channel this is."""

    GATEWAY = "gateway"
    AGENT = "agent"


class _Telling:
    """An agent_task_complete that is not acknowledged."""

    __slots__ = ("due", "task", "tries")

    def __init__(self, task: payloads.AgentTaskComplete, due: float) -> None:
        self.task = task
        self.tries = 1
        self.due = due  # when to tell it again, or to give up


class ControlChannel:
    """One end of a control channel. `now` and `new_id` are as for a DataChannel."""

    def __init__(self, role: ControlRole, *, new_id: Callable[[], UUID]) -> None:
        self.role: Final = role
        self._new_id = new_id
        self._outbox: list[bytes] = []
        self._events: list[ControlEvent] = []
        self._telling: dict[UUID, _Telling] = {}
        self._read = self._read_as_gateway if role is ControlRole.GATEWAY else self._read_as_agent

    # What a gateway does

    def start_session(self, task: payloads.SessionTask, *, now: float) -> UUID:
        """Have the agent start a session, of any type; returns the message's id.

        Nothing answers but the agent's data channel, or its absence: time it. Send this once, since a repetition is
        taken for another session.
        """
        self._demand(ControlRole.GATEWAY)
        return self._send(MessageType.INTERACTIVE_SHELL, task.serialize(), now)

    def terminate_session(self, session_id: str, *, instance_id: str = "", now: float) -> UUID:
        """Have the agent end a session: it kills the process and answers with agent_task_complete."""
        self._demand(ControlRole.GATEWAY)
        notice = payloads.ChannelClosed(
            str(self._new_id()), payloads.iso_time(milliseconds(now)), session_id, instance_id
        )
        return self._send(MessageType.CHANNEL_CLOSED, notice.serialize(), now)

    def send_job(self, job: payloads.AgentJob, *, now: float) -> UUID:
        """Have the agent run or cancel a command; returns the message's id.

        Repeat it until JobAcknowledged comes: an agent that has just started drops it in silence, and one that has it
        already says so.
        """
        self._demand(ControlRole.GATEWAY)
        return self._send(MessageType.AGENT_JOB, job.serialize(), now)

    # What an agent does

    def complete_task(self, task: payloads.AgentTaskComplete, *, now: float) -> UUID:
        """Tell that a session has ended, up to three times, one second apart, with one id; returns that id.

        Raises LocalProtocolError if 2,002 of them are not acknowledged.
        """
        self._demand(ControlRole.AGENT)
        if len(self._telling) >= MAX_TASKS:
            raise LocalProtocolError(f"{MAX_TASKS} ends of sessions are not acknowledged yet")
        first = replace(task, retry_number=1)
        message_id = self._send(MessageType.AGENT_TASK_COMPLETE, first.serialize(), now)
        self._telling[message_id] = _Telling(first, now + COMPLETE_SECONDS)
        return message_id

    def acknowledge_job(
        self,
        received: events.JobReceived,
        *,
        now: float,
        status_code: str = "200",
        error_message: str = "Successful",
    ) -> UUID:
        """Take a job, or refuse it by a status code of payloads.AgentJobAck."""
        self._demand(ControlRole.AGENT)
        created_date = payloads.iso_time(received.created_ms)
        ack = payloads.AgentJobAck(received.job.job_id, received.message_id, created_date, status_code, error_message)
        return self._send(MessageType.AGENT_JOB_ACK, ack.serialize(), now)

    def reply_job(self, reply: payloads.AgentJobReply, *, now: float, message_id: UUID | None = None) -> UUID:
        """Tell how a command fares; returns the message's id. Give that id again to repeat a reply."""
        self._demand(ControlRole.AGENT)
        return self._send(MessageType.AGENT_JOB_REPLY, reply.serialize(), now, message_id)

    # What the owner fetches

    def data_to_send(self) -> list[bytes]:
        """Return the frames queued since the last call, in order. Each is one binary websocket message."""
        frames = self._outbox
        self._outbox = []
        return frames

    def events(self) -> list[ControlEvent]:
        """Return what has happened since the last call, in order. While 1,000 wait here, what arrives is dropped."""
        happened = self._events
        self._events = []
        return happened

    def next_timeout(self) -> float | None:
        """Return when to call handle_timeout, on the scale of `now`; None if nothing waits."""
        return min((telling.due for telling in self._telling.values()), default=None)

    def handle_timeout(self, *, now: float) -> None:
        """Tell again what was not acknowledged, or give up. Safe to call at any moment."""
        for message_id, telling in list(self._telling.items()):
            if now < telling.due:
                continue
            if telling.tries == COMPLETE_TRIES:
                del self._telling[message_id]
                self._events.append(events.TaskGaveUp(telling.task.task_id))
                continue
            telling.tries += 1
            telling.due = now + COMPLETE_SECONDS
            again = replace(telling.task, retry_number=telling.tries)
            self._send(MessageType.AGENT_TASK_COMPLETE, again.serialize(), now, message_id)

    def receive(self, frame: bytes, *, now: float) -> None:
        """Take in one websocket message; raises nothing.

        What cannot be read, or has no meaning at this end, becomes MessageIgnored: one bad message must not cost an
        instance its control channel, and the real agent goes on too.
        """
        if len(self._events) >= MAX_CONTROL_EVENTS:
            return
        try:
            message = parse(frame)
            event = self._read(message, now)
        except RemoteProtocolError as error:
            event = events.MessageIgnored(str(error))
        if event is not None:
            self._events.append(event)

    def _read_as_gateway(self, message: Message, now: float) -> ControlEvent | None:
        match message.message_type:
            case MessageType.AGENT_TASK_COMPLETE:
                task = payloads.AgentTaskComplete.parse(message.payload)
                known = payloads.AgentTaskAcknowledge(message.message_id, task.task_id)
                self._send(MessageType.AGENT_TASK_ACKNOWLEDGE, known.serialize(), now)
                return events.TaskCompleted(task, message.message_id)
            case MessageType.AGENT_JOB_ACK:
                return events.JobAcknowledged(payloads.AgentJobAck.parse(message.payload))
            case MessageType.AGENT_JOB_REPLY:
                reply = payloads.AgentJobReply.parse(message.payload)
                ack = payloads.AgentJobReplyAck(reply.job_id, message.message_id)
                self._send(MessageType.AGENT_JOB_REPLY_ACK, ack.serialize(), now)
                return events.JobReplied(reply, message.message_id)
            case MessageType.AGENT_TELEMETRY | MessageType.AGENT_UPDATE_RESULT:
                return None
        raise RemoteProtocolError(f"{message.message_type} means nothing to a gateway")

    def _read_as_agent(self, message: Message, now: float) -> ControlEvent | None:
        match message.message_type:
            case MessageType.INTERACTIVE_SHELL:
                return events.SessionRequested(payloads.SessionTask.parse(message.payload))
            case MessageType.CHANNEL_CLOSED:
                session_id = payloads.ChannelClosed.parse(message.payload).session_id
                if not session_id:
                    raise RemoteProtocolError("a termination names no session")
                return events.TerminationRequested(session_id)
            case MessageType.AGENT_TASK_ACKNOWLEDGE:
                known = payloads.AgentTaskAcknowledge.parse(message.payload)
                telling = self._telling.pop(known.message_id, None)
                return events.TaskAcknowledged(telling.task.task_id) if telling else None
            case MessageType.AGENT_JOB:
                job = payloads.AgentJob.parse(message.payload)
                return events.JobReceived(job, message.message_id, message.created_ms)
            case MessageType.AGENT_JOB_REPLY_ACK:
                ack = payloads.AgentJobReplyAck.parse(message.payload)
                return events.JobReplyAcknowledged(ack.job_id, ack.message_id)
        raise RemoteProtocolError(f"{message.message_type} means nothing to an agent")

    def _send(self, message_type: str, payload: bytes, now: float, message_id: UUID | None = None) -> UUID:
        if len(payload) > MAX_PAYLOAD:
            raise LocalProtocolError(f"{len(payload)} bytes of payload are over the limit of {MAX_PAYLOAD}")
        message_id = message_id or self._new_id()
        self._outbox.append(pack(message_type, milliseconds(now), 0, 0, to_wire_id(message_id), 0, payload))
        return message_id

    def _demand(self, role: ControlRole) -> None:
        if self.role is not role:
            raise LocalProtocolError(f"only the {role.value} does this")
