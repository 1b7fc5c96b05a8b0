"""The events of a session, from its recording and its commands, and the message that each of them is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.conf import settings

from fleetops.aws.clients import AccountAccess, role_session_name

from ..commandlog.reader import masked
from ..exit_codes import plain
from ..journal import Record
from ..models import Command, RecordingChunk, TerminalSession
from ..recording import Damaged, chunk_records, open_chunk
from .batches import MESSAGE_BYTES
from .lines import Event, Reading

# Characters of a command; as JSON one has six bytes at most, and an event 256 KiB.
TEXT_LENGTH: Final = 32 * 1024
SHOWN_LENGTH: Final = 8 * 1024


class NotHere(Exception):
    """A chunk lies in the spool of another host still; it comes into the store within seconds."""


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it is put."""

    event: Event
    text: bytes

    @property
    def at_ms(self) -> int:
        return self.event.at_ms

    @property
    def message_bytes(self) -> int:
        return len(self.text)


class Teller:
    """Makes the messages of one session: the fields of the agent's own log events, and ours in `fleetops`.

    Source of the agent's: amazon-ssm-agent, agentlogstocloudwatch/cloudwatchlogspublisher, cloudwatchlogsservice.go.
    """

    def __init__(self, session: TerminalSession, access: AccountAccess) -> None:
        role = session.role_arn or access.role_arn
        arn = ""
        if role:
            name = role_session_name(session.user_name)
            partition, account, role_name = role.split(":")[1], role.split(":")[4], role.rpartition("/")[2]
            arn = f"arn:{partition}:sts::{account}:assumed-role/{role_name}/{name}"
        self._head: dict[str, Any] = {
            "eventVersion": "1.0",
            "eventTime": "",
            "awsRegion": session.region,
            "target": {"id": session.instance_id},
            "userIdentity": {"arn": arn},
            "runAsUser": session.run_as,
            "sessionId": session.ssm_session_id,
        }
        self._ours = {"session": str(session.pk), "user": session.user_name}

    def message(self, event: Event) -> Message:
        return Message(event, self.text(event))

    def text(self, event: Event, *, is_late: bool = False) -> bytes:
        """JSON; `is_late`: CloudWatch Logs has it under a later moment than its own, which it bears inside."""
        ours: dict[str, Any] = {"event": event.kind, "n": event.number, **self._ours}
        if is_late:
            ours["isLate"] = True
        at = datetime.fromtimestamp(event.at_us / 1e6, UTC)
        time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        made = orjson.dumps(self._head | {"eventTime": time} | event.body | {"fleetops": ours})
        if len(made) <= MESSAGE_BYTES + 64:
            return made
        # Nothing that we make is so large; if ever it is, an event that says so is better than a stream that stands.
        return orjson.dumps(self._head | {"eventTime": time, "fleetops": ours | {"isLeftOut": True}})


def told(text: str) -> tuple[str, int] | None:
    """Kind and number of one of our events, as read back; None for what is not ours."""
    try:
        ours = orjson.loads(text)["fleetops"]
        return str(ours["event"]), int(ours["n"])
    except (ValueError, KeyError, TypeError):
        return None


# The recording's


def of_recording(session: TerminalSession, reading: Reading) -> Iterator[Event]:
    """The events of the recording from where `reading` begins: start, what was shown, notes, and the end once sealed.

    Raises NotHere where the next chunk cannot be read from this host yet, Damaged where it is not what was sealed.
    """
    is_last = session.sealed_at is not None
    if reading.number == 0:
        reading.number = 1
        yield Event(1, "start", _us(session.created_at), {"start": _start(session)}, reading.place)
    last_us = 0
    for event in reading.events(_unpacked(session, reading.place.chunk), is_last=is_last):
        last_us = event.at_us
        yield event
    if is_last:
        reading.number += 1
        ended_us = max(last_us, _us(session.ended_at or session.created_at))
        yield Event(reading.number, "end", ended_us, {"end": _end(session)}, reading.rest_behind())


def _unpacked(session: TerminalSession, first: int) -> Iterator[tuple[int, Iterator[Record]]]:
    for chunk in session.chunks.filter(number__gte=first).order_by("number"):
        yield chunk.number, _records(chunk)


def _records(chunk: RecordingChunk) -> Iterator[Record]:
    try:
        file = open_chunk(chunk)
    except FileNotFoundError as error:
        if chunk.sent_at is None:
            raise NotHere(str(chunk)) from None
        raise Damaged(f"The bytes of chunk {chunk.number} of this recording are missing.") from error
    with file:
        if hashlib.file_digest(file, "sha256").hexdigest() != chunk.sha256:
            raise Damaged(f"The bytes of chunk {chunk.number} of this recording are not those that were sealed.")
        file.seek(0)
        try:
            yield from chunk_records(file)
        except ValueError as error:
            raise Damaged(f"Chunk {chunk.number} of this recording cannot be read: {error}.") from error


def _start(session: TerminalSession) -> dict[str, Any]:
    return {
        "kind": session.kind,
        "door": session.door,
        "reason": session.reason,
        "sourceAddress": session.source_address,
        "instanceName": session.instance_name,
        "accountId": session.account_id,
        "document": session.document,
        "parameters": _parameters(session),
    }


def _parameters(session: TerminalSession) -> dict[str, list[str]]:
    """Of the document: a single command is one of them. Without what looks like a secret, and within TEXT_LENGTH."""
    left = TEXT_LENGTH
    told: dict[str, list[str]] = {}
    for name, values in session.parameters.items():
        told[name] = []
        for value in values:
            text = masked(plain(value), settings.COMMAND_MASKS)[:left]
            told[name].append(text)
            left -= len(text)
    return told


def _end(session: TerminalSession) -> dict[str, Any]:
    return {
        "state": session.state,
        "reason": session.end_reason,
        "outputBytes": session.output_bytes,
        "chainHead": session.chain_head,
    }


# Commands


def of_commands(session: TerminalSession, after: int, most: int) -> list[Event]:
    """The starts of commands with numbers above `after`."""
    rows = Command.objects.filter(session=session, number__gt=after).order_by("number")[:most]
    return [Event(row.number, "command", _us(row.started_at), {"command": _command(row)}) for row in rows]


def of_ends(session: TerminalSession, numbers: Collection[int]) -> list[Event]:
    """The ends of commands of these numbers, of those that have ended."""
    rows = Command.objects.filter(session=session, number__in=list(numbers), ended_at__isnull=False).order_by("number")
    return [Event(row.number, "ended", _us(row.ended_at), {"command": _ended(row)}) for row in rows if row.ended_at]


def _command(row: Command) -> dict[str, Any]:
    about: dict[str, Any] = {
        "number": row.number,
        "text": row.text[:TEXT_LENGTH],
        "source": row.source,
        "cwd": row.cwd,
        "osUser": row.os_user,
        "seconds": round(row.seconds, 3),
    }
    if row.is_cut or len(row.text) > TEXT_LENGTH:
        about["isCut"] = True
    if row.is_masked:
        about["isMasked"] = True
    if row.is_disputed:
        about |= {"isDisputed": True, "dispute": row.dispute, "shownText": row.shown_text[:SHOWN_LENGTH]}
    elif row.dispute:
        about["unsure"] = row.dispute
    return about


def _ended(row: Command) -> dict[str, Any]:
    lasted = row.lasted
    return {
        "number": row.number,
        "text": row.text[:256],
        "exitCode": row.exit_code,
        "lastedSeconds": None if lasted is None else round(lasted.total_seconds(), 3),
    }


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
