"""One session's data channel between its two ends: frames checked, and passed on as they are.

The ends acknowledge each other; the relay reads no more of a frame than its head, and of an acknowledge its number. It
writes nothing into the stream. What it owes them: the order, the client's acknowledges (the plugin never gives one
twice, so none may be lost, and what the agent repeats all the same the relay acknowledges in the client's name),
patience while one end is away, and a stop when one end does not keep up. A slow receiver stops the reading of the
sender, whose TCP window then closes: nothing here grows.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final
from uuid import uuid4

from fleetops import clock
from fleetops.wire import (
    PAYLOAD_OFFSET,
    Message,
    MessageType,
    PayloadType,
    RemoteProtocolError,
    payloads,
    peek,
    serialize,
)
from fleetops.wire.frames import FIN, SYN, milliseconds

from .channels import NORMAL, Gone, Peer

# Bytes of frames that wait in one direction for an end that is away; when it is reached, the other end is not read.
# To the client: what our own node may have unacknowledged (512 KiB), so that a client that comes back finds all of it.
# To the agent: keys, and acknowledges of at most that much output.
WAITING_FOR_CLIENT: Final = 640 * 1024
WAITING_FOR_AGENT: Final = 256 * 1024

# Seconds after the end of a port session's handshake in which the plugin's reader dies of any message.
# Source: session-manager-plugin, src/sessionmanagerplugin/session/portsession/portsession.go.
PORT_PAUSE: Final = 0.15

# Seconds that the agent has to take in a pause or its end; one that is slower does not read at all.
TELL_SECONDS: Final = 1.0

# Numbers above a gap that a client's acknowledges may leave; of more the gap is forgotten.
MOST_ABOVE: Final = 4_096

_NO_OPERATION: Final = b"\x01\x03\x00\x00"  # the head of smux's keep-alive, of which the rest is a stream's id
_NO_OPERATION_BYTES: Final = 8

_TO_CLIENT: Final = frozenset({MessageType.OUTPUT_STREAM_DATA, MessageType.ACKNOWLEDGE})
_TO_AGENT: Final = frozenset({MessageType.INPUT_STREAM_DATA, MessageType.ACKNOWLEDGE})

Pump = Callable[[Peer], Coroutine[Any, Any, None]]


class Lane:
    """One direction. Frames go straight to the receiving end, or wait here, in order, until it is there."""

    __slots__ = ("_flushing", "_limit", "_pauses_after", "_peer", "_room", "_waiting", "size")

    def __init__(self, limit: int, *, pauses_after: int = -1) -> None:
        """`pauses_after`: the payload type of frames behind which those that wait are held back for PORT_PAUSE."""
        self._limit = limit
        self._pauses_after = pauses_after
        self._peer: Peer | None = None
        self._waiting: deque[bytes] = deque()
        self._flushing = asyncio.Lock()
        self._room = asyncio.Event()
        self.size = 0  # bytes that wait

    async def pass_on(self, frames: list[bytes]) -> None:
        """Hand `frames` over; returns when the next ones may come. A cancelled call keeps them."""
        peer = self._peer
        if peer is not None and not self._waiting:
            try:
                await peer.send_all(frames)
                return
            except Gone:
                self.detach(peer)
            except asyncio.CancelledError:
                self.keep(frames)
                raise
        self.keep(frames)
        await self.flush()
        while self.size > self._limit:
            self._room.clear()
            await self._room.wait()

    def attach(self, peer: Peer) -> None:
        """Make `peer` the receiving end; call flush next."""
        self._peer = peer

    def detach(self, peer: Peer) -> None:
        """Forget `peer`, unless another has taken its place."""
        if self._peer is peer:
            self._peer = None

    async def flush(self) -> None:
        """Hand over what waits; returns when nothing does, or the receiving end is gone."""
        async with self._flushing:
            while self._waiting and (peer := self._peer) is not None:
                frame = self._waiting[0]
                try:
                    await peer.send(frame)
                except Gone:
                    self.detach(peer)
                    return
                if self._pauses_after >= 0 and peek(frame).payload_type == self._pauses_after:
                    await asyncio.sleep(PORT_PAUSE)
                self._waiting.popleft()
                self.size -= len(frame)
                if self.size <= self._limit:
                    self._room.set()

    def keep(self, frames: list[bytes]) -> None:
        """Put `frames` behind what waits."""
        self._waiting += frames
        self.size += sum(map(len, frames))


class Acknowledged:
    """Which messages of the agent's the client has acknowledged: a run without a gap, and some numbers beside it."""

    __slots__ = ("_above", "_first", "_next")

    def __init__(self) -> None:
        self._first = self._next = -1  # the run, without its end; there is none yet
        self._above: set[int] = set()

    def __contains__(self, sequence: int) -> bool:
        return self._first <= sequence < self._next or sequence in self._above

    def add(self, sequence: int) -> None:
        if sequence in self:
            return
        if self._first < 0:
            self._first = self._next = sequence
        self._above.add(sequence)
        if len(self._above) > MOST_ABOVE:
            self._first = self._next = min(self._above)
        while self._next in self._above:
            self._above.discard(self._next)
            self._next += 1


class End:
    """One side's place in the session, and who holds it now."""

    __slots__ = ("came_at", "left_at", "peer", "pump", "was_there")

    def __init__(self, now: float) -> None:
        self.peer: Peer | None = None
        self.pump: asyncio.Task[None] | None = None
        self.was_there = False
        self.came_at = now
        self.left_at = now  # or when the session began


class Relay:
    """Both ends of one session. Times are the event loop's seconds."""

    def __init__(self, *, is_port: bool) -> None:
        self._clock = asyncio.get_running_loop().time
        now = self._clock()
        self.agent = End(now)
        self.client = End(now)
        self.to_client = Lane(WAITING_FOR_CLIENT, pauses_after=PayloadType.HANDSHAKE_COMPLETE if is_port else -1)
        self.to_agent = Lane(WAITING_FOR_AGENT)
        self.began_at = now
        self.moved_at = now  # the last new byte of the stream, either way; acknowledges and repetitions do not count
        self.is_terminating = False  # the agent has said that its shell ended
        self.is_paused = False  # the agent has been told to send nothing
        self.dropped = 0  # frames that were malformed, or have no business on their way
        self._is_port = is_port
        self._acknowledged = Acknowledged()
        self._last_output = self._last_input = -1  # the highest sequence numbers that passed

    async def serve_agent(self, peer: Peer) -> None:
        """Relay from and to the agent until it goes, or another connection of it comes."""
        await self._take_place(self.agent, self.client, peer)
        self.is_paused = False  # an agent forgets a pause when it comes back
        # An acknowledge would end the pause at once: where some go first, the hub pauses the agent a little later.
        if self.client.was_there and self.client.peer is None and not self.to_agent.size:
            await self.pause()
        await self._serve(self.agent, peer, self._from_agent, self.to_agent)

    async def serve_client(self, peer: Peer) -> None:
        """Relay from and to the client until it goes, or another connection of it comes."""
        await self._take_place(self.client, self.agent, peer)
        if self.is_paused:
            self.is_paused = False
            await self._tell_agent(MessageType.START_PUBLICATION)
        await self._serve(self.client, peer, self._from_client, self.to_client)
        if self.client.peer is None:
            await self.pause()

    async def pause(self) -> None:
        """Tell the agent to send nothing: it would repeat its oldest frame for as long as nobody is there."""
        self.is_paused = True
        await self._tell_agent(MessageType.PAUSE_PUBLICATION)

    async def _tell_agent(self, message_type: str) -> None:
        if self.agent.peer is None:
            return
        try:
            async with asyncio.timeout(TELL_SECONDS):
                await self.agent.peer.send(_publication(message_type))
        except (Gone, TimeoutError):
            pass  # its own loop notices that it is gone; one that does not read hears nothing anyway

    async def _take_place(self, end: End, other: End, peer: Peer) -> None:
        """Make `peer` the holder of `end`; whoever held it stops first, so that frames stay in order."""
        before = end.peer
        end.peer = peer
        end.was_there = True
        end.came_at = self._clock()
        if before is not None:
            await _cancel(end.pump)
            await _cancel(
                other.pump
            )  # it may be waiting for `before` to read; it starts again behind the frame it held
            await before.close(NORMAL, "another connection has taken this one's place")

    async def _serve(self, end: End, peer: Peer, pump_from: Pump, going: Lane) -> None:
        """Run the pump of `end` for as long as `peer` holds it."""
        flush: asyncio.Task[None] | None = None
        try:
            if end.peer is peer:
                going.attach(peer)
                flush = asyncio.create_task(going.flush())
            while end.peer is peer:
                end.pump = pump = asyncio.create_task(pump_from(peer))
                await asyncio.wait([pump])
                if not pump.cancelled():
                    pump.result()
                    break
        finally:
            going.detach(peer)
            await _cancel(flush)
            if end.peer is peer:
                await _cancel(end.pump)
                end.peer = None
                end.pump = None
                end.left_at = self._clock()

    async def _from_agent(self, peer: Peer) -> None:
        """Pass on what the agent sends, all frames of one read together, until it is gone."""
        is_open = True
        while is_open:
            frames: list[bytes] = []
            before_pause: list[bytes] = []
            heads, is_open = await self._read(peer)
            answers: list[bytes] = []
            for frame, message_type, payload_type, sequence in heads:
                if message_type == MessageType.OUTPUT_STREAM_DATA and self._is_settled(sequence):
                    answers.append(_acknowledge(frame, sequence))
                elif message_type in _TO_CLIENT:
                    frames.append(frame)
                    if message_type == MessageType.OUTPUT_STREAM_DATA and sequence > self._last_output:
                        self._last_output = sequence
                        self._note_move(frame)
                    if self._is_port and payload_type == PayloadType.HANDSHAKE_COMPLETE:
                        before_pause, frames = frames, []
                elif message_type == MessageType.AGENT_SESSION_STATE:
                    self.is_terminating = b'"Terminating"' in frame
                else:
                    self.dropped += 1
            if answers:
                try:
                    await self.to_agent.pass_on(answers)
                except asyncio.CancelledError:
                    self.to_client.keep(before_pause + frames)
                    raise
            if before_pause:
                try:
                    await self.to_client.pass_on(before_pause)
                    await asyncio.sleep(PORT_PAUSE)
                except asyncio.CancelledError:
                    self.to_client.keep(frames)
                    raise
            if frames:
                await self.to_client.pass_on(frames)

    async def _from_client(self, peer: Peer) -> None:
        """Pass on what the client sends, all frames of one read together, until it is gone."""
        is_open = True
        while is_open:
            frames: list[bytes] = []
            heads, is_open = await self._read(peer)
            for frame, message_type, _, sequence in heads:
                if message_type in _TO_AGENT:
                    frames.append(frame)
                    if message_type == MessageType.INPUT_STREAM_DATA and sequence > self._last_input:
                        self._last_input = sequence
                        self._note_move(frame)
                    elif message_type == MessageType.ACKNOWLEDGE:
                        with contextlib.suppress(RemoteProtocolError):
                            self._acknowledged.add(payloads.acknowledged_sequence(frame[PAYLOAD_OFFSET:]))
                else:
                    self.dropped += 1
            if frames:
                await self.to_agent.pass_on(frames)

    def _is_settled(self, sequence: int) -> bool:
        """Whether the agent repeats what the client has acknowledged long ago, and we may say so.

        The acknowledge was lost with a connection; or it overtook the agent, which sends a message first and then puts
        it among those that wait for one. The plugin acknowledges nothing twice, so the agent would repeat that message
        for the rest of the session, no later one that is lost, and wait for it in the end. While no client is there we
        say nothing: an acknowledge would end the agent's pause. Source: amazon-ssm-agent,
        agent/session/datachannel/datachannel.go, SendStreamDataMessage; session-manager-plugin,
        src/datachannel/streaming.go, HandleOutputMessage.
        """
        return sequence <= self._last_output and sequence in self._acknowledged and self.client.peer is not None

    def _note_move(self, frame: bytes) -> None:
        """Note that something new of the stream passed; the keep-alives of a port session are nothing of it."""
        is_keep_alive = (
            self._is_port
            and len(frame) == PAYLOAD_OFFSET + _NO_OPERATION_BYTES
            and frame.startswith(_NO_OPERATION, PAYLOAD_OFFSET)
        )
        if not is_keep_alive:
            self.moved_at = self._clock()

    async def _read(self, peer: Peer) -> tuple[list[tuple[bytes, str, int, int]], bool]:
        """The frames of one read, each with its message type ("" if it is malformed), payload type and sequence number.

        False with them once `peer` is gone.
        """
        heads: list[tuple[bytes, str, int, int]] = []
        for message in await peer.receive_all():
            if message["type"] != "websocket.receive":
                return heads, False
            frame = message.get("bytes") or b""
            try:
                message_type, payload_type, sequence, _ = peek(frame)
            except RemoteProtocolError:
                message_type, payload_type, sequence = "", 0, 0
            heads.append((frame, message_type, payload_type, sequence))
        return heads, True


async def _cancel(task: asyncio.Task[None] | None) -> None:
    """Cancel `task` and wait until it has stopped."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])


def _acknowledge(frame: bytes, sequence: int) -> bytes:
    """What a client would say to a message of the agent's."""
    payload = payloads.acknowledge_wire_id(MessageType.OUTPUT_STREAM_DATA, frame[64:80], sequence)
    return serialize(Message(MessageType.ACKNOWLEDGE, 0, payload, 0, uuid4(), milliseconds(clock.steady()), SYN | FIN))


def _publication(message_type: str) -> bytes:
    """pause_publication or start_publication; nobody reads the payload, and Go cannot send an empty one."""
    return serialize(Message(message_type, 0, b"{}", 0, uuid4(), milliseconds(clock.steady())))
