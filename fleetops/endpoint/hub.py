"""Which nodes are connected, which sessions are open, and how each begins and ends.

One Hub in the endpoint's process, in memory, on its event loop. What must outlive the process is the Store's: after a
restart the hub asks it for the open sessions, the agents dial their data channels again, and the shells go on.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import uuid4

from fleetops import clock
from fleetops.wire import (
    AgentOpener,
    ClientOpener,
    ControlOpener,
    JobAcknowledged,
    JobReplied,
    Message,
    MessageIgnored,
    MessageType,
    TaskCompleted,
    payloads,
    serialize,
)
from fleetops.wire.controlchannel import ControlChannel, ControlRole
from fleetops.wire.frames import milliseconds

from .channels import (
    FAILED,
    NORMAL,
    OPENER_SECONDS,
    REFUSED,
    TOKEN_SECONDS,
    Gone,
    Peer,
    Purpose,
    Receive,
    Refused,
    Send,
    Tokens,
)
from .relay import Relay

logger = logging.getLogger(__name__)

NodeKey = tuple[str, str, str]  # (account id, region, instance id)

CONTROL_SEND_SECONDS: Final = 10.0  # an agent that does not read its control channel for so long is not there
# Sessions of one node: the agent's Mgs.SessionWorkersLimit [agent/appconfig/constants.go].
SESSIONS_EACH: Final = 1_000
OWED_EACH: Final = 1_001  # sessions that a node still has to be told to end: as many as an agent can run
FAREWELL_SECONDS: Final = 2.0  # for the last output to reach the client, and for the agent to close by itself


class NotConnected(Exception):
    """The node has no control channel."""


class TooManySessions(Exception):
    """The node has as many sessions as an agent can run: one more, and it reads its control channel no more."""


class SessionGone(Exception):
    """There is no such session, or it has ended. The real agent gives up at once where the answer says its text."""

    def __init__(self) -> None:
        super().__init__("Session is already terminated")


class NotYours(Exception):
    """The session belongs to another node."""


@dataclass(frozen=True, slots=True)
class SessionTask:
    """A session as StartSession wants it."""

    session_id: str
    key: NodeKey
    document_name: str
    document_content: dict[str, Any]
    parameters: dict[str, Any]
    run_as_user: str
    owner_arn: str
    idle_seconds: int  # without a byte of input or output; 0: no limit
    longest_seconds: int  # 0: no limit
    # StartSession's User-Agent held "fleetops/": our own node then sends 32 KiB in a frame. Set by the SSM API.
    client_is_ours: bool = False
    age_seconds: float = 0.0  # how long it has been open, for open_sessions after a restart


class Store(Protocol):
    """What the hub tells the rest of the endpoint, and asks of it once. All calls are quick."""

    async def node_connected(self, key: NodeKey, agent_version: str, platform_type: str) -> None: ...
    async def node_disconnected(self, key: NodeKey) -> None: ...
    async def session_connected(self, session_id: str) -> None: ...
    async def session_ended(self, session_id: str, status: str, reason: str) -> None: ...
    async def job_acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None: ...
    async def job_replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None: ...
    async def open_sessions(self) -> Sequence[SessionTask]: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the hub waits for whom, in seconds."""

    opener: float = OPENER_SECONDS
    token: float = TOKEN_SECONDS
    first_dial: float = 30.0  # the agent, from the start message; a real one takes 0.1 s
    agent_back: float = 60.0  # the agent, when its data channel was lost; a real one gives up after 5 s
    client_back: float = 900.0  # the client, until it resumes
    client_first: float = TOKEN_SECONDS  # the client, from StartSession: its token lives no longer
    completion: float = 5.0  # agent_task_complete, when the agent said Terminating and closed its data channel
    pause: float = 3.0  # a client that has not come yet, until the agent is told to send nothing
    tick: float = 0.5  # how often all this is looked at


class _Control:
    """One node's control channel."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.channel = ControlChannel(ControlRole.GATEWAY, new_id=uuid4)
        # Held from a message's arrival until what it says is written down: its acknowledge waits in the channel.
        self.lock = asyncio.Lock()
        self.is_lost = False  # what it says could not be written down: nobody sends the acknowledge

    async def flush(self) -> None:
        """Send what the channel has queued. Raises Gone, or TimeoutError if the agent does not read."""
        async with self.lock:
            await self.flush_locked()

    async def flush_locked(self) -> None:
        """`flush` for one who holds the lock."""
        if self.is_lost:
            raise Gone
        async with asyncio.timeout(CONTROL_SEND_SECONDS):
            for frame in self.channel.data_to_send():
                await self.peer.send(frame)


class _Session:
    """An open session: what was asked for, its relay, and its end once that has begun."""

    __slots__ = ("ends_at", "is_restored", "relay", "task")

    def __init__(self, task: SessionTask, *, is_restored: bool = False) -> None:
        self.task = task
        self.relay = Relay(is_port=task.document_content.get("sessionType") == "Port")
        self.relay.agent.was_there = self.relay.client.was_there = is_restored
        # By the clock of moments, for it is an end that was promised; how long nobody types is a time-out.
        self.ends_at = clock.now() + timedelta(seconds=task.longest_seconds - task.age_seconds)


class Hub:
    """The channel half of the endpoint. `start` before anything else, `stop` at the end."""

    def __init__(self, store: Store, *, patience: Patience | None = None) -> None:
        self._store = store
        self._patience = patience or Patience()
        self._tokens = Tokens(self._patience.token)
        self._controls: dict[NodeKey, _Control] = {}
        self._sessions: dict[str, _Session] = {}
        self._finishing: set[str] = set()  # of them, those whose agents have said that they are over
        self._owed: dict[NodeKey, deque[str]] = {}  # sessions to end when the node's control channel is back
        self._ticking: asyncio.Task[None] | None = None
        self._is_closing = False
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up the sessions that were open when this process last ended, and begin to watch the time."""
        for task in await self._store.open_sessions():
            self._sessions[task.session_id] = _Session(task, is_restored=True)
        self._ticking = asyncio.create_task(self._tick())

    def close(self) -> None:
        """We are about to stop: that nodes go is no news."""
        self._is_closing = True

    async def stop(self) -> None:
        """Stop watching the time. Sessions stay open: the next process takes them up."""
        for task in [self._ticking, *self._endings]:
            if task is not None:
                task.cancel()
        await asyncio.gather(*[task for task in [self._ticking, *self._endings] if task], return_exceptions=True)

    # What the HTTP half calls, having authenticated the request

    def is_connected(self, key: NodeKey) -> bool:
        """Whether the node has its control channel open."""
        return key in self._controls

    def connected_nodes(self) -> list[NodeKey]:
        return list(self._controls)

    async def create_control_channel(self, key: NodeKey, request_id: str) -> str:
        """Return a token that opens the node's control channel once."""
        return self._tokens.issue(Purpose("control", key), self._now())

    async def create_data_channel(self, key: NodeKey, session_id: str) -> str:
        """Return a token that opens the agent's end of a session once.

        Raises SessionGone, or NotYours if the session is another node's.
        """
        session = self._sessions.get(session_id)
        if session is None:
            # The shell of a real agent lives on until it is told on the control channel.
            await self._end_at_node(key, session_id)
            raise SessionGone
        if session.task.key != key:
            raise NotYours(f"session {session_id} is not of {key[2]}")
        return self._tokens.issue(Purpose("agent", session_id), self._now())

    async def start_session(self, task: SessionTask) -> str:
        """Have the node start a session; returns the client's token. Raises NotConnected or TooManySessions."""
        control = self._controls.get(task.key)
        if control is None:
            raise NotConnected(f"{task.key[2]} is not connected")
        if sum(session.task.key == task.key for session in self._sessions.values()) >= SESSIONS_EACH:
            raise TooManySessions(f"{task.key[2]} has {SESSIONS_EACH:,} sessions open, and takes no more")
        session = _Session(task)
        self._sessions[task.session_id] = session
        document = task.document_content
        if task.client_is_ours:
            document = {**document, "clientName": "fleetops"}
        control.channel.start_session(
            payloads.SessionTask(
                task.session_id,
                task.document_name,
                document,
                task.parameters,
                task.run_as_user,
                task.owner_arn,
                topic=MessageType.INTERACTIVE_SHELL,
            ),
            now=clock.steady(),
        )
        try:
            await control.flush()
        except (Gone, TimeoutError):
            del self._sessions[task.session_id]
            self._drop(task.key, control)
            await control.peer.close(NORMAL, "the agent does not read its control channel")
            raise NotConnected(f"{task.key[2]} is not connected") from None
        logger.info("session started session=%s instance=%s", task.session_id, task.key[2])
        return self._tokens.issue(Purpose("client", task.session_id), self._now())

    def resume_session(self, session_id: str) -> str:
        """Return a token for a client that comes back. Raises SessionGone."""
        if session_id not in self._sessions:
            raise SessionGone
        return self._tokens.issue(Purpose("client", session_id), self._now())

    async def terminate_session(self, session_id: str, output: str = "") -> None:
        """End a session at both ends, with a text for the client; one that has ended stays as it is."""
        await self._end(session_id, "Terminated", output, output or "terminated on request", tell_agent=True)

    async def disconnect(self, key: NodeKey) -> None:
        """Close the control channel of a node that is no longer managed; its sessions end."""
        for session_id, session in list(self._sessions.items()):
            if session.task.key == key:
                await self._end(session_id, "Terminated", "The node was deregistered.", "deregistered", tell_agent=True)
        self._owed.pop(key, None)
        self._tokens.revoke(Purpose("control", key))  # of a websocket that is open already, and has not said it yet
        if control := self._controls.get(key):
            await control.peer.close(NORMAL, "this node is no longer managed")

    async def send_job(self, key: NodeKey, job: payloads.AgentJob) -> bool:
        """Give a node a job, or one that cancels another; False if the node is not there to take it."""
        control = self._controls.get(key)
        if control is None:
            return False
        control.channel.send_job(job, now=clock.steady())
        try:
            await control.flush()
        except (Gone, TimeoutError):
            return False
        return True

    # The websockets

    async def control_websocket(self, scope: Any, receive: Receive, send: Send, key: NodeKey) -> None:
        """Serve a node's control channel until it ends. One for each node: a new one takes the old one's place."""
        peer = Peer(receive, send)
        if not await peer.accept():
            return
        try:
            opener = await peer.opener(self._patience.opener)
            if not isinstance(opener, ControlOpener):
                raise Refused("this opening message is not of a control channel")
            if not self._tokens.spend(Purpose("control", key), opener.token, self._now()):
                raise Refused("this token does not open this channel, or was used before")
        except Refused as refused:
            self._log_refusal("control channel refused instance=%s reason=%s", key[2], refused)
            await peer.close(REFUSED, str(refused))
            return
        control = _Control(peer)
        before = self._controls.get(key)
        self._controls[key] = control
        if before is not None:
            await before.peer.close(NORMAL, "another connection has taken this one's place")
        logger.info("node connected instance=%s version=%s", key[2], opener.agent_version)
        code = NORMAL
        try:
            await self._store.node_connected(key, opener.agent_version, opener.platform_type)
            for session_id in self._owed.pop(key, ()):
                control.channel.terminate_session(session_id, instance_id=key[2], now=clock.steady())
            await control.flush()
            while (message := await receive())["type"] == "websocket.receive":
                async with control.lock:
                    control.channel.receive(message.get("bytes") or b"", now=clock.steady())
                    try:
                        for event in control.channel.events():
                            await self._control_event(key, event)
                    except BaseException:
                        control.is_lost = True
                        raise
                    await control.flush_locked()
                await asyncio.sleep(0)
        except (Gone, TimeoutError):
            pass
        except Exception:  # the outermost loop of this connection; the node comes back, and says again what was lost
            level = logging.DEBUG if self._is_closing else logging.ERROR
            logger.log(level, "control channel failed instance=%s", key[2], exc_info=True)
            code = FAILED
        finally:
            if self._drop(key, control):
                logger.log(logging.DEBUG if self._is_closing else logging.INFO, "node disconnected instance=%s", key[2])
                await self._store.node_disconnected(key)
        await peer.close(code)

    async def data_websocket(
        self, scope: Any, receive: Receive, send: Send, session_id: str, key: NodeKey | None
    ) -> None:
        """Serve one end of a session's data channel: the agent's if `key` signed the upgrade, else the client's."""
        peer = Peer(receive, send)
        if not await peer.accept():
            return
        try:
            session = await self._admit(peer, session_id, key)
        except Refused as refused:
            self._log_refusal("data channel refused session=%s reason=%s", session_id, refused)
            await peer.close(REFUSED, str(refused))
            return
        if key is None and not session.relay.client.was_there:
            await self._store.session_connected(session_id)
        if self._sessions.get(session_id) is session:  # it may have ended meanwhile
            await (session.relay.serve_client(peer) if key is None else session.relay.serve_agent(peer))
        await peer.close()

    async def _admit(self, peer: Peer, session_id: str, key: NodeKey | None) -> _Session:
        """Read the opener and use its token up. Raises Refused."""
        opener = await peer.opener(self._patience.opener)
        session = self._sessions.get(session_id)
        if session is None:
            raise Refused("there is no such session, or it has ended")
        if key is None:
            kind, is_right = "client", isinstance(opener, ClientOpener)
        else:
            kind = "agent"
            is_right = isinstance(opener, AgentOpener) and session.task.key == key and opener.instance_id == key[2]
        if not is_right:
            raise Refused(f"this opening message is not of this session's {kind}")
        if not self._tokens.spend(Purpose(kind, session_id), opener.token, self._now()):
            raise Refused("this token does not open this channel, or was used before")
        return session

    def _log_refusal(self, text: str, *values: Any) -> None:
        """At our own end connections break in the middle of their beginning, and that is no news."""
        logger.log(logging.DEBUG if self._is_closing else logging.WARNING, text, *values)

    # How sessions end

    async def _control_event(self, key: NodeKey, event: Any) -> None:
        match event:
            case JobAcknowledged(ack=ack):
                await self._store.job_acknowledged(key, ack)
            case JobReplied(reply=reply):
                await self._store.job_replied(key, reply)
            case TaskCompleted(task=task):
                session = self._sessions.get(task.task_id)
                if session is None or session.task.key != key or task.task_id in self._finishing:
                    return  # told twice, as a session that failed is, or after we ended it ourselves
                self._finishing.add(task.task_id)
                failed = task.final_status in {"Failed", "TimedOut"}
                self._in_background(self._finish(task.task_id, failed, task.output.strip()))
            case MessageIgnored(reason=reason):
                logger.debug("control message ignored instance=%s reason=%s", key[2], reason)

    async def _finish(self, session_id: str, failed: bool, output: str) -> None:
        """End a session whose agent says that it is over, once the last of its output has come through."""
        session = self._sessions.get(session_id)
        if session is None:
            return
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                while session.relay.agent.peer is not None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        unsaid = "the node could not go on with it" if session.relay.agent.was_there else "the node could not start it"
        status, reason = ("Failed", output or unsaid) if failed else ("Terminated", "it ended")
        await self._end(session_id, status, output if failed else "", reason, tell_agent=False)

    async def _end(self, session_id: str, status: str, output: str, reason: str, *, tell_agent: bool) -> None:
        """Close a session at both ends, tell the store; of two calls the first counts. `output` is for the client."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        self._finishing.discard(session_id)
        for kind in ("agent", "client"):
            self._tokens.revoke(Purpose(kind, session_id))
        logger.info("session ended session=%s status=%s reason=%s", session_id, status, reason)
        relay, key = session.relay, session.task.key
        agent, client = relay.agent.peer, relay.client.peer
        notice = _channel_closed(session_id, key[2], output)
        if tell_agent:
            await self._end_at_node(key, session_id)
            await _send(agent, notice)
        if client is not None:
            try:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await relay.to_client.flush()
            except TimeoutError:
                pass
            await _send(client, notice)
            await client.close()
        await self._store.session_ended(session_id, status, reason)
        if agent is not None:
            self._in_background(self._part(relay, agent))

    async def _part(self, relay: Relay, agent: Peer) -> None:
        """Let the agent close its data channel by itself, as it does when its shell is dead."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                while relay.agent.peer is agent:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        await agent.close()

    async def _end_at_node(self, key: NodeKey, session_id: str) -> None:
        """Tell the node on its control channel to end a session; now, or when it is back."""
        control = self._controls.get(key)
        if control is not None:
            control.channel.terminate_session(session_id, instance_id=key[2], now=clock.steady())
            try:
                await control.flush()
                return
            except (Gone, TimeoutError):
                pass
        self._owed.setdefault(key, deque(maxlen=OWED_EACH)).append(session_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._patience.tick)
            now = self._now()
            self._tokens.sweep(now)
            for session_id, session in list(self._sessions.items()):
                relay = session.relay
                if end := self._overdue(session, now):
                    status, text = end
                    self._in_background(self._end(session_id, status, text, text or "it ended", tell_agent=True))
                elif (
                    relay.agent.peer is not None
                    and relay.client.peer is None
                    and not relay.is_paused
                    and now - relay.agent.came_at > self._patience.pause
                ):
                    self._in_background(relay.pause())

    def _overdue(self, session: _Session, now: float) -> tuple[str, str] | None:
        """Return how a session ends whose time is over, as status and a text for the user; None if it goes on."""
        relay, task, patience = session.relay, session.task, self._patience
        node = task.key[2]
        if relay.agent.peer is None:
            away = now - relay.agent.left_at
            if not relay.agent.was_there:
                if away > patience.first_dial:
                    return "Failed", (
                        f"{node} took the order but did not open the session within {patience.first_dial:g} seconds; "
                        "check the agent's log on it."
                    )
            elif relay.is_terminating:
                if away > patience.completion:
                    return "Terminated", ""
            elif away > patience.agent_back:
                return "Terminated", f"{node} went away and was not back within {patience.agent_back:g} seconds."
        if relay.client.peer is None:
            away = now - relay.client.left_at
            if away > (patience.client_back if relay.client.was_there else patience.client_first):
                return "Terminated", "Nobody came back to this session in time."
        if task.idle_seconds and now - relay.moved_at > task.idle_seconds:
            return (
                "Terminated",
                f"Nothing was typed or shown for {_length(task.idle_seconds)}, so the session was ended.",
            )
        if task.longest_seconds and clock.now() >= session.ends_at:
            return (
                "Terminated",
                f"The session was ended after {_length(task.longest_seconds)}, the longest that it may last.",
            )
        return None

    # Small things

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _drop(self, key: NodeKey, control: _Control) -> bool:
        """Forget a control channel; False if another has taken its place."""
        if self._controls.get(key) is not control:
            return False
        del self._controls[key]
        return True

    def _in_background(self, deed: Any) -> None:
        task = asyncio.create_task(deed)
        self._endings.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("the hub failed in the background", exc_info=error)


async def _send(peer: Peer | None, frame: bytes) -> None:
    """Send a last message to whoever may be there."""
    if peer is None:
        return
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await peer.send(frame)
    except (Gone, TimeoutError):
        pass


def _channel_closed(session_id: str, instance_id: str, output: str) -> bytes:
    now = milliseconds(clock.steady())
    message_id = uuid4()
    notice = payloads.ChannelClosed(str(message_id), payloads.iso_time(now), session_id, instance_id, output)
    return serialize(Message(MessageType.CHANNEL_CLOSED, 0, notice.serialize(), 0, message_id, now))


def _length(seconds: int) -> str:
    """A number of seconds in words."""
    if seconds % 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    return "a minute" if minutes == 1 else f"{minutes} minutes"
