"""The endpoint's side of the moto child: start it, ask it, start it again when it dies.

A question that was under way when the child died is put again to the next one, under the same request id, so that its
sender sees nothing but a delay and nothing is done twice.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.framing import LENGTHS, OWN_EVENT, pack
from fleetops.endpoint.moto_process import REFUSED

logger = logging.getLogger(__name__)

# How long a question waits for its answer, restarts of the child included; then it is told to come again.
_PATIENCE_SECONDS = 25.0
_STUCK_SECONDS = 50.0  # without any answer; the slowest, a snapshot of much, takes seconds
_RESTART_SECONDS = (0.0, 0.2, 1.0, 2.0, 5.0)
# Questions that wait at most; the next one is told to come again at once.
_MOST_WAITING = 512


class MotoRefused(Exception):
    """The child's state must not be used; the text, which the child has printed too, says what to do."""


class MotoClient:
    """The child process and the questions put to it."""

    def __init__(self, directory: Path, keys: Path, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """`on_ready` is called each time a child is ready, the first one too."""
        self._directory = directory
        self._keys = keys
        self._on_ready = on_ready
        self._waiting: dict[int, tuple[bytes, asyncio.Future[tuple[dict[str, Any], bytes]]]] = {}
        self._numbers = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._refused: MotoRefused | None = None
        self._closing = False
        self._silent_since: float | None = None  # monotonic seconds; None while nothing is asked

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def ready(self) -> None:
        """Wait until the child answers. Raises MotoRefused if its state must not be used."""
        waiter = asyncio.create_task(self._ready.wait())
        assert self._keeper is not None
        await asyncio.wait({waiter, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self._refused is not None:
            raise self._refused

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def stop(self) -> None:
        """Close the socket, at which the child ends by itself; kill it after a second."""
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        process = self._process
        if process is not None:
            for _ in range(50):
                if process.poll() is not None:
                    break
                await asyncio.sleep(0.02)
            else:
                process.kill()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if process is not None:
            process.wait()

    async def ask(self, question: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Put one question (see `Child.answer`); its answer.

        Raises ApiError (ServiceUnavailable, to be tried again) if there is none in time.
        """
        if len(self._waiting) >= _MOST_WAITING or self._closing or self._refused is not None:
            raise unavailable()
        number = next(self._numbers)
        frame = pack({**question, "number": number}, body)
        future: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (frame, future)
        try:
            if self._ready.is_set():
                self._write(frame)
                if self._silent_since is None:
                    self._silent_since = clock.monotonic()
            async with asyncio.timeout(_PATIENCE_SECONDS):
                header, content = await future
        except TimeoutError:
            self._kill_if_stuck()
            raise unavailable() from None
        finally:
            self._waiting.pop(number, None)
        if "fault" in header:
            raise ApiError("InternalFailure", "The request failed within the endpoint; its log says why.", 500)
        return header, content

    def _kill_if_stuck(self) -> None:
        """A child that has said nothing for so long does not come back by itself: the next one goes on for it."""
        since, process = self._silent_since, self._process
        if since is None or process is None or clock.monotonic() - since < _STUCK_SECONDS:
            return
        logger.error("moto is stuck, it is killed pid=%s", process.pid)
        self._silent_since = None
        process.kill()

    async def result(self, **question: Any) -> Any:
        """The `result` of a question that has one."""
        header, _ = await self.ask(question)
        return header["result"]

    async def tell(self, event: Mapping[str, Any]) -> None:
        """Give EventBridge an event of a service of ours; a repeat soon after is none. Raises ApiError."""
        if not await self.result(ask="listens", account=event["account"], region=event["region"]):
            return  # thousands of events that nobody wants need not stand in the journal
        call = {
            "request_id": event["id"],
            "now": clock.now().timestamp(),
            "seed": hashlib.sha256(event["id"].encode()).hexdigest(),
            "account": event["account"],
            "service": "events",
            "region": event["region"],
            "protocol": "json",
            "operation": OWN_EVENT,
            "changes": True,
        }
        await self.ask({"ask": "call", "call": call}, orjson.dumps(event))

    async def _keep(self) -> None:
        for attempt in itertools.count():
            ours, theirs = socket.socketpair()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fleetops.endpoint.moto_process"),
                    *("--directory", str(self._directory), "--keys", str(self._keys)),
                    *("--descriptor", str(theirs.fileno())),
                    *(["--first"] if attempt == 0 else []),
                ],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            reader, self._writer = await asyncio.open_connection(sock=ours)
            try:
                await self._read(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                worked = self._ready.is_set()
                self._ready.clear()
                self._silent_since = None
                self._writer.close()
            status = await asyncio.to_thread(self._process.wait)
            if self._closing:
                return
            if status == REFUSED:
                self._refused = MotoRefused("moto's state is refused; see the line above")
                return
            logger.warning("moto ended status=%s; it is started again", status)
            await asyncio.sleep(_RESTART_SECONDS[0 if worked else min(attempt, len(_RESTART_SECONDS) - 1)])

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            head_length, body_length = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
            header = orjson.loads(await reader.readexactly(head_length))
            body = await reader.readexactly(body_length)
            if header.get("ready"):
                self._ready.set()
                self._on_ready()
                for frame, _ in self._waiting.values():
                    self._write(frame)
                continue
            self._silent_since = clock.monotonic() if len(self._waiting) > 1 else None
            waiting = self._waiting.get(header["number"])
            if waiting is not None and not waiting[1].done():
                waiting[1].set_result((header, body))

    def _write(self, frame: bytes) -> None:
        if self._writer is not None:
            # uvloop's word for a child that has just died; the next one is asked again.
            with contextlib.suppress(RuntimeError):
                self._writer.write(frame)


def unavailable() -> ApiError:
    return ApiError("ServiceUnavailable", "The service is starting; please try again.", 503)
