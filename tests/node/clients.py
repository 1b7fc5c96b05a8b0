"""Clients of the sessions that begin with a handshake: commands without a terminal, and ports."""

from fleetops import clock
from fleetops.wire import (
    ExitCodeReceived,
    Flag,
    FlagReceived,
    HandshakeCompleted,
    HandshakeRequested,
    OutputReceived,
    PayloadType,
    payloads,
)
from fleetops.wire.smux import FIRST_STREAM, Command, SmuxFrame, SmuxReader, push
from tests.node.gateway import Client

VERSION = "1.2.650.0"


class HandshakingClient(Client):
    """It answers a handshake, and keeps what comes by its kind."""

    version = VERSION

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self._size = None  # nobody looks at it
        self.request: payloads.HandshakeRequest | None = None
        self.complete: HandshakeCompleted | None = None
        self.flags: list[int] = []
        self.errors = bytearray()
        self.exit_code: int | None = None

    def happened(self, event: object) -> None:
        match event:
            case HandshakeRequested(request=request):
                self.request = request
                self.answer(request)
            case HandshakeCompleted():
                self.complete = event
            case FlagReceived(flag=flag):
                self.flags.append(flag)
            case ExitCodeReceived(code=code):
                self.exit_code = code
            case OutputReceived(data=data, payload_type=PayloadType.STDERR):
                self.errors += data
            case _:
                super().happened(event)

    def answer(self, request: payloads.HandshakeRequest) -> None:
        answer = payloads.answer_handshake(request, client_version=self.version)
        self.channel.respond_handshake(answer, now=clock.steady())

    async def until(self, condition, what: str, *, seconds: float = 20) -> None:
        await self._await(condition, seconds, what)

    async def ready(self) -> None:
        await self.until(lambda: self.complete is not None or self.closed is not None, "the handshake")

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), 256 * 1024):
            piece = data[start : start + 256 * 1024]
            await self.until(lambda piece=piece: self.channel.window_left >= len(piece), "room")
            self.channel.send_input(piece, now=clock.steady())
            await self._flush()

    async def terminate(self) -> None:
        self.channel.send_flag(Flag.TERMINATE_SESSION, now=clock.steady())
        await self._flush()


class OldClient(HandshakingClient):
    """One that knows no multiplexing."""

    version = "1.1.61.0"


class ManyClient(HandshakingClient):
    """The client's end of multiplexed connections."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.frames = SmuxReader()
        self.streams: dict[int, bytearray] = {}
        self.finished: set[int] = set()
        self._next = FIRST_STREAM

    def happened(self, event: object) -> None:
        if isinstance(event, OutputReceived) and event.payload_type == PayloadType.OUTPUT:
            for frame in self.frames.feed(event.data):
                if frame.command is Command.PSH:
                    self.streams[frame.stream_id] += frame.data
                elif frame.command is Command.FIN:
                    self.finished.add(frame.stream_id)
        super().happened(event)

    async def dial(self) -> int:
        stream_id, self._next = self._next, self._next + 2
        self.streams[stream_id] = bytearray()
        await self.send(SmuxFrame(Command.SYN, stream_id).serialize())
        return stream_id

    async def push(self, stream_id: int, data: bytes) -> None:
        await self.send(b"".join(push(stream_id, data)))

    async def finish(self, stream_id: int) -> None:
        await self.send(SmuxFrame(Command.FIN, stream_id).serialize())
