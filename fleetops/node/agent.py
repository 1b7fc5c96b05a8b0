"""A node: its life on the control channel, its sessions and commands, and what it tells the endpoint about itself."""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Final
from uuid import UUID, uuid4

from fleetops import clock
from fleetops.wire import (
    JobReceived,
    JobReplyAcknowledged,
    LocalProtocolError,
    MessageIgnored,
    SessionRequested,
    TaskAcknowledged,
    TaskGaveUp,
    TerminationRequested,
    open_control_channel,
    payloads,
)
from fleetops.wire.controlchannel import ControlChannel, ControlRole

from . import jobs
from .calls import AGENT_NAME, CallFailed, Endpoint, Retry
from .ports import PortSession
from .sandbox import Launcher, Place, choose_uid, prepare
from .session import Session, UnknownSession
from .shells import CommandSession, InteractiveSession, ShellSession
from .spec import Credentials, Directory, NodeSpec, Options
from .websocket import Socket

logger = logging.getLogger(__name__)

# Seconds, before they are scaled; amazon-ssm-agent, agent/session/controlchannel and mgsinteractor.go.
FIRST_RETRY: Final = (5.0, 10.0)
RETRY_CAP: Final = 2_400.0
RETRY_JITTER: Final = 0.5
BACK_AFTER_LOSS: Final = (0.0, 2.5)
MAX_SESSIONS: Final = 1_000  # Mgs.SessionWorkersLimit
TIMER_SECONDS: Final = 0.5  # how often the control channel looks for what is to be told again
SESSIONS: Final[Mapping[str, type[Session]]] = {  # by the document's sessionType
    "Standard_Stream": ShellSession,
    "InteractiveCommands": InteractiveSession,
    "NonInteractiveCommands": CommandSession,
    "Port": PortSession,
}
STOPPED_TEXT: Final = "The instance was stopped, and its shells ended with it."
REBOOT_SECONDS: Final = 10.0  # that a restart of the node takes, before it is scaled
REBOOT_TEXT: Final = "A command restarted this node, and its shells ended with it."
LOST_TEXT: Final = "The agent on this node was restarted, and its shells ended with it."


class Node:
    """One managed instance. `run` lives it; the setters say what the machine around it does."""

    def __init__(self, spec: NodeSpec, options: Options, context: ssl.SSLContext, launcher: Launcher) -> None:
        self.spec = spec
        self._options = options
        self._launcher = launcher
        self._endpoint = Endpoint(spec, options, context)
        self._directory = Directory(spec.home)
        # At once, and not in `run`: of several new nodes each sees the ids that those before it took.
        self._uid = None if launcher.kind == "machine" else choose_uid(spec)
        prepare(spec, self._uid, is_open=launcher.kind == "none")
        self._place = Place(launcher, spec, self._uid, options.hidden)
        self._jobs = jobs.Jobs(
            self._place,
            options,
            self._endpoint,
            reply=self._reply,
            restart=self._reboot,
        )
        self._is_running = True
        self._is_rebooting = False
        self._end_text = STOPPED_TEXT  # what a session that is ended by us tells
        self._may_be_online = asyncio.Event()
        self._must_be_offline = asyncio.Event()
        self._must_be_offline.set()
        self._channel = ControlChannel(ControlRole.AGENT, new_id=uuid4)
        self._socket: Socket | None = None
        self._sessions: dict[str, tuple[Session, asyncio.Task[None]]] = {}
        self._stopping: asyncio.Task[None] | None = None
        self._untold: dict[str, payloads.AgentTaskComplete] = {}  # ends that the endpoint has not acknowledged
        self._connection = ""  # what SSMConnectionChannel says

    @property
    def is_online(self) -> bool:
        return self._socket is not None

    def set_credentials(self, credentials: Credentials | None) -> None:
        """Take the role's credentials, new or renewed; None: the node goes offline, as one that lost its profile."""
        self._endpoint.credentials = credentials
        self._decide()

    def set_running(self, running: bool) -> None:
        """Start the instance, or stop it: all shells end, and the node goes offline."""
        was_running, self._is_running = self._is_running, running
        if running:
            if not was_running and not self._is_rebooting:
                self._directory.count_boot()
                self._jobs.resume()
            self._decide()
        elif self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """End all shells and tell it, as a machine does that has the time to shut down; then be offline."""
        await asyncio.gather(self._end_sessions(), self._jobs.interrupt(jobs.STOPPED_TEXT))
        self._decide()

    async def _reboot(self) -> None:
        """Restart, as a command asked: shells and other commands end, the node is away, and it comes back."""
        logger.info("node restarts instance=%s", self.spec.instance_id)
        self._is_rebooting = True
        self._end_text = REBOOT_TEXT
        try:
            await asyncio.gather(self._end_sessions(), self._jobs.interrupt(jobs.REBOOT_TEXT))
            self._decide()
            if self._launcher.kind == "machine":
                await self._restart_machine()
            await asyncio.sleep(REBOOT_SECONDS * self._options.retry_scale)
        finally:
            self._directory.count_boot()
            self._is_rebooting = False
            self._end_text = STOPPED_TEXT
        self._decide()
        if self._is_running:
            self._jobs.resume()

    async def _restart_machine(self) -> None:
        """Have this machine restarted; it takes us with it. If it does not, we go on, and the script sees that."""
        command = self._options.restart_command
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
            status = await process.wait()
        except OSError as error:
            logger.error("the machine is not restarted command=%s reason=%s", command[0], error)
            return
        if status:
            logger.error("the machine is not restarted command=%s status=%s", command[0], status)

    def _decide(self) -> None:
        if self._is_running and not self._is_rebooting and self._endpoint.credentials is not None:
            self._must_be_offline.clear()
            self._may_be_online.set()
        else:
            self._may_be_online.clear()
            self._must_be_offline.set()

    async def run(self) -> None:
        """Live until cancelled."""
        self._remember_lost()
        self._jobs.start()
        try:
            while True:
                await self._may_be_online.wait()
                online = asyncio.create_task(self._stay_online())
                offline = asyncio.create_task(self._must_be_offline.wait())
                try:
                    await asyncio.wait([online, offline], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (online, offline):
                        task.cancel()
                    await asyncio.wait([online, offline])
                if not online.cancelled() and (error := online.exception()):
                    logger.error("node failed instance=%s", self.spec.instance_id, exc_info=error)
                    await asyncio.sleep(FIRST_RETRY[0] * self._options.retry_scale)
        finally:
            await asyncio.gather(self._end_sessions(), self._jobs.stop())

    async def _end_sessions(self) -> None:
        tasks = [task for _, task in self._sessions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stay_online(self) -> None:
        """Tell who we are, then keep the control channel open and the heart beating."""
        retry = Retry(FIRST_RETRY, RETRY_CAP, jitter=RETRY_JITTER, scale=self._options.retry_scale)
        while True:  # the gate: an agent whose first call is refused opens no channel
            try:
                await self._endpoint.update_information()
                break
            except CallFailed as error:
                logger.warning("node cannot begin instance=%s reason=%s", self.spec.instance_id, error)
                await asyncio.sleep(retry.next())
        heart = asyncio.create_task(self._beat())
        try:
            await self._keep_connected(
                Retry(FIRST_RETRY, RETRY_CAP, jitter=RETRY_JITTER, scale=self._options.retry_scale)
            )
        finally:
            heart.cancel()
            await asyncio.wait([heart])

    async def _beat(self) -> None:
        while True:
            try:
                await self._endpoint.update_information(
                    AgentName=AGENT_NAME,
                    AgentStatus="Active",
                    AvailabilityZone=self.spec.zone,
                    ComputerName=self.spec.hostname,
                    IPAddress=self.spec.ip,
                    PlatformName=self._platform_name(),
                    PlatformVersion=self.spec.platform_version,
                    SSMConnectionChannel=self._connection,
                )
            except CallFailed as error:
                logger.warning("heartbeat failed instance=%s reason=%s", self.spec.instance_id, error)
            await asyncio.sleep(self._options.heartbeat_seconds)

    def _platform_name(self) -> str:
        """The platform; of a node whose shells nothing shuts in, this too: whatever lists the node then shows it."""
        return self.spec.platform_name + (" (no sandbox)" if self._launcher.kind == "none" else "")

    async def _keep_connected(self, retry: Retry) -> None:
        while True:
            try:
                socket = await self._connect()
            except CallFailed as error:
                logger.warning("control channel failed instance=%s reason=%s", self.spec.instance_id, error)
                await asyncio.sleep(retry.next())
                continue
            opened_at = clock.monotonic()
            self._socket = socket
            self._connection = "ssmmessages"
            try:
                await self._serve(socket)
            finally:
                self._socket = None
                socket.close()
            logger.info("control channel lost instance=%s", self.spec.instance_id)
            if clock.monotonic() - opened_at > 1.0:  # one that is thrown out at once goes on doubling its delay
                retry.reset()
                await asyncio.sleep(Retry(BACK_AFTER_LOSS, RETRY_CAP, scale=self._options.retry_scale).next())
            else:
                await asyncio.sleep(retry.next())

    async def _connect(self) -> Socket:
        token = await self._endpoint.create_channel("control-channel", self.spec.instance_id)
        path = f"/v1/control-channel/{self.spec.instance_id}?role=subscribe&stream=input"
        socket = await self._endpoint.open_channel(path, self._receive)
        opener = open_control_channel(
            uuid4(), token, agent_version=self.spec.agent_version, platform_type=self.spec.platform_type.lower()
        )
        socket.send_text(opener)
        return socket

    async def _serve(self, socket: Socket) -> None:
        """Serve one connection until it ends: tell the ends of sessions, again and again where nobody answers."""
        for complete in self._untold.values():
            self._tell(complete)
        self._jobs.connected()
        while not socket.closed.done():
            self._flush()
            await asyncio.wait([socket.closed], timeout=TIMER_SECONDS)
            self._channel.handle_timeout(now=clock.steady())
            self._jobs.look_at_the_time()
            for event in self._channel.events():
                self._happened(event)

    def _receive(self, frame: bytes) -> None:
        self._channel.receive(frame, now=clock.steady())
        for event in self._channel.events():
            self._happened(event)
        self._flush()

    def _flush(self) -> None:
        if self._socket is not None:
            for frame in self._channel.data_to_send():
                self._socket.send(frame)

    def _happened(self, event: object) -> None:
        match event:
            case SessionRequested(task=task):
                self._begin(task)
            case TerminationRequested(session_id=session_id):
                if session_id in self._sessions:
                    self._sessions[session_id][0].end()
            case TaskAcknowledged(task_id=task_id):
                self._untold.pop(task_id, None)
                (self._directory.sessions / task_id).unlink(missing_ok=True)
            case TaskGaveUp(task_id=task_id):
                logger.warning("nobody acknowledges the end of a session session=%s", task_id)
            case JobReceived():
                (code, words), then = self._jobs.take(event)
                self._channel.acknowledge_job(event, now=clock.steady(), status_code=code, error_message=words)
                then()
            case JobReplyAcknowledged(message_id=message_id):
                self._jobs.acknowledged(message_id)
            case MessageIgnored(reason=reason):
                logger.debug("control message ignored instance=%s reason=%s", self.spec.instance_id, reason)

    def _reply(self, reply: payloads.AgentJobReply, message_id: UUID) -> None:
        """Tell how a command fares, if there is anybody to tell it to."""
        if self._socket is not None:
            self._channel.reply_job(reply, now=clock.steady(), message_id=message_id)
            self._flush()

    # Sessions

    def _begin(self, task: payloads.SessionTask) -> None:
        """Start a session; one that is known, or one too many, is dropped without an answer, as the real agent does."""
        if task.session_id in self._sessions or len(self._sessions) >= MAX_SESSIONS or not _is_name(task.session_id):
            logger.warning("session refused instance=%s session=%s", self.spec.instance_id, task.session_id)
            return
        (self._directory.sessions / task.session_id).touch()
        kind = str(task.document_content.get("sessionType"))
        session = SESSIONS.get(kind, UnknownSession)(
            task,
            place=self._place,
            endpoint=self._endpoint,
            retry_scale=min(1.0, self._options.retry_scale),
        )
        self._sessions[task.session_id] = (session, asyncio.create_task(self._live(session)))

    async def _live(self, session: Session) -> None:
        status, output = "Success", ""
        try:
            status, output = await session.run()
        except asyncio.CancelledError:
            status, output = "Failed", self._end_text
            raise
        except Exception:  # the outermost loop of a session: its end is told, and the others live on
            logger.exception("session failed session=%s", session.session_id)
            status, output = "Failed", "The agent on this node failed; its log says why."
        finally:
            del self._sessions[session.session_id]
            logger.info("session ended session=%s status=%s", session.session_id, status)
            self._complete(session.session_id, status, output)

    def _complete(self, session_id: str, status: str, output: str) -> None:
        complete = payloads.AgentTaskComplete(session_id, status, self.spec.instance_id, output)
        self._untold[session_id] = complete
        if self._socket is not None:
            self._tell(complete)
            self._flush()

    def _tell(self, complete: payloads.AgentTaskComplete) -> None:
        try:
            self._channel.complete_task(complete, now=clock.steady())
        except LocalProtocolError as error:
            logger.warning("the end of a session waits session=%s reason=%s", complete.task_id, error)

    def _remember_lost(self) -> None:
        """Shells do not survive the process of their node: those that it had are told as ended."""
        for path in self._directory.sessions.iterdir():
            self._untold[path.name] = payloads.AgentTaskComplete(path.name, "Failed", self.spec.instance_id, LOST_TEXT)


def _is_name(session_id: str) -> bool:
    """Whether a session's id may be a file's name: letters, digits and ._-@, and no dot in front."""
    return session_id[:1] not in ("", ".") and all(
        letter.isascii() and (letter.isalnum() or letter in "._-@") for letter in session_id
    )
