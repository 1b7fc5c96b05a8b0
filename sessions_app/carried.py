"""What commands and forwarded ports carry besides a terminal's bytes: handshakes, flags, an exit code, connections.

A command is answered to by the proxy itself, as a shell is; its client sees the handshake and the exit code where the
journal has them. A forwarded port is end to end: the client's messages go to the agent under the client's own numbers,
and each is acknowledged to the client once the agent has it. So nothing of it is lost or doubled when this process is
killed, and nothing of it has to be kept: its bytes lie in the journal until the client has them, never in a recording.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from fleetops.clock import steady
from fleetops.wire import (
    ExitCodeReceived,
    FlagReceived,
    HandshakeCompleted,
    HandshakeRequested,
    OutputReceived,
    PayloadType,
    RemoteProtocolError,
    State,
    payloads,
    smux,
)
from fleetops.wire.events import Event

from .exit_codes import ExitCode
from .frontdoor.kept import KeptFile
from .journal import FRAME, Framed, Journal, Passed
from .models import TerminalSession
from .states import Door, SessionKind

if TYPE_CHECKING:
    from .frontdoor.channel import ClientEnd
    from .proxy import Proxy

# Bytes of a forward in the journal that the client has not taken: then the agent is not read.
BEHIND_BYTES = 8 << 20
_HANDSHAKE_RECORDS = 16  # it is over within the first few of a journal
STREAM_ENDS = {
    SessionKind.SHELL: "The shell has ended.",
    SessionKind.COMMAND: "The command has ended.",
    SessionKind.FORWARD: "The forwarding has ended.",
    SessionKind.TRANSFER: "The transfer has ended.",
}


class Carried:
    """Of one session that is no shell, in the process that owns it."""

    def __init__(self, proxy: Proxy, journal: Journal) -> None:
        self._proxy = proxy
        self._journal = journal
        self.is_forward = proxy.session.kind == SessionKind.FORWARD
        # What ends within a moment would else be over before its client has come.
        self.waits_for_client = self.is_forward or proxy.session.door == Door.CLI
        self.file = KeptFile(journal.directory)
        self.kept = self.file.read()
        self.request: payloads.HandshakeRequest | None = None
        self._is_complete = False
        self._output_type = int(PayloadType.OUTPUT) if journal.is_new else -1
        self._frames = smux.SmuxReader() if self.is_forward and journal.is_new else None
        self._exit_code = ExitCode(proxy.session.parameters)
        self._room = asyncio.Event()
        self._is_behind = False
        self._read_handshake()

    def _read_handshake(self) -> None:
        if self._journal.is_new or self._journal.base > 0:
            self._is_complete = self._journal.base > 0
            return
        for number, record in enumerate(self._journal.records(0, self._journal.end)):
            if record.kind == FRAME:
                payload_type, payload = record.payload[0], bytes(record.payload[1:])
                if payload_type == PayloadType.HANDSHAKE_REQUEST:
                    self.request = payloads.HandshakeRequest.parse(payload)
                elif payload_type == PayloadType.HANDSHAKE_COMPLETE:
                    self._is_complete = True
            if self._is_complete or number > _HANDSHAKE_RECORDS:
                return

    # The channel towards the agent

    @property
    def next_sequence(self) -> int:
        """Of the next message to the agent."""
        return self.kept.through + 1 if self.is_forward else self._journal.state.input_sequence + 1

    def channel_state(self) -> State:
        """How far the channel has come that another owner has left."""
        if self._is_complete:
            return State.OPEN
        if self.request is None:
            return State.NEW
        return State.ANSWERED if self.next_sequence > 0 else State.HANDSHAKING

    def take(self, event: Event) -> list[tuple[bytes, int]]:
        """What the journal has to hold of an event; see Journal.append_output. Empty for what is none of ours."""
        match event:
            case OutputReceived(data=data, sequence=sequence, payload_type=payload_type):
                if self.is_forward:
                    self.kept.from_instance += len(data)
                    return [(Passed(data), sequence)]
                return self._output(data, sequence, payload_type)
            case HandshakeRequested(request=request):
                if self.request is not None:
                    return []  # again, for our acknowledge was lost with the owner before
                self.request = request
                return [(Framed(bytes((PayloadType.HANDSHAKE_REQUEST,)) + request.serialize()), 0)]
            case HandshakeCompleted(time_ns=time_ns, customer_message=message):
                self._is_complete = True
                self._room.set()
                complete = payloads.HandshakeComplete(time_ns, message).serialize()
                return [(Framed(bytes((PayloadType.HANDSHAKE_COMPLETE,)) + complete), -1)]
            case FlagReceived(flag=flag, sequence=sequence):
                return [(Framed(bytes((PayloadType.FLAG,)) + payloads.flag(flag)), sequence)]
            case ExitCodeReceived(code=code, sequence=sequence):
                self._proxy.exit_code = code
                return [(Framed(bytes((PayloadType.EXIT_CODE,)) + payloads.exit_code(code)), sequence)]
        return []

    def _output(self, data: bytes, sequence: int, payload_type: int) -> list[tuple[bytes, int]]:
        taken: list[tuple[bytes, int]] = []
        if payload_type != self._output_type:
            self._output_type = payload_type
            taken.append((Framed(bytes((payload_type,))), -1))
        if not self._exit_code.is_looked_for or payload_type != PayloadType.OUTPUT:
            return [*taken, (data, sequence)]
        data, code = self._exit_code.feed(data)
        if data:
            taken.append((data, sequence))
        if code is not None:
            self._proxy.exit_code = code
            taken.append((Framed(bytes((PayloadType.EXIT_CODE,)) + payloads.exit_code(code)), sequence))
        return taken

    # The client

    def answer(self, response: payloads.HandshakeResponse) -> None:
        """The client has answered the handshake: a forward's answer is passed on, a command is now begun."""
        proxy = self._proxy
        if proxy.channel.state is not State.HANDSHAKING or self.request is None:
            return
        if self.is_forward:
            proxy.channel.respond_handshake(response, now=steady())
            proxy.flush_soon()
        else:
            proxy.answer(self.request)

    async def pass_on(self, data: bytes, sequence: int, *, flag: int | None = None) -> None:
        """Send a message of the client to the agent under its own number, once there is room."""
        proxy = self._proxy
        while not proxy.can_send or proxy.channel.window_left < len(data):
            if proxy.is_finishing or proxy.is_let_go:
                return
            self._room.clear()
            await self._room.wait()
        channel = proxy.channel
        if channel.next_sequence > sequence:
            return  # the agent has it, or it is under way
        while channel.next_sequence < sequence:  # what the client sent and had no meaning took a number too
            channel.send_size(proxy.cols, proxy.rows, now=steady())
        if flag is not None:
            channel.send_flag(flag, now=steady())
        else:
            channel.max_payload = max(channel.max_payload, len(data))
            channel.send_input(data, now=steady())
            self.kept.to_instance += len(data)
            self._count(data)
        proxy.flush_soon()

    def _count(self, data: bytes) -> None:
        """Count the connections that begin, where the stream was read from its start."""
        if self._frames is None:
            return
        try:
            frames = self._frames.feed(data)
        except RemoteProtocolError:  # one connection, not several in one stream
            self._frames = None
            self.kept.connections = max(1, self.kept.connections)
            return
        self.kept.connections += sum(frame.command is smux.Command.SYN for frame in frames)

    def acknowledged(self, through: int) -> None:
        """The agent has all of ours through this one."""
        self._room.set()
        if self.is_forward and through > self.kept.through:
            self.kept.through = through
            if self._proxy.client is not None:
                self._proxy.client.passed_through(through)

    def ended(self) -> None:
        """Let go of who waits."""
        self._room.set()

    # How far the client is behind

    def measure(self, client: ClientEnd | None) -> None:
        """Read the agent or do not, as the client takes what comes; and forget what it has."""
        self._journal.sealed = self.droppable(self._proxy.sealer.offset)
        if not self.is_forward:
            return
        self._journal.drop_sealed(1 << 62)
        behind = self._journal.end - (client.offset if client is not None else self._journal.base)
        if behind > BEHIND_BYTES and not self._is_behind:
            self._is_behind = True
            self._proxy.pause_reading(True)
        elif behind < BEHIND_BYTES // 2 and self._is_behind:
            self._is_behind = False
            self._proxy.pause_reading(False)

    def droppable(self, sealed: int) -> int:
        """Of what is sealed, up to where the client has it too: it cannot do without."""
        if not self.waits_for_client:
            return sealed
        client, places = self._proxy.client, self.kept.places
        taken = client.taken_through if client is not None else places[0].offset if places else 0
        return min(sealed, taken)

    @property
    def is_behind(self) -> bool:
        return self._is_behind

    def facts(self, exit_code: int | None) -> dict[str, int | None]:
        """What the session's row is told at the end."""
        if not self.is_forward:
            return {"exit_code": exit_code}
        return {
            "bytes_to_instance": self.kept.to_instance,
            "bytes_from_instance": self.kept.from_instance,
            "connections": self.kept.connections,
        }


def carried(proxy: Proxy, journal: Journal) -> Carried | None:
    """None for a shell, and for a file: see transfers/engine.py."""
    has_it = proxy.session.kind not in (SessionKind.SHELL, SessionKind.TRANSFER)
    return Carried(proxy, journal) if has_it else None


def write_facts(session_id: UUID, facts: dict[str, int | None]) -> None:
    """Write into the session's row what is only known at its end."""
    TerminalSession.objects.filter(pk=session_id).update(**facts)
