"""One session on a node: its data channel, from the start message to the end. What is behind it is its subclass's.

A session outlives the connections of its channel. `shells` has what runs a program, `ports` what carries connections.
"""

import asyncio
import base64
import contextlib
import logging
import os
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar, Final
from uuid import uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops import clock
from fleetops.documents.parameters import substitute
from fleetops.wire import (
    ChallengeMet,
    ChannelClosed,
    DataChannel,
    FlagReceived,
    HandshakeResponded,
    InputReceived,
    LocalProtocolError,
    PayloadType,
    PublicationPaused,
    PublicationStarted,
    RemoteProtocolError,
    Role,
    SizeReceived,
    open_data_channel_agent,
    payloads,
    peek,
)
from fleetops.wire.blockcipher import BlockCipher, CountingNonce
from fleetops.wire.datachannel import STREAM_PAYLOAD, SWEEP, State

from .calls import CallFailed, CallRefused, Endpoint, Retry, answer_says
from .sandbox import Place, StartFailed
from .websocket import Socket

logger = logging.getLogger(__name__)

OUR_PAYLOAD: Final = 32 * 1024  # bytes of output in a frame, to a client that says it takes them

# Bytes of output on their way to the client; at this what makes it is not read any more, and the program waits. It is
# what one session costs here at most, and what still comes after a Ctrl-C in a flood.
WINDOW: Final = 512 * 1024

# Seconds that the acknowledge of a keystroke waits for the echo, to travel with it: one wake-up less for each process
# on the way. Far below the time after which a client repeats (200 ms).
ACKNOWLEDGE_SECONDS: Final = 0.002

SETUP_TRIES: Final = 6  # to open the data channel of a new session: the real agent's five retries
DRAIN_SECONDS: Final = 2.0  # for the last output to be acknowledged, as the real agent waits
AWAY_SECONDS: Final = 60.0  # the same, while the client is away
HANDSHAKE_SECONDS: Final = 15.0  # for the client's answer, and again for its proof. datachannel.go
CHALLENGE_BYTES: Final = 64
CONTEXT_CHALLENGE_BYTES: Final = 16
GONE_TEXT: Final = "Session is already terminated"
ENCRYPTED_TEXT: Final = "This session is encrypted using AWS KMS."
_HANDSHAKE_FAILED: Final = "Encountered error while initiating handshake. "


class Ended(Exception):
    """The gateway has ended the session; nothing is to be told to it but that this is done."""


class Session:
    """A session from its start message to its end. `run` returns the status and the text for agent_task_complete."""

    needs_handshake: ClassVar[bool] = False
    may_be_encrypted: ClassVar[bool] = True
    tells_its_end: ClassVar[bool] = True  # by "Terminating" on the data channel

    def __init__(self, task: payloads.SessionTask, *, place: Place, endpoint: Endpoint, retry_scale: float) -> None:
        self.session_id = task.session_id
        self._task = task
        self._place = place
        self._spec = place.spec
        self._endpoint = endpoint
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
        self._room = asyncio.Event()  # for output
        self._changed = asyncio.Event()  # something was acknowledged, or the connection changed
        self._ended = self._loop.create_future()  # by the gateway
        self._answered: asyncio.Future[payloads.HandshakeResponse] = self._loop.create_future()
        self._proven: asyncio.Future[None] = self._loop.create_future()
        self._sweeping: asyncio.TimerHandle | None = None
        self._acknowledging: asyncio.TimerHandle | None = None
        self.client_version = ""  # known after a handshake

    # What a kind of session does by itself

    async def _live(self) -> None:
        """Begin what the session is for, and return when it is over. Raises StartFailed, or Ended."""
        raise NotImplementedError

    def _take_input(self, data: bytes) -> None:
        raise NotImplementedError

    def _take_size(self, cols: int, rows: int) -> None:
        pass

    def _take_flag(self, flag: int) -> None:
        pass

    @property
    def _takes_input(self) -> bool:
        """Whether input has a place to go; if not, it is not acknowledged, and comes again."""
        return True

    def _set_flow(self) -> None:
        """Read on, or no more, as `_may_send` says."""
        (self._room.set if self._may_send else self._room.clear)()

    def _stop(self) -> None:
        """End what is left, at once."""

    @property
    def _may_send(self) -> bool:
        """Whether output can leave. What makes it waits until then."""
        return (
            self._socket is not None
            and self._socket.is_writable
            and not self._channel.is_paused
            and self._channel.unacknowledged_bytes < WINDOW
        )

    # From beginning to end

    async def run(self) -> tuple[str, str]:
        """Live the session. Cancelled, it kills what it started."""
        try:
            socket = await self._open_first()
        except CallFailed as error:
            return "Failed", f"The data channel could not be opened: {error}"
        except Ended:
            return "Success", ""
        keeping = asyncio.create_task(self._keep_open(socket))
        try:
            await self._shake_hands()
            await self._live()
            await self._until(self._drain())
            if self.tells_its_end and not self._ended.done():
                self._channel.send_state("Terminating", now=clock.steady())
                self._flush()
            return "Success", ""
        except StartFailed as error:
            return "Failed", str(error)
        except Ended:
            return "Success", ""
        finally:
            keeping.cancel()
            self._stop()
            for timer in (self._sweeping, self._acknowledging):
                if timer is not None:
                    timer.cancel()
            if self._socket is not None:
                self._socket.close()

    def end(self) -> None:
        """The gateway has said that the session is over."""
        if not self._ended.done():
            self._ended.set_result(None)

    def _inputs(self) -> dict[str, Any]:
        return substitute(self._task.document_content.get("inputs") or {}, self._parameters())

    def _properties(self) -> dict[str, Any]:
        properties = substitute(self._task.document_content.get("properties") or {}, self._parameters())
        return properties if isinstance(properties, dict) else {}

    def _parameters(self) -> dict[str, str]:
        """What replaces `{{ name }}` in the document: the caller's values, else the declared defaults."""
        declared = self._task.document_content.get("parameters") or {}
        values = {name: value.get("default", "") for name, value in declared.items() if isinstance(value, dict)}
        values.update(self._task.parameters)
        return {name: str(value[0] if isinstance(value, list) and value else value) for name, value in values.items()}

    # The handshake

    async def _shake_hands(self) -> None:
        """Agree with the client on the kind of session, and on a key where one is asked for. Raises StartFailed."""
        key_id = str(self._inputs().get("kmsKeyId") or "") if self.may_be_encrypted else ""
        if not self.needs_handshake and not key_id:
            return
        kind = str(self._task.document_content.get("sessionType"))
        challenge = os.urandom(CONTEXT_CHALLENGE_BYTES)
        request = payloads.HandshakeRequest.for_session(
            self._spec.agent_version,
            kind,
            self._properties() if kind == "Port" else None,
            kms_key_id=key_id,
            challenge=challenge,
        )
        self._channel.request_handshake(request, now=clock.steady())
        self._flush()
        response = await self._hear(
            self._answered,
            "Handshake timed out. Please ensure that you have the latest version of the session manager plugin.",
        )
        self.client_version = response.client_version
        if response.refusal:
            raise StartFailed(_HANDSHAKE_FAILED + response.refusal)
        if key_id:
            await self._encrypt(key_id, response, base64.b64encode(challenge).decode())
        self._channel.complete_handshake(ENCRYPTED_TEXT if key_id else "", now=clock.steady())
        self._flush()

    async def _encrypt(self, key_id: str, response: payloads.HandshakeResponse, challenge: str) -> None:
        """Have KMS open the client's data key, and the client prove that it holds the same. Raises StartFailed."""
        try:
            data_key = response.data_key
        except RemoteProtocolError as error:
            raise StartFailed(f"{_HANDSHAKE_FAILED}{error}") from None
        if data_key is None:
            raise StartFailed(f"{_HANDSHAKE_FAILED}KMSEncryption was not processed on client")
        context = payloads.encryption_context(
            self.session_id, self._spec.instance_id, challenge=challenge if data_key.has_challenge else ""
        )
        plain = await self._until(self._decrypt(key_id, data_key.ciphertext, context))
        try:
            cipher = BlockCipher(plain, is_agent=True, cipher=AESGCM, next_nonce=CountingNonce(os.urandom(12)))
        except LocalProtocolError as error:
            raise StartFailed(f"{_HANDSHAKE_FAILED}Fetching data key failed: {error}") from None
        self._channel.encrypt(cipher, refusals=(InvalidTag,))
        self._channel.send_challenge(os.urandom(CHALLENGE_BYTES), now=clock.steady())
        self._flush()
        await self._hear(self._proven, "Timed out waiting for encryption challenge.")

    async def _decrypt(self, key_id: str, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        body = {
            "CiphertextBlob": base64.b64encode(ciphertext).decode(),
            "EncryptionContext": dict(context),
            "KeyId": key_id,
        }
        try:
            answer = await self._endpoint.call("kms", "TrentService.Decrypt", body)
            return base64.b64decode(str(answer.get("Plaintext", "")), validate=True)
        except (CallFailed, ValueError) as error:
            words = error.body if isinstance(error, CallRefused) else str(error)
            raise StartFailed(
                f"{_HANDSHAKE_FAILED}Fetching data key failed: "
                f"Unable to retrieve data key, Error when decrypting data key {words[:500]}"
            ) from None

    async def _hear(self, future: "asyncio.Future[Any]", words: str) -> Any:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                return await self._until(asyncio.shield(future))
        except TimeoutError:
            raise StartFailed(_HANDSHAKE_FAILED + words) from None

    # Output

    def _send_output(self, data: bytes, payload_type: int = PayloadType.OUTPUT) -> None:
        """Send what the program or the port gave, and stop reading it once too much is on its way."""
        if self._channel.state is State.CLOSED:
            return  # the gateway has ended the session, and nobody reads on
        self._channel.send_output(data, now=clock.steady(), payload_type=payload_type)
        self._flush()
        self._set_flow()

    async def _send_when_possible(self, data: bytes, payload_type: int = PayloadType.OUTPUT) -> None:
        """Send it once there is room, for one of several that may want to at the same time."""
        while not self._may_send and self._channel.state is not State.CLOSED:
            self._room.clear()
            await self._room.wait()
        self._send_output(data, payload_type)

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
        channel = self._channel
        if not self._takes_input and _is_input(frame):
            return  # nothing reads what came before; not acknowledged, so it comes again
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
                self._take_input(data)
            case SizeReceived(cols=cols, rows=rows):
                self._take_size(cols, rows)
            case FlagReceived(flag=flag):
                self._take_flag(flag)
            case HandshakeResponded(response=response):
                if not self._answered.done():
                    self._answered.set_result(response)
            case ChallengeMet():
                if not self._proven.done():
                    self._proven.set_result(None)
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


class UnknownSession(Session):
    """A session of a type that we do not have."""

    async def _live(self) -> None:
        kind = self._task.document_content.get("sessionType")
        raise StartFailed(
            f"Plugin with name {kind} is not supported by this version of ssm agent, "
            f"please update to latest version. Step name: {kind}"
        )

    def _take_input(self, data: bytes) -> None:
        pass


def _is_input(frame: bytes) -> bool:
    try:
        return peek(frame).message_type == "input_stream_data"
    except RemoteProtocolError:
        return False
