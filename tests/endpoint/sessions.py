"""A session by hand on a real endpoint: both ends, each a channel of wire on a real websocket."""

import ssl
import time
from typing import Any
from uuid import uuid4

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fleetops import clock
from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    OutputReceived,
    Role,
    SessionRequested,
    open_data_channel_agent,
    open_data_channel_client,
    parse_token_answer,
    payloads,
)
from tests.endpoint.agent import AgentClient
from tests.endpoint.jobs import HandAgent
from tests.support.endpoint import RunningEndpoint

CLIENT_VERSION = "1.2.999.0"
AGENT_VERSION = "3.3.987.0"
_LOOK_SECONDS = 0.02


class End:
    """One end of a data channel. What happened to it is gathered in `happened`; look at both ends with `until`."""

    def __init__(self, socket: ClientConnection, channel: DataChannel) -> None:
        self.socket = socket
        self.channel = channel
        self.happened: list[Any] = []
        self.frames: list[bytes] = []
        self.refused: list[Exception] = []
        self.is_lost = False
        self.send()

    def look(self, seconds: float = _LOOK_SECONDS) -> None:
        """Take in what has come, and send what is due."""
        while not self.is_lost:
            try:
                frame = self.socket.recv(timeout=seconds)
            except TimeoutError:
                break
            except ConnectionClosed:
                self.is_lost = True
                break
            assert isinstance(frame, bytes)
            self.frames.append(frame)
            try:
                self.channel.receive(frame, now=clock.steady())
            except Exception as error:
                self.refused.append(error)
            self.happened += [event for event in self.channel.events() if type(event).__name__ != "Acknowledged"]
            self.send()
        self.channel.handle_timeout(now=clock.steady())
        self.send()

    def send(self) -> None:
        for frame in self.channel.data_to_send():
            if not self.is_lost:
                try:
                    self.socket.send(frame)
                except ConnectionClosed:
                    self.is_lost = True

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.happened if isinstance(event, kind)]

    @property
    def output(self) -> bytes:
        return b"".join(event.data for event in self.of(OutputReceived))

    @property
    def closed(self) -> ChannelClosed | None:
        return next(iter(self.of(ChannelClosed)), None)

    def cut(self) -> None:
        """Lose the connection without a word."""
        self.socket.socket.close()
        self.is_lost = True


def until(condition, *ends: End, seconds: float = 15.0) -> Any:
    """Look at the ends until `condition` is true; what it returned. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, [(end.channel.role, end.happened, end.refused) for end in ends]
        for end in ends:
            end.look()
    return value


class SessionAgent(HandAgent):
    """A node by hand that also opens data channels."""

    def task(self, seconds: float = 10) -> payloads.SessionTask:
        """The next session that the node is to start."""
        return self.next(SessionRequested, seconds).task

    def next(self, kind: type, seconds: float = 10) -> Any:
        """The next event of a kind on the control channel. Raises AssertionError if none comes."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.channel.events():
                if isinstance(event, kind):
                    return event
            self.listen(max(0.01, deadline - time.monotonic()))
            assert time.monotonic() < deadline, f"no {kind.__name__} came"

    def open(self, session_id: str, channel: DataChannel | None = None) -> End:
        """Open the data channel; `channel` is one that was lost before."""
        client = AgentClient(self.endpoint).as_node(self.endpoint, self.instance_id)
        path = f"/v1/data-channel/{session_id}"
        status, body = client.post(path)
        assert status == 201, body
        host = self.endpoint.url.removeprefix("https://")
        query = "?role=publish_subscribe"
        signing = AWSRequest("GET", f"https://{host}{path}{query}", headers={"Host": host})
        SigV4Auth(client._credentials, "ssmmessages", "eu-west-1").add_auth(signing)
        headers = {name: value for name, value in signing.headers.items() if name.lower() != "host"}
        socket = _dial(self.endpoint, f"wss://{host}{path}{query}", headers)
        token = parse_token_answer(body.decode())
        socket.send(open_data_channel_agent(uuid4(), token, instance_id=self.instance_id))
        now = clock.steady()
        if channel is None:
            channel = DataChannel(Role.AGENT, new_id=uuid4, session_id=session_id)
            channel.send_state("Connected", now=now)
        else:
            channel.reconnected(now=now)
        return End(socket, channel)

    def complete(self, session_id: str, status: str = "Success", output: str = "") -> None:
        """Say that a session is over."""
        complete = payloads.AgentTaskComplete(session_id, status, self.instance_id, output)
        self.channel.complete_task(complete, now=clock.steady())
        self._send()


def attach(endpoint: RunningEndpoint, answer: dict[str, Any], channel: DataChannel | None = None) -> End:
    """Open the client's end with what StartSession, or ResumeSession with the old StreamUrl, has answered."""
    socket = _dial(endpoint, answer["StreamUrl"], {})
    socket.send(
        open_data_channel_client(uuid4(), answer["TokenValue"], client_id=str(uuid4()), client_version=CLIENT_VERSION)
    )
    if channel is None:
        channel = DataChannel(Role.CLIENT, new_id=uuid4, session_id=answer["SessionId"])
    else:
        channel.reconnected(now=clock.steady())
    return End(socket, channel)


def _dial(endpoint: RunningEndpoint, url: str, headers: dict[str, str]) -> ClientConnection:
    context = ssl.create_default_context(cafile=endpoint.handover["ca_file"])
    return connect(url, ssl=context, additional_headers=headers, compression=None, legacy=True)
