"""One session on a node: a data channel and the shell behind it. The shell outlives the channel's connections."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any, Final
from uuid import uuid4

from fleetops import clock
from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    InputReceived,
    PublicationPaused,
    PublicationStarted,
    RemoteProtocolError,
    Role,
    SizeReceived,
    open_data_channel_agent,
    payloads,
    peek,
)
from fleetops.wire.datachannel import STREAM_PAYLOAD, SWEEP, State

from .calls import CallFailed, Endpoint, Retry, answer_says
from .sandbox import Launcher, shell_program
from .spec import NodeSpec
from .terminal import MAX_INPUT, StartFailed, Terminal, start_terminal
from .websocket import Socket

logger = logging.getLogger(__name__)

OUR_PAYLOAD: Final = 32 * 1024  # bytes of output in a frame, to a client that says it takes them

# Bytes of output on their way to the client; at this the terminal is not read any more, and the program in it waits. It
# is what one session costs here at most, and what still comes after a Ctrl-C in a flood.
WINDOW: Final = 512 * 1024

# Seconds that the acknowledge of a keystroke waits for the echo, to travel with it: one wake-up less for each process
# on the way. Far below the time after which a client repeats (200 ms).
ACKNOWLEDGE_SECONDS: Final = 0.002

FIRST_SIZE_SECONDS: Final = 0.25  # how long the shell waits for the client's size, so that its first prompt fits
DEFAULT_SIZE: Final = (80, 24)
SETUP_TRIES: Final = 6  # to open the data channel of a new session: the real agent's five retries
DRAIN_SECONDS: Final = 2.0  # for the last output to be acknowledged, as the real agent waits
AWAY_SECONDS: Final = 60.0  # the same, while the client is away
GONE_TEXT: Final = "Session is already terminated"
SESSION_TYPES: Final = frozenset({"Standard_Stream", "InteractiveCommands"})


class Ended(Exception):
    """The gateway has ended the session; nothing is to be told to it but that this is done."""


class ShellSession:
    """A session from its start message to its end. `run` returns the status and the text for agent_task_complete."""

    def __init__(
        self,
        task: payloads.SessionTask,
        *,
        spec: NodeSpec,
        endpoint: Endpoint,
        launcher: Launcher,
        uid: int | None,
        hidden: tuple[str, ...],
        retry_scale: float,
    ) -> None:
        self.session_id = task.session_id
        self._task = task
        self._spec = spec
        self._endpoint = endpoint
        self._launcher = launcher
        self._uid = uid
        self._hidden = hidden
        self._retry = Retry((0.1, 0.2), 5.0, scale=retry_scale)
        self._is_ours = task.document_content.get("clientName") == "fleetops"
        self._channel = DataChannel(
            Role.AGENT,
            new_id=uuid4,
            session_id=task.session_id,
            max_payload=OUR_PAYLOAD if self._is_ours else STREAM_PAYLOAD,
        )
        self._loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._terminal: Terminal | None = None
        self._size: tuple[int, int] | None = None
        self._size_came = asyncio.Event()
        self._shell_ended = asyncio.Event()
        self._changed = asyncio.Event()  # something was acknowledged, or the connection changed
        self._ended = self._loop.create_future()  # by the gateway
        self._early_input = bytearray()
        self._sweeping: asyncio.TimerHandle | None = None
        self._acknowledging: asyncio.TimerHandle | None = None

    async def run(self) -> tuple[str, str]:
        """Live the session. Cancelled, it kills the shell."""
        try:
            socket = await self._open_first()
        except CallFailed as error:
            return "Failed", f"The data channel could not be opened: {error}"
        keeping = asyncio.create_task(self._keep_open(socket))
        try:
            await self._live()
            await self._until(self._drain())
            if not self._ended.done():
                self._channel.send_state("Terminating", now=clock.steady())
                self._flush()
            return "Success", ""
        except StartFailed as error:
            return "Failed", str(error)
        except Ended:
            return "Success", ""
        finally:
            keeping.cancel()
            if self._terminal is not None:
                self._terminal.kill()
            for timer in (self._sweeping, self._acknowledging):
                if timer is not None:
                    timer.cancel()
            if self._socket is not None:
                self._socket.close()

    def end(self) -> None:
        """The gateway has said on the control channel that the session is over."""
        if not self._ended.done():
            self._ended.set_result(None)

    # The shell

    async def _live(self) -> None:
        """Start the shell, and return when it has ended. Raises StartFailed, or Ended."""
        argv = self._argv()
        self._send_output(self._banner())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SIZE_SECONDS):
                await self._until(self._size_came.wait())
        self._terminal = await start_terminal(
            self._launcher,
            self._spec,
            self._uid,
            self._hidden,
            argv,
            self._size or DEFAULT_SIZE,
            self._send_output,
            self._shell_ended.set,
        )
        profile = str(self._inputs().get("shellProfile", {}).get("linux", "")) if self._is_shell else ""
        if profile:
            self._terminal.write(profile.encode() + b"\n")
        if self._early_input:
            self._terminal.write(bytes(self._early_input))
            self._early_input.clear()
        self._set_flow()
        await self._until(self._shell_ended.wait())

    def _argv(self) -> list[str]:
        document = self._task.document_content
        kind = document.get("sessionType")
        if kind not in SESSION_TYPES:
            raise StartFailed(
                f"Plugin with name {kind} is not supported by this version of ssm agent, "
                f"please update to latest version. Step name: {kind}"
            )
        if self._inputs().get("runAsEnabled") in (True, "true", "True", "1"):
            user = self._task.run_as_user or self._inputs().get("runAsDefaultUser")
            raise StartFailed(
                f"Unable to start command: failed to start pty since RunAs user {user} does not exist"
                if user
                else "Unable to start command: please set the RunAs default user"
            )
        self._is_shell = kind == "Standard_Stream"
        if self._is_shell:
            return [shell_program()]
        commands = str((document.get("properties") or {}).get("linux", {}).get("commands", ""))
        for name, value in self._parameters().items():
            commands = commands.replace(f"{{{{ {name} }}}}", value).replace(f"{{{{{name}}}}}", value)
        if not commands.strip():
            raise StartFailed("Commands cannot be empty for session type InteractiveCommands")
        return [shell_program(), "-c", commands]

    def _inputs(self) -> dict[str, Any]:
        return self._task.document_content.get("inputs") or {}

    def _parameters(self) -> dict[str, str]:
        """What replaces `{{ name }}` in the document: the caller's values, else the declared defaults."""
        declared = self._task.document_content.get("parameters") or {}
        values = {name: value.get("default", "") for name, value in declared.items() if isinstance(value, dict)}
        values.update(self._task.parameters)
        return {name: str(value[0] if isinstance(value, list) and value else value) for name, value in values.items()}

    def _banner(self) -> bytes:
        """The first output: it opens the client's end, whose size then comes before the shell's prompt."""
        if self._launcher.kind == "none":
            place = "NOT in a sandbox: it can see and do what its user can on the machine that runs FleetOps"
        else:
            place = "in a sandbox on the machine that runs FleetOps"
        platform = f"{self._spec.platform_name} {self._spec.platform_version}"
        return f"{self._spec.hostname} ({platform}), a demo node. This shell is {place}.\r\n".encode()

    def _send_output(self, data: bytes) -> None:
        """Send what the terminal gave, and stop reading it once too much is on its way."""
        if self._channel.state is State.CLOSED:
            return  # the gateway has ended the session, and nobody reads on
        self._channel.send_output(data, now=clock.steady())
        self._flush()
        self._set_flow()

    def _set_flow(self) -> None:
        """Read the terminal only while its output can leave; what is typed goes to it at any time."""
        terminal = self._terminal
        if terminal is None:
            return
        is_open = (
            self._socket is not None
            and self._socket.is_writable
            and not self._channel.is_paused
            and self._channel.unacknowledged_bytes < WINDOW
        )
        if is_open is not terminal.is_wanted:
            (terminal.resume if is_open else terminal.pause)()

    # The data channel

    async def _open_first(self) -> Socket:
        for _ in range(SETUP_TRIES - 1):
            try:
                return await self._until(self._open())
            except CallFailed as error:
                if answer_says(error, GONE_TEXT):
                    raise
                await asyncio.sleep(self._retry.next())
        return await self._until(self._open())

    async def _open(self) -> Socket:
        """Open the data channel, new or again. Raises CallFailed."""
        token = await self._endpoint.create_channel("data-channel", self.session_id)
        path = f"/v1/data-channel/{self.session_id}?role=publish_subscribe"
        socket = await self._endpoint.open_channel(path, self._receive)
        socket.send_text(open_data_channel_agent(uuid4(), token, instance_id=self._spec.instance_id))
        now = clock.steady()
        if self._channel.next_sequence == 0:
            self._channel.send_state("Connected", now=now)
        else:
            self._channel.reconnected(now=now)
        socket.on_writable = self._writable
        self._socket = socket
        self._flush()
        self._set_flow()
        return socket

    async def _keep_open(self, socket: Socket) -> None:
        """Open the data channel again whenever it is lost, for as long as the gateway knows the session."""
        while True:
            reason = await socket.closed
            self._socket = None
            self._set_flow()
            self._changed.set()
            logger.info("data channel lost session=%s reason=%s", self.session_id, reason)
            self._retry.reset()
            while True:
                await asyncio.sleep(self._retry.next())
                try:
                    socket = await self._open()
                    break
                except CallFailed as error:
                    if answer_says(error, GONE_TEXT):
                        self.end()
                        return
            self._changed.set()

    def _receive(self, frame: bytes) -> None:
        terminal, channel = self._terminal, self._channel
        if terminal is not None and not terminal.takes_input and _is_input(frame):
            return  # nothing reads what was typed before; not acknowledged, so it comes again
        try:
            channel.receive(frame, now=clock.steady())
        except RemoteProtocolError as error:
            logger.debug("frame refused session=%s reason=%s", self.session_id, error)
        is_typed = False
        for event in channel.events():
            is_typed = isinstance(event, InputReceived)
            self._happened(event)
        if not is_typed:
            self._flush()
        elif self._acknowledging is None:
            self._acknowledging = self._loop.call_later(ACKNOWLEDGE_SECONDS, self._flush)
        self._set_flow()
        self._changed.set()

    def _happened(self, event: object) -> None:
        match event:
            case InputReceived(data=data):
                if self._terminal is None:
                    self._early_input += data[: MAX_INPUT - len(self._early_input)]
                else:
                    self._terminal.write(data)
            case SizeReceived(cols=cols, rows=rows):
                self._size = (cols, rows)
                self._size_came.set()
                if self._terminal is not None:
                    self._terminal.resize(cols, rows)
            case PublicationStarted():
                # The client is back by a new connection of its own: what the old one lost is sent again at once.
                self._channel.reconnected(now=clock.steady())
            case PublicationPaused():
                logger.debug("paused session=%s", self.session_id)
            case ChannelClosed():
                self.end()

    def _writable(self) -> None:
        self._flush()
        self._set_flow()

    def _flush(self) -> None:
        """Send what the channel has queued, unless the connection is full: then it waits there, within WINDOW."""
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        socket = self._socket
        if socket is not None and socket.is_writable:
            socket.send(*self._channel.data_to_send())
        if self._sweeping is None and self._channel.unacknowledged:
            self._sweeping = self._loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        """Repeat what was not acknowledged in time."""
        self._sweeping = None
        due = self._channel.next_timeout()
        now = clock.steady()
        if due is not None and now >= due and self._socket is not None and self._socket.is_writable:
            self._channel.handle_timeout(now=now)
        self._flush()

    async def _drain(self) -> None:
        """Wait until all output is acknowledged: DRAIN_SECONDS without progress, or longer while nobody is there."""
        waited_since = clock.monotonic()
        left = self._channel.unacknowledged
        while self._channel.unacknowledged:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP):
                    await self._changed.wait()
            now = clock.monotonic()
            if self._channel.unacknowledged < left:
                left, waited_since = self._channel.unacknowledged, now
            is_away = self._channel.is_paused or self._socket is None
            if now - waited_since > (AWAY_SECONDS if is_away else DRAIN_SECONDS):
                return

    async def _until(self, deed: Awaitable[Any]) -> Any:
        """Await `deed`, or raise Ended as soon as the gateway ends the session."""
        doing = asyncio.ensure_future(deed)
        try:
            await asyncio.wait([doing, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Ended
            return doing.result()
        finally:
            doing.cancel()


def _is_input(frame: bytes) -> bool:
    try:
        return peek(frame).message_type == "input_stream_data"
    except RemoteProtocolError:
        return False
