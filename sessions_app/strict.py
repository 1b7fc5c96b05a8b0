"""Strict logging: an Enter goes to the instance once CloudWatch Logs has confirmed the line that it ends.

The line is what the terminal shows where the cursor stands: what is typed without being shown is not in it. So what was
typed before the Enter is sent first, and its echo waited for; then the line is put into the session's stream, by this
process itself, and the Enter is held until AWS has said that it has it, for FLEETOPS_STRICT_SECONDS at most. Then it
passes, with a note in the recording, or the session ends, as the account's settings say. Of a paste each Enter is held
in its turn.

The line stands in the log before the shell has it, so a line may be there that was never carried out; its event says
"input", and the transcript tells what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings

from fleetops import metrics
from fleetops.aws import logs
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import monotonic
from fleetops.errors import UserError

from .commandlog.screen import Screen
from .delivery.lines import Event
from .delivery.logs import SESSION_NAME, make_group
from .delivery.models import LogDelivery, Strict
from .delivery.sources import Teller, told
from .models import TerminalSession
from .services import account_of

if TYPE_CHECKING:
    from .proxy import Proxy

logger = logging.getLogger(__name__)

TELL_SECONDS: Final = 0.3  # an Enter that is held for longer is told of
# An echo has come once all that was typed is acknowledged, something was shown since, and then nothing for so long.
QUIET_SECONDS: Final = 0.1
ECHO_SECONDS: Final = 1.0  # since it was typed: what is not shown by then is not shown at all
_LOOK_SECONDS: Final = 0.02
CONNECT_SECONDS, READ_SECONDS = 2, 3
_RETRY_SECONDS: Final = (0.1, 0.2, 0.4, 0.8)
WAITING_BYTES: Final = 256 * 1024  # of keystrokes; then browsers are not read
TAIL_BYTES: Final = 32 * 1024  # of output, from which the line at the cursor is made out
LINE_LENGTH: Final = 16 * 1024  # characters of one
CTRL_C: Final = b"\x03"
# What has a shell take its line: CR and LF; and Ctrl-O, which readline takes for an Enter too.
_ENTER: Final = re.compile(rb"[\r\n\x0f]")
_ALTERNATE: Final = re.compile(rb"\x1b\[\?(?:47|1047|1049)h")

HELD: Final = "Your Enter waits until CloudWatch Logs has confirmed the line."


@dataclass(frozen=True)
class Rules:
    """What an account wants of the lines of a session, and where they go. Read once, by who owns the session."""

    delivery: LogDelivery
    access: AccountAccess


def rules_of(session: TerminalSession) -> Rules | None:
    """None where no line is held. Raises UserError if the account is gone."""
    delivery = LogDelivery.objects.filter(pk=session.pk).exclude(strict=Strict.OFF).first()
    if delivery is None:
        return None
    access = account_of(session).access()
    quick = {"connect_timeout_seconds": CONNECT_SECONDS, "read_timeout_seconds": READ_SECONDS}
    return Rules(delivery, replace(access, **quick))


class StrictInput:
    """Lets keystrokes through to one session, and holds each Enter. Whoever types, it goes in turn.

    They wait here, and not with the browser that sent them, which has other things to say meanwhile and may leave.
    A Ctrl-C throws away what waits before it, a held Enter too, as a terminal does that has not read its input yet.
    """

    def __init__(self, proxy: Proxy, rules: Rules) -> None:
        self._proxy = proxy
        self._delivery = rules.delivery
        self._access = rules.access
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._room = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._sent_at = 0.0
        self._shown_before = 0  # output when something was last typed
        self._task: asyncio.Task[None] | None = None

    async def type(self, data: bytes) -> None:
        """Take keystrokes; waits only while too many of them wait already."""
        if CTRL_C in data:
            self._waiting.clear()
            self._interrupt.set()
            data = data[data.rindex(CTRL_C) :]
        while len(self._waiting) >= WAITING_BYTES and not self._is_over:
            self._room.clear()
            await self._room.wait()
        self._waiting += data
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._work(), name=f"strict {self._proxy.session.pk}")

    @property
    def _is_over(self) -> bool:
        return self._proxy.is_finishing or self._proxy.is_let_go

    async def _work(self) -> None:
        """Send what waits as far as the next Enter, have that confirmed, and so on."""
        try:
            while self._waiting and not self._is_over:
                enter = _ENTER.search(self._waiting)
                end = enter.end() if enter else len(self._waiting)
                taken = bytes(self._waiting[:end])
                del self._waiting[:end]
                self._room.set()
                self._interrupt.clear()
                text, key = (taken[:-1], taken[-1:]) if enter else (taken, b"")
                await self._send(text)
                if key and await self._may_pass():
                    await self._send(key)
        except Exception:  # the outermost loop of a session's input: what comes next is tried anew
            logger.exception("strict input failed session=%s", self._proxy.session.pk)
        finally:
            self._room.set()

    async def _send(self, data: bytes) -> None:
        if data:
            self._shown_before = self._proxy.journal.output_end
            await self._proxy.type_now(data)
            self._sent_at = self._loop.time()

    async def _may_pass(self) -> bool:
        """Whether the next Enter may go; else the session ends, or somebody pressed Ctrl-C."""
        proxy = self._proxy
        while not proxy.has_sent_all and not self._is_over and not self._interrupt.is_set():
            await asyncio.sleep(_LOOK_SECONDS)  # what holds it up has its own words
        await self._echoed()
        if self._interrupt.is_set() or self._is_over:
            return False
        until = monotonic() + settings.STRICT_HOLD_SECONDS
        stop = threading.Event()
        putting = asyncio.ensure_future(
            proxy.threads.aws(self._confirm, self._tail(), proxy.journal.time_us(), until, stop)
        )
        putting.add_done_callback(_forget)
        interrupted = asyncio.ensure_future(self._interrupt.wait())
        either = {"return_when": asyncio.FIRST_COMPLETED}
        try:
            done, _ = await asyncio.wait({putting, interrupted}, timeout=TELL_SECONDS, **either)
            if not done:
                proxy.hold_input(True, HELD)
                left = max(0.0, until - monotonic())
                done, _ = await asyncio.wait({putting, interrupted}, timeout=left, **either)
        finally:
            proxy.hold_input(False, HELD)
            stop.set()
            interrupted.cancel()
        if self._interrupt.is_set() or self._is_over:
            return False
        return self._outcome(putting if putting in done else None)

    def _outcome(self, putting: asyncio.Future[None] | None) -> bool:
        """Whether the Enter passes; None: CloudWatch Logs did not answer in time."""
        why = "It did not answer in time."
        if putting is not None:
            try:
                putting.result()
            except UserError as error:
                why = str(error)
            except Exception:  # whatever it is, a shell must not hang on it
                logger.exception("a line could not be put session=%s", self._proxy.session.pk)
                why = "FleetOps met a fault of its own; it is in the log."
            else:
                return True
        logger.warning("a line is not confirmed session=%s: %s", self._proxy.session.pk, why)
        if self._delivery.strict == Strict.END:
            self._proxy.end(f"Ended: CloudWatch Logs did not confirm a line in time. {why}", kind="strict")
            return False
        self._proxy.note("unconfirmed", "CloudWatch Logs did not confirm this line; it was let pass.", why=why[:256])
        return True

    async def _echoed(self) -> None:
        """Wait until what was typed has been shown, as far as that can be told."""
        journal = self._proxy.journal
        end, quiet_since = journal.output_end, self._sent_at
        while (moment := self._loop.time()) - self._sent_at < ECHO_SECONDS and not self._is_over:
            if journal.output_end != end:
                end, quiet_since = journal.output_end, moment
            elif not self._proxy.has_sent_all or end == self._shown_before:
                quiet_since = moment
            if moment - quiet_since >= QUIET_SECONDS:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _tail(self) -> bytes:
        """The newest output."""
        journal = self._proxy.journal
        pieces: list[bytes] = []
        with contextlib.closing(journal.cursor(max(0, journal.output_end - TAIL_BYTES))) as cursor:
            while piece := cursor.read():
                if data := getattr(piece, "data", b""):
                    pieces.append(data)
        return b"".join(pieces)[-TAIL_BYTES:]

    # In a thread

    def _confirm(self, output: bytes, time_us: int, until: float, stop: threading.Event) -> None:
        """Have AWS confirm the line. Raises UserError once there is no time left, or no hope."""
        line, is_full_screen = line_at_cursor(output, self._proxy.cols, self._proxy.rows)
        body: dict[str, Any] = {"input": {"line": line[:LINE_LENGTH]}}
        if is_full_screen:
            body["input"]["isFullScreen"] = True
        at_us = self._proxy.journal.state.started_us + time_us
        event = Event(time_us, "input", at_us, body)
        text = Teller(self._proxy.session, self._access).text(event)
        is_unsure = False  # whether it was put without an answer; then it is looked for, and not put again
        error: UserError | None = None
        for wait in (*_RETRY_SECONDS, *[_RETRY_SECONDS[-1]] * 8):
            try:
                if not is_unsure:
                    self._put(event, text)
                    metrics.LOG_EVENTS.labels("input").inc()
                    return
                if self._is_there(event):
                    return
            except AwsError as refusal:
                error = refusal
                is_unsure = is_unsure or (isinstance(refusal, Unavailable) and refusal.is_outcome_unknown)
                if not isinstance(refusal, Unavailable) and refusal.code != logs.NOT_THERE:
                    raise
            if monotonic() + wait > until or stop.wait(wait):
                break
        raise error or UserError("CloudWatch Logs does not show it.")

    def _put(self, event: Event, text: bytes) -> None:
        row, region = self._delivery, self._proxy.session.region
        where = {"group": row.log_group, "stream": row.log_stream, "session_name": SESSION_NAME}
        try:
            rejected = logs.put_events(self._access, region, events=[(event.at_ms, text)], **where)
        except AwsError as error:
            if error.code != logs.NOT_THERE:
                raise
            try:
                logs.make_stream(self._access, region, **where)
            except AwsError as missing:
                if missing.code != logs.NOT_THERE:
                    raise
                make_group(self._access, region, row)
                logs.make_stream(self._access, region, **where)
            rejected = logs.put_events(self._access, region, events=[(event.at_ms, text)], **where)
        if rejected is not None:
            raise UserError("CloudWatch Logs does not take the line for its moment; compare this machine's clock.")

    def _is_there(self, event: Event) -> bool:
        row = self._delivery
        return any(
            told(text) == ("input", event.number)
            for text in logs.read_events(
                self._access,
                self._proxy.session.region,
                group=row.log_group,
                stream=row.log_stream,
                from_ms=event.at_ms,
                to_ms=event.at_ms,
                session_name=SESSION_NAME,
            )
        )


def _forget(putting: asyncio.Future[None]) -> None:
    """Its Enter may have passed by now, or its browser be gone: whatever came of it is in the stream, or is not."""
    if not putting.cancelled() and (error := putting.exception()):
        logger.debug("a line was not put: %s", error)


class _Nobody:
    """What a screen tells of that nobody wants to know here."""

    def line_left(self, row: int) -> None: ...

    def editor(self, is_on: bool) -> None: ...


def line_at_cursor(output: bytes, cols: int, rows: int) -> tuple[str, bool]:
    """The line in which the cursor stands after this output, all its rows, and whether it is of a full-screen program.

    Of a full-screen program (an editor, a pager) it is the row of the screen that it drew last.
    """
    screen = _screen(output, cols, rows)
    is_full_screen = screen.is_alternate
    if is_full_screen:
        *_, last = _ALTERNATE.finditer(output)
        screen = _screen(output[last.end() :], cols, rows)
    first = last_row = screen.cursor[0]
    while first > screen.top and screen.goes_on(first - 1):
        first -= 1
    while last_row < screen.bottom and screen.goes_on(last_row):
        last_row += 1
    return screen.text(first, 0, last_row).strip(), is_full_screen


def _screen(output: bytes, cols: int, rows: int) -> Screen:
    screen = Screen(_Nobody(), cols, rows)
    screen.feed(output)
    return screen
