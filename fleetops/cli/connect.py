"""`fleetops connect`: a shell, a command or a forwarded port on an instance, without the aws CLI and its plugin.

The session is opened over the REST API, and held by the same data channel that the plugin would have.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.channel import Channel
from fleetops.cli.client import Client, NeedsReason
from fleetops.cli.errors import DONE, REFUSED, Refused, WrongUsage
from fleetops.wire import Event, Flag, FlagReceived, OutputReceived, PayloadType, RemoteProtocolError, State, smux

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = tty = None  # type: ignore[assignment]

MOST_OFFERED = 20  # instances to choose among
INTERRUPT = b"\x03"
_READ = 16 * 1024
_FORWARD = re.compile(r"(?:(?P<local>[0-9]{1,5}):)??(?:(?P<host>[^:]+|\[[0-9A-Fa-f:]+\]):)?(?P<port>[0-9]{1,5})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument("name", metavar="NAME", help="its name, AWS's id, or words that find it")
    name.completer = remote.complete_instance  # type: ignore[attr-defined]
    parser.add_argument("--reason", default="", help="why, where the access policy wants to know")
    parser.add_argument("--as", dest="run_as", metavar="USER", default="", help="OS user of a shell or a command")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--command", metavar="LINE", help="run this line of sh, and end with its exit code")
    what.add_argument(
        "--forward",
        metavar="[LOCAL:][HOST:]PORT",
        help="forward a local port to a port of the instance, or of a host that it reaches",
    )


def connect(chosen: argparse.Namespace) -> int:
    """Open the session and hold it; returns the command's exit code, or 0."""
    forward = parse_forward(chosen.forward) if chosen.forward else None
    client = remote.client_of(chosen)
    instance = choose(client, chosen.name)
    wanted: dict[str, Any] = {"instance": instance["id"], "attach": True}
    if chosen.run_as:
        wanted["run_as"] = chosen.run_as
    if chosen.command is not None:
        wanted |= {"kind": "command", "command": chosen.command}
    if forward is not None:
        wanted |= {"kind": "forward", "host": forward[1], "port": forward[2]}
    if forward is None and chosen.command is None and termios is None:
        raise WrongUsage("A shell needs a terminal of Unix; here, use --command or --forward, or the aws CLI.")
    session = open_session(client, wanted, chosen.reason)
    way = (session["stream"]["url"], session["stream"]["token"])
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_hold(client, session, way, chosen.command, forward))
    return REFUSED


def parse_forward(text: str) -> tuple[int, str, int]:
    """Local port (0: any), host (empty: the instance) and port. Raises WrongUsage."""
    parts = _FORWARD.fullmatch(text)
    local, host, port = (parts["local"] or "", parts["host"] or "", parts["port"]) if parts else ("", "", "0")
    if parts and not local and host.isdigit():
        local, host = host, ""  # 15432:5432
    if not parts or not 1 <= int(port) <= 65535 or int(local or 0) > 65535:
        raise WrongUsage(
            f"{text!r} is no port to forward; write 5432, 15432:5432, db.internal:5432 or 1:db.internal:2."
        )
    return int(local or 0), host.strip("[]"), int(port)


def choose(client: Client, name: str) -> dict[str, Any]:
    """The instance that is meant: of that name or id, else the one that the words find; asks where several are."""
    found = remote.instances_named(client, name)
    if not found:
        found = client.get("instances/", {"q": name, "page_size": str(MOST_OFFERED)})["results"]
    if not found:
        raise Refused(f"No instance that you may see matches {name}.")
    if len(found) == 1:
        return dict(found[0])
    lines = [f"{row['name']}  {row['instance_id']}  {row['account_name']}  {row['region']}" for row in found]
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise Refused("Several instances match; name one by its id:\n" + "\n".join(map(tables.safe, lines)))
    for number, line in enumerate(lines, 1):
        print(f"{number:>3}  {tables.safe(line)}", file=sys.stderr)
    print("Which one? ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer.isdigit() or not 1 <= int(answer) <= len(found):
        raise Refused("None was chosen.")
    return dict(found[int(answer) - 1])


def open_session(client: Client, wanted: dict[str, Any], reason: str) -> dict[str, Any]:
    """Ask for the session; and for a reason, where the policy wants one and somebody is there to give it."""
    try:
        return dict(client.post("sessions/", {**wanted, "reason": reason}))
    except NeedsReason as error:
        if not sys.stdin.isatty():
            raise Refused(f"{error} Say why: --reason TEXT.") from None
        print(f"{error}\nWhy? ", end="", file=sys.stderr, flush=True)
        return dict(client.post("sessions/", {**wanted, "reason": sys.stdin.readline().strip()}))


async def _hold(
    client: Client,
    session: dict[str, Any],
    way: tuple[str, str],
    command: str | None,
    forward: tuple[int, str, int] | None,
) -> int:
    def renew() -> tuple[str, str]:
        again = client.post(f"sessions/{session['id']}/stream/", {})
        return again["url"], again["token"]

    if forward is not None:
        use: _Shell | _Command | _Forward = _Forward(session, forward)
    else:
        use = _Shell() if command is None else _Command()
    channel = Channel(session["id"], way, renew, tls=client.tls, on_event=use.happen)
    use.channel = channel
    with use.around():
        running = asyncio.create_task(channel.run())
        try:
            await asyncio.wait({running, use.ended}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            use.ended.cancel()
    if channel.farewell:
        print(f"The session has ended: {tables.safe(channel.farewell)}", file=sys.stderr)
        return REFUSED if channel.exit_code is None else channel.exit_code
    if command is not None and channel.exit_code is None:
        print("The command has ended, and its exit code is not known.", file=sys.stderr)
        return REFUSED
    return channel.exit_code or DONE


class _Use:
    """What is done with a channel."""

    channel: Channel

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def happen(self, event: Event) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        yield


def _put(stream: int, data: bytes) -> None:
    """Write all of it; a terminal that is set not to wait may take less at once."""
    while data:
        try:
            data = data[os.write(stream, data) :]
        except BlockingIOError:
            continue


class _Shell(_Use):
    """This terminal, set to pass everything through."""

    async def happen(self, event: Event) -> None:
        if isinstance(event, OutputReceived):
            _put(1, event.data)
            self._tell_size()

    _is_sized = False

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(0) if sys.stdin.isatty() else None
        loop.add_reader(0, self._typed)
        loop.add_signal_handler(signal.SIGWINCH, self._resize)
        try:
            if before is not None:
                tty.setraw(0)
            yield
        finally:
            loop.remove_reader(0)
            loop.remove_signal_handler(signal.SIGWINCH)
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)

    def _typed(self) -> None:
        data = os.read(0, _READ)
        loop = asyncio.get_running_loop()
        loop.remove_reader(0)  # until that is sent
        self.spawn(self._send(data))

    async def _send(self, data: bytes) -> None:
        self._tell_size()  # what is typed may ask for it
        # A pipe that ends: the shell is told as it would be by a person.
        await self.channel.send(data or b"\x04")
        if data:
            asyncio.get_running_loop().add_reader(0, self._typed)

    def _resize(self) -> None:
        self._is_sized = False
        self._tell_size()

    def _tell_size(self) -> None:
        """Send the size unless the shell has it; what the channel does not take now is sent with what comes next."""
        if not self._is_sized and self.channel.channel.can_send:
            self._is_sized = True
            # Of the terminal itself: COLUMNS and LINES may be what a program above us was told, long ago.
            try:
                size = os.get_terminal_size(1)
            except OSError:  # a pipe
                size = shutil.get_terminal_size()
            self.channel.channel.send_size(size.columns, size.lines, now=self.channel.now())
            self.channel.flush()


class _Command(_Use):
    """Its output to ours; Ctrl-C to it."""

    async def happen(self, event: Event) -> None:
        if isinstance(event, OutputReceived):
            _put(2 if event.payload_type == PayloadType.STDERR else 1, event.data)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: self.spawn(self.channel.send(INTERRUPT)))
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


class _Forward(_Use):
    """Connections to a local port, together in one stream."""

    def __init__(self, session: dict[str, Any], forward: tuple[int, str, int]) -> None:
        super().__init__()
        self._local, self._host, self._port = forward
        self._name = session["instance_name"]
        self._frames = smux.SmuxReader()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._next = smux.FIRST_STREAM
        self._sending = asyncio.Lock()
        self._server: asyncio.Server | None = None

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            if self._server is not None:
                self._server.close()
            for writer in self._writers.values():
                writer.close()

    def _leave(self) -> None:
        channel = self.channel.channel
        if channel.state is State.OPEN:
            channel.send_flag(Flag.TERMINATE_SESSION, now=self.channel.now())
            self.channel.flush()
        if not self.ended.done():
            asyncio.get_running_loop().call_later(0.2, self._left)

    def _left(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def happen(self, event: Event) -> None:
        if self._server is None and self.channel.channel.state is State.OPEN:
            await self._listen()
        if isinstance(event, OutputReceived):
            try:
                frames = self._frames.feed(event.data)
            except RemoteProtocolError as error:
                raise Refused(f"The instance's end of the forwarding is not as it should be: {error}.") from None
            for frame in frames:
                writer = self._writers.get(frame.stream_id)
                if writer is None:
                    continue
                if frame.command is smux.Command.PSH:
                    writer.write(frame.data)
                    with contextlib.suppress(OSError):
                        await writer.drain()
                elif frame.command is smux.Command.FIN:
                    writer.close()
        elif isinstance(event, FlagReceived) and event.flag == Flag.CONNECT_TO_PORT_ERROR:
            print("The port could not be reached from the instance.", file=sys.stderr)

    async def _listen(self) -> None:
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._local)
        except OSError as error:
            raise Refused(f"Port {self._local} cannot be listened on: {error.strerror}.") from None
        port = self._server.sockets[0].getsockname()[1]
        there = f"{self._host}:{self._port} by way of {self._name}" if self._host else f"{self._name}:{self._port}"
        print(f"127.0.0.1:{port} is {tables.safe(there)}; Ctrl-C ends it.", file=sys.stderr, flush=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream_id, self._next = self._next, self._next + 2
        self._writers[stream_id] = writer
        await self._send(smux.SmuxFrame(smux.Command.SYN, stream_id).serialize())
        try:
            while data := await reader.read(_READ):
                await self._send(b"".join(smux.push(stream_id, data)))
        except OSError:
            pass
        finally:
            await self._send(smux.SmuxFrame(smux.Command.FIN, stream_id).serialize())
            writer.close()
            del self._writers[stream_id]

    async def _send(self, data: bytes) -> None:
        async with self._sending:  # a frame of one connection is not cut by another's
            await self.channel.send(data)
