"""A client of the front door: the wire's own channel over a real websocket; as the plugin is, if asked, about what it
has already."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from uuid import uuid4

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    ExitCodeReceived,
    HandshakeCompleted,
    HandshakeRequested,
    MessageType,
    OutputReceived,
    PayloadType,
    Role,
    open_data_channel_client,
    payloads,
    peek,
)
from fleetops.wire.smux import FIRST_STREAM, Command, SmuxFrame, SmuxReader, push

VERSION = "1.2.650.0"


class StreamClient:
    """One run of a client. It may connect several times, and goes on where it was."""

    def __init__(self, answer: dict, *, is_silent: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.url, self.token = answer["StreamUrl"], answer["TokenValue"]
        self._tls = tls
        self.client_id = str(uuid4())
        self.channel = DataChannel(Role.CLIENT, new_id=uuid4)
        self.output, self.errors = bytearray(), bytearray()
        self.request: payloads.HandshakeRequest | None = None
        self.is_ready = False
        self.exit_code: int | None = None
        self.farewell: str | None = None
        self.largest = 0
        self._is_silent = is_silent
        self._socket: ClientConnection | None = None

    def connect(self, answer: dict | None = None) -> StreamClient:
        """With the token of `answer`, to the address of the first."""
        token = answer["TokenValue"] if answer else self.token
        self._exits = contextlib.ExitStack()
        self._socket = self._exits.enter_context(
            connect(self.url, ssl=self._tls, compression=None, proxy=None, max_size=2**20, close_timeout=0.5)
        )
        self._socket.send(open_data_channel_client(uuid4(), token, client_id=self.client_id, client_version=VERSION))
        self.channel.reconnected(now=time.time())
        self.flush()
        return self

    def flush(self) -> None:
        for frame in self.channel.data_to_send():
            self._socket.send(frame)

    def step(self, timeout: float) -> None:
        """Take one message, or repeat what is due. Raises ConnectionClosed."""
        try:
            frame = self._socket.recv(min(timeout, 0.1))
        except TimeoutError:
            self.channel.handle_timeout(now=time.time())
            self.flush()
            return
        head = peek(frame)
        is_old = head.message_type == MessageType.OUTPUT_STREAM_DATA
        if self._is_silent and is_old and head.sequence < self.channel.expected_sequence:
            return
        self.channel.receive(frame, now=time.time())
        for event in self.channel.events():
            self._happened(event)
        self.flush()

    def _happened(self, event) -> None:
        match event:
            case HandshakeRequested(request=request):
                self.request = request
                answer = payloads.answer_handshake(request, client_version=VERSION)
                self.channel.respond_handshake(answer, now=time.time())
            case HandshakeCompleted():
                self.is_ready = True
            case OutputReceived(data=data, payload_type=PayloadType.STDERR):
                self.errors += data
            case OutputReceived(data=data):
                self.output += data
                self.largest = max(self.largest, len(data))
            case ExitCodeReceived(code=code):
                self.exit_code = code
            case ChannelClosed(output=text):
                self.farewell = text

    def until(self, condition, *, seconds: float = 15, what: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"not {what}: {bytes(self.output[-500:])!r} {self.farewell!r}"
            self.step(left)

    def sees(self, text: bytes, *, seconds: float = 15) -> None:
        self.until(lambda: text in self.output, seconds=seconds, what=repr(text))

    def type(self, text: bytes) -> None:
        self.channel.send_input(text, now=time.time())
        self.flush()

    def run(self, command: str, answer: bytes) -> None:
        del self.output[:]
        self.type(command.encode() + b"\r")
        self.sees(answer)

    def ended(self, *, seconds: float = 15) -> str:
        """Read until it is told that the session is over; returns the words."""
        self.until(lambda: self.farewell is not None, seconds=seconds, what="ended")
        return self.farewell or ""

    def lost(self, *, seconds: float = 15) -> None:
        """Read until the websocket is gone."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ConnectionClosed):
            while True:
                assert time.monotonic() < deadline
                self.step(1)

    def close(self) -> None:
        """Vanish without a word, as the plugin does."""
        self._socket.socket.shutdown(2)
        self._exits.close()


class PortClient(StreamClient):
    """The client's end of a forwarded port."""

    def __init__(self, answer: dict, **more) -> None:
        super().__init__(answer, **more)
        self._frames = SmuxReader()
        self.streams: dict[int, bytearray] = {}
        self.finished: set[int] = set()
        self._next = FIRST_STREAM

    def _happened(self, event) -> None:
        super()._happened(event)
        if isinstance(event, OutputReceived):
            for frame in self._frames.feed(event.data):
                if frame.command is Command.PSH:
                    self.streams[frame.stream_id] += frame.data
                elif frame.command is Command.FIN:
                    self.finished.add(frame.stream_id)

    def dial(self) -> int:
        stream_id, self._next = self._next, self._next + 2
        self.streams[stream_id] = bytearray()
        self.type(SmuxFrame(Command.SYN, stream_id).serialize())
        return stream_id

    def push(self, stream_id: int, data: bytes) -> None:
        for frame in push(stream_id, data):
            self.type(frame)


def words_of(error) -> tuple[str, str]:
    """Code and message of a ClientError."""
    return error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]


def as_json(text: str) -> dict:
    return json.loads(text)
