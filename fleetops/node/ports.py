"""Port sessions: TCP connections that the node opens, through the session's data channel.

One connection for SSH and for old clients; many, in smux frames, for port forwarding of today.
Source: amazon-ssm-agent, agent/session/plugins/port; session-manager-plugin,
src/sessionmanagerplugin/session/portsession.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

from fleetops import clock
from fleetops.wire import Flag, LocalProtocolError, RemoteProtocolError, payloads
from fleetops.wire.smux import Command, SmuxFrame, SmuxReader, push

from .sandbox import StartFailed
from .session import Session

logger = logging.getLogger(__name__)

READ_SIZE: Final = 32 * 1024  # bytes of one connection in one piece, as smux has them
# Bytes that wait for ports that do not read; then no more is read here. As much as smux keeps.
MAX_INPUT: Final = 4 * 1024 * 1024
SPARE: Final = 1024 * 1024  # bytes above it; what comes beyond is not acknowledged
LOOK_SECONDS: Final = 0.02  # between two looks at whether the ports read again
MAX_CONNECTIONS: Final = 1_024  # of one session at a time; one more is answered as if the port were closed
CONNECT_SECONDS: Final = 30.0
MULTIPLEXED_SINCE: Final = (1, 1, 70)  # of the client. port.go, muxSupportedClientVersion
QUIET_SINCE: Final = (1, 2, 331, 0)  # clients above it want no signs of life. port.go, muxKeepAliveDisabledAfter
KEEP_ALIVE_SECONDS: Final = 10.0

# Addresses that nobody is forwarded to: metadata, DNS, time and licences of EC2.
# appconfig, constants.go, DefaultDeniedPortForwardingRemoteIPs.
DENIED: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",
            "fd00:ec2::254",
            "169.254.169.253",
            "fd00:ec2::253",
            "169.254.169.123",
            "fd00:ec2::123",
            "169.254.169.250",
            "169.254.169.251",
            "fd00:ec2::240",
        ),
    )
)


class Target:
    """Where the connections go: the addresses are looked up once, before the first."""

    def __init__(self, host: str, port: int, addresses: list[str]) -> None:
        self.host = host
        self.port = port
        self._addresses = addresses

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the first address that takes one. Raises OSError."""
        first: OSError | None = None
        for address in self._addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(address, self.port, limit=READ_SIZE)
            except OSError as error:  # TimeoutError is one
                first = first or error
        raise first or OSError("missing address")


async def find_target(properties: dict[str, Any]) -> Target:
    """Read the properties of a Port document. Raises StartFailed in the agent's words."""
    port, host = str(properties.get("portNumber") or ""), str(properties.get("host") or "")
    if not port:
        raise StartFailed(f"Port number is empty in session properties. {properties}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise StartFailed(f"{port} is no port number")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host or "localhost", None, type=socket.SOCK_STREAM)
    except OSError:
        found = []  # a name that nobody knows fails when somebody connects
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    if any(_is_denied(address) for address in addresses):
        raise StartFailed(f"Forwarding to IP address {host or 'localhost'} is forbidden.")
    return Target(host, int(port), addresses)


def _is_denied(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address) in DENIED


class Carrier(Protocol):
    """How connections travel in the data channel."""

    @property
    def waiting(self) -> int: ...  # bytes that came for a port and did not go there yet
    def take(self, data: bytes) -> None: ...  # bytes from the client
    async def live(self) -> None: ...  # until there is nothing more to carry
    def disconnect(self) -> None: ...  # the client's own connection has ended
    def stop(self) -> None: ...


class PortSession(Session):
    """A session that carries connections to a port of the node, or of a machine that it reaches."""

    needs_handshake: ClassVar[bool] = True
    may_be_encrypted: ClassVar[bool] = False
    tells_its_end: ClassVar[bool] = False

    def __init__(self, task: payloads.SessionTask, **more: Any) -> None:
        super().__init__(task, **more)
        self._carrier: Carrier | None = None
        self._early_input = bytearray()
        self._looking: asyncio.TimerHandle | None = None

    async def _live(self) -> None:
        properties = self._properties()
        target = await self._until(find_target(properties))
        is_forwarding = properties.get("type") == "LocalPortForwarding"
        version = _version(self.client_version)
        if is_forwarding and version >= MULTIPLEXED_SINCE:
            self._carrier = Many(target, self._send_when_possible, self._connect_failed, is_quiet=version > QUIET_SINCE)
        else:
            one = One(target, self._send_when_possible, comes_back=is_forwarding)
            try:
                await self._until(one.connect())
            except OSError as error:
                raise StartFailed(f"Unable to connect to {target.host or 'localhost'}:{target.port}: {error}") from None
            self._carrier = one
        if self._early_input:
            self._carrier.take(bytes(self._early_input))
            self._early_input.clear()
        await self._until(self._carrier.live())

    def _connect_failed(self) -> None:
        with contextlib.suppress(LocalProtocolError):
            self._channel.send_flag(Flag.CONNECT_TO_PORT_ERROR, now=clock.steady())
            self._flush()

    @property
    def _waiting(self) -> int:
        return self._carrier.waiting if self._carrier is not None else len(self._early_input)

    @property
    def _takes_input(self) -> bool:
        return self._waiting < MAX_INPUT + SPARE

    @property
    def _may_send(self) -> bool:
        """While nothing is read, no acknowledge is seen: output then goes on as far as the channel has room.

        A port that reads only while it is read from would else stand still, and this session with it.
        """
        socket = self._socket
        if socket is None or socket.is_reading:
            return super()._may_send
        return socket.is_writable and not self._channel.is_paused and self._channel.window_left > SPARE

    def _set_flow(self) -> None:
        super()._set_flow()
        socket = self._socket
        if socket is None:
            return
        # What is not read waits with the client. What is dropped it would repeat one message at a time.
        socket.set_reading(self._waiting < MAX_INPUT or self._channel.window_left <= SPARE)
        if not socket.is_reading and self._looking is None:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        self._set_flow()

    def _take_input(self, data: bytes) -> None:
        if self._carrier is not None:
            self._carrier.take(data)
        else:
            self._early_input += data

    def _take_flag(self, flag: int) -> None:
        if flag == Flag.TERMINATE_SESSION:
            self.end()
        elif flag == Flag.DISCONNECT_TO_PORT and self._carrier is not None:
            self._carrier.disconnect()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._carrier is not None:
            self._carrier.stop()


class One:
    """One connection. `comes_back`: when it ends, the next input opens another; else the session ends with it."""

    def __init__(self, target: Target, send: Callable[[bytes], Any], *, comes_back: bool) -> None:
        self._target = target
        self._send = send
        self._comes_back = comes_back
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pending: list[bytes] = []
        self._wanted = asyncio.Event()

    @property
    def waiting(self) -> int:
        there = self._writer.transport.get_write_buffer_size() if self._writer is not None else 0
        return there + sum(map(len, self._pending))

    async def connect(self) -> None:
        self._reader, self._writer = await self._target.connect()
        for data in self._pending:
            self._writer.write(data)
        self._pending.clear()

    def take(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)
        else:
            self._pending.append(data)
            self._wanted.set()

    async def live(self) -> None:
        while True:
            assert self._reader is not None
            with contextlib.suppress(OSError):
                while data := await self._reader.read(READ_SIZE):
                    await self._send(data)
            self.disconnect()
            if not self._comes_back:
                return
            while self._writer is None:
                self._wanted.clear()
                if not self._pending:
                    await self._wanted.wait()
                try:
                    await self.connect()
                except OSError as error:
                    logger.info("the port is closed port=%s reason=%s", self._target.port, error)
                    self._pending.clear()

    def disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def stop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class Many:
    """Many connections, each a stream of smux; the client opens them."""

    def __init__(
        self, target: Target, send: Callable[[bytes], Any], failed: Callable[[], None], *, is_quiet: bool
    ) -> None:
        """`failed`: a port did not take a connection. `is_quiet`: the client wants no signs of life."""
        self._target = target
        self._send = send
        self._failed = failed
        self._is_quiet = is_quiet
        self._frames = SmuxReader()
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def waiting(self) -> int:
        return self._frames.pending + sum(stream.waiting for stream in self._streams.values())

    def take(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except RemoteProtocolError as error:
            if not self._broken.done():
                self._broken.set_result(str(error))
            return
        for frame in frames:
            stream = self._streams.get(frame.stream_id)
            match frame.command:
                case Command.SYN if stream is None:
                    self._open(frame.stream_id)
                case Command.PSH if stream is not None:
                    stream.write(frame.data)
                case Command.FIN if stream is not None:
                    stream.close()

    async def live(self) -> None:
        while True:
            await asyncio.wait([self._broken], timeout=None if self._is_quiet else KEEP_ALIVE_SECONDS)
            if self._broken.done():
                raise StartFailed(f"The stream of connections cannot be read: {self._broken.result()}")
            await self._send(SmuxFrame(Command.NOP, 0).serialize())

    def disconnect(self) -> None:
        """Means nothing here: each stream ends by itself."""

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for stream in self._streams.values():
            stream.abort()

    def _open(self, stream_id: int) -> None:
        stream = self._streams[stream_id] = _Stream()
        task = asyncio.create_task(self._serve(stream_id, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream_id: int, stream: "_Stream") -> None:
        """Connect, carry what the port sends, and say when it is over. Either end closes the whole connection."""
        try:
            if len(self._streams) > MAX_CONNECTIONS:
                raise OSError(f"{MAX_CONNECTIONS} connections are open")
            reader, writer = await self._target.connect()
        except OSError as error:
            logger.info("a connection failed port=%s reason=%s", self._target.port, error)
            self._failed()
        else:
            stream.begin(writer)
            with contextlib.suppress(OSError):
                while data := await reader.read(READ_SIZE):
                    for frame in push(stream_id, data):
                        await self._send(frame)
        stream.close()
        await self._send(SmuxFrame(Command.FIN, stream_id).serialize())
        self._streams.pop(stream_id, None)


class _Stream:
    """One connection's way to the port; what comes before it is open waits."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._pending: list[bytes] = []
        self._is_closed = False

    @property
    def waiting(self) -> int:
        if self._writer is not None:
            return self._writer.transport.get_write_buffer_size()
        return sum(map(len, self._pending))

    def begin(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        for data in self._pending:
            writer.write(data)
        self._pending.clear()
        if self._is_closed:
            writer.close()

    def write(self, data: bytes) -> None:
        if self._is_closed:
            return
        if self._writer is not None:
            self._writer.write(data)
        else:
            self._pending.append(data)

    def abort(self) -> None:
        self._is_closed = True
        if self._writer is not None:
            self._writer.transport.abort()

    def close(self) -> None:
        """End the connection, behind what was written."""
        self._is_closed = True
        if self._writer is not None:
            self._writer.close()


def _version(text: str) -> tuple[int, ...]:
    """ "1.2.650.0" as numbers; an empty tuple, which is below all, if it is none."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else ()
