"""All sessions that one terminal process owns: finding them, taking them over, keeping their rows fresh."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from fleetops import metrics
from fleetops.clock import ago

from . import live, services, spool
from .journal import Journal, JournalBusy, JournalFull
from .models import TerminalSession
from .proxy import Proxy, in_words
from .recording import Sealer
from .services import LateOwner
from .strict import Rules as StrictRules
from .strict import StrictInput
from .strict import rules_of as strict_rules
from .threads import Threads
from .transfers import rows as transfers
from .transfers.engine import TransferEnd
from .transfers.models import Transfer
from .visitors import Visitors
from .wake import group_of

logger = logging.getLogger(__name__)

FIND_SECONDS = 15.0  # for an owner that is being replaced to answer
SEAL_LOOK_SECONDS = 0.25
BEAT_SECONDS = 2.0
JANITOR_FIRST_SECONDS = 2.0  # browsers that come back at once are served first
JANITOR_SECONDS = 5.0
SPOOL_LOOK_SECONDS = 10.0
KEEP_BYTES = 2 << 20  # of each journal, when the spool is over its quota: the scroll-back of a reload
RELAY_PATH = "/relay"


class Ended(Exception):
    """The session is over."""

    def __init__(self, session: TerminalSession) -> None:
        super().__init__(session.end_reason)
        self.session = session


class Unreachable(Exception):
    """The process that holds the session does not answer; the text is for the user."""


@dataclass(frozen=True)
class Elsewhere:
    """Another process owns the session: where it takes relayed browsers, and the word that opens it."""

    host: str
    port: int
    token: str

    @classmethod
    def parse(cls, owner: str) -> Elsewhere:
        address, _, token = owner.rpartition(":")
        host, _, port = address.rpartition(":")
        return cls(host.strip("[]"), int(port), token)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}{RELAY_PATH}"


class Terminals:
    """The sessions of this process."""

    def __init__(self, on_relayed: Callable[[ServerConnection], Awaitable[None]]) -> None:
        self._on_relayed = on_relayed
        self.threads = Threads()
        self.visitors = Visitors(self.threads)
        self.host = ""
        self.owner = ""  # host:port:token, as sessions' rows hold it
        self.proxies: dict[UUID, Proxy] = {}
        self._finding: dict[UUID, asyncio.Lock] = {}
        self._token = secrets.token_hex(16)
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._asked_at: float | None = None  # since when the database owes the beat an answer

    async def start(self) -> None:
        """Open the door for relayed browsers, and begin to look after sessions."""
        self.host = await self.threads.database(spool.host_name)
        self._server = await serve(
            self._relayed,
            settings.TERMINAL_RELAY_HOST,
            0,
            process_request=self._check_relay,
            compression=None,
            max_size=1 << 19,
            max_queue=2,
            server_header=None,
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self.owner = f"[{host}]:{port}:{self._token}" if ":" in host else f"{host}:{port}:{self._token}"
        for work in (self._beat, self._seal, self._listen, self._tidy, self._watch_spool, self.visitors.look):
            self._tasks.append(asyncio.create_task(work(), name=f"terminals {work.__name__}"))
        metrics.SPOOL_QUOTA.set(settings.SPOOL_QUOTA_BYTES)
        metrics.TERMINAL_LIVE.set_function(lambda: len(self.proxies))
        metrics.ask(
            "fleetops_terminal_lag_bytes",
            "Output in journals that the browser furthest behind has not shown yet.",
            (),
            lambda: [((), max((proxy.lag() for proxy in list(self.proxies.values())), default=0))],
            database=False,
        )
        logger.info("terminal process ready host=%s relay_port=%d", self.host, port)

    async def stop(self) -> None:
        """Let go of all sessions, so that the next process goes on with them."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        proxies = list(self.proxies.values())
        for proxy in proxies:
            proxy.let_go()
        tasks = [proxy.task for proxy in proxies if proxy.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=3)
        if self._server is not None:
            self._server.close(close_connections=True)
        try:
            await self.threads.database(services.release, self.owner)
        except DatabaseError as error:
            logger.warning("the next process has to find out that this one has ended: %s", error)
        self.threads.close()
        logger.info("terminal process ends sessions_let_go=%d", len(proxies))

    # Finding

    async def find(self, session_id: UUID) -> Proxy | Elsewhere:
        """The owner of a live session: this process, which takes it if nobody else has it, or another.

        Raises Ended if it is over, Unreachable if its owner is neither here nor alive.
        """
        deadline = asyncio.get_running_loop().time() + FIND_SECONDS
        lock = self._finding.setdefault(session_id, asyncio.Lock())
        try:
            async with lock:
                while True:
                    if (proxy := self.proxies.get(session_id)) is not None and not proxy.is_let_go:
                        return proxy
                    session = await self.threads.database(_live_session, session_id)
                    if session.owner_host in ("", self.host):
                        try:
                            return await self._take(session)
                        except JournalBusy:
                            pass  # a process of this host has it, alive
                        except (LateOwner, JournalFull) as error:
                            logger.info("not taken session=%s: %s", session_id, error)
                            session.owner = ""
                    if session.owner and session.owner != self.owner and session.owner_seen_at is not None:
                        elsewhere = Elsewhere.parse(session.owner)
                        is_fresh = session.owner_seen_at > ago(services.OWNER_STALE_SECONDS)
                        if is_fresh and await _answers(elsewhere):
                            return elsewhere
                    if asyncio.get_running_loop().time() > deadline or self._is_stopping:
                        raise Unreachable("The process that holds this session does not answer. Try again in a minute.")
                    await asyncio.sleep(0.25)
        finally:
            if not lock.locked():
                self._finding.pop(session_id, None)

    async def _take(self, session: TerminalSession) -> Proxy:
        """Own a session that nobody holds. Raises JournalBusy, LateOwner, JournalFull."""
        if self._is_stopping:
            raise LateOwner("this process ends")
        is_new = session.owner_epoch == 0
        journal, sealer, strict, transfer = await self.threads.database(self._claim, session)
        proxy = Proxy(session, journal, sealer, threads=self.threads, on_gone=self._gone, is_new=is_new)
        proxy.strict = StrictInput(proxy, strict) if strict else None
        if transfer is not None:
            proxy.transfer = TransferEnd(proxy, transfer, parent=lambda: self.proxies.get(transfer.parent_id))
            if not is_new:
                proxy.spawn(proxy.transfer.abandon())
        self.proxies[session.pk] = proxy
        proxy.run()
        return proxy

    def _claim(self, session: TerminalSession) -> tuple[Journal, Sealer, StrictRules | None, Transfer | None]:
        journal = Journal(spool.session_directory(session.pk), quota_bytes=settings.SESSION_QUOTA_BYTES)
        try:
            services.claim(session, owner=self.owner, host=self.host)
            return journal, Sealer(session, journal), strict_rules(session), transfers.of(session)
        except BaseException:
            journal.close()
            raise

    def _gone(self, proxy: Proxy) -> None:
        if self.proxies.get(proxy.session.pk) is proxy:
            del self.proxies[proxy.session.pk]

    # Relayed browsers

    def _check_relay(self, connection: ServerConnection, request: Request) -> Response | None:
        """Turn away whoever does not know the word of this process."""
        given = request.headers.get("Authorization", "")
        if request.path == RELAY_PATH and hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return None
        return connection.respond(403, "no\n")

    async def _relayed(self, connection: ServerConnection) -> None:
        await self._on_relayed(connection)

    # Looking after sessions

    async def _beat(self) -> None:
        """Say every 2 s that this process lives; read each second what its sessions are asked."""
        loop = asyncio.get_running_loop()
        beaten_at = 0.0
        while True:
            await asyncio.sleep(1)
            moment = loop.time()
            for proxy in list(self.proxies.values()):
                proxy.check_limits()
            is_due = moment - beaten_at >= BEAT_SECONDS - 0.1
            if self._asked_at is None:
                self._asked_at = moment
            try:
                await self._look(list(self.proxies), beat=is_due)
            except DatabaseError as error:
                logger.warning("the database does not answer the beat: %s", error)
                continue
            except Exception:  # the outermost loop: without its beat this process is taken for dead
                logger.exception("the beat failed")
                continue
            self._asked_at = None
            if is_due:
                beaten_at = moment

    def _check_database(self) -> None:
        """Without the database nobody can end a session or take a permission away: hold input, then end."""
        silent = 0.0 if self._asked_at is None else asyncio.get_running_loop().time() - self._asked_at
        for proxy in list(self.proxies.values()):
            proxy.hold_input(silent > settings.DATABASE_HOLD_SECONDS)
            if silent > settings.DATABASE_GONE_SECONDS:
                length = in_words(settings.DATABASE_GONE_SECONDS)
                proxy.end(
                    f"FleetOps could not reach its database for {length}, so nobody could be checked.", kind="database"
                )

    async def _look(self, session_ids: list[UUID], *, beat: bool) -> None:
        """Carry out what the database says of these sessions."""
        proxies = {pk: self.proxies[pk] for pk in session_ids if pk in self.proxies}
        orders = await self.threads.beat(services.heartbeat, self.owner, list(proxies), beat=beat)
        for pk, proxy in proxies.items():
            order = orders.get(pk)
            if order is None or proxy.is_finishing:
                continue
            if not order.is_mine:
                logger.warning("another process took the session session=%s", pk)
                proxy.let_go()
            elif order.end_requested_by:
                proxy.end(f"Ended by {order.end_requested_by}.", kind="person")
            elif order.deadline_at != proxy.session.deadline_at and not order.taken_away:
                proxy.put_off(order.deadline_at)
            elif order.taken_away:
                proxy.end(f"Ended: {order.taken_away}.", kind="access")
        await self._say_messages()

    async def _say_messages(self) -> None:
        """Show and record what people said to sessions of this process. Written down first, then taken for said."""
        waiting = await self.threads.beat(live.unshown, self.owner)
        said = [message for message in waiting if message.session_id in self.proxies]
        for message in said:
            self.proxies[message.session_id].note(
                "message", f"{message.author_name}: {message.text}", user=message.author_name, message=message.text
            )
        if said:
            await self.threads.beat(live.shown, said)

    async def _seal(self) -> None:
        while True:
            await asyncio.sleep(SEAL_LOOK_SECONDS)
            self._check_database()
            for proxy in list(self.proxies.values()):
                proxy.check_deadline()
                proxy.seal_if_due()

    async def _listen(self) -> None:
        """Take control messages. Whatever happens to the broker, the beat reads the same from the database."""
        while True:
            try:
                layer = get_channel_layer()
                channel = await layer.new_channel()
                await layer.group_add(group_of(self.owner), channel)
                while True:
                    message = await layer.receive(channel)
                    if message.get("type") == "session.look":
                        await self._look([UUID(message["session"])], beat=False)
            except Exception:  # the outermost loop; the channel layer lets its library's errors through as they are
                logger.exception("control messages cannot be read")
                await asyncio.sleep(5)

    async def _tidy(self) -> None:
        """Take over sessions of this host that nobody holds and no browser has come for."""
        await asyncio.sleep(JANITOR_FIRST_SECONDS)
        while True:
            try:
                for session_id in await self.threads.database(services.held_elsewhere, self.host, owner=self.owner):
                    if session_id not in self.proxies:
                        await self._take_orphan(session_id)
            except DatabaseError as error:
                logger.warning("orphaned sessions are not taken over yet: %s", error)
            except Exception:  # the outermost loop
                logger.exception("orphaned sessions could not be taken over")
            await asyncio.sleep(JANITOR_SECONDS)

    async def _take_orphan(self, session_id: UUID) -> None:
        """Take a session if the lock of its journal is free: then its owner is dead, however fresh its last sign is."""
        lock = self._finding.setdefault(session_id, asyncio.Lock())
        try:
            async with lock:
                if session_id not in self.proxies:
                    with contextlib.suppress(Ended, JournalBusy, LateOwner, JournalFull):
                        await self._take(await self.threads.database(_live_session, session_id))
        finally:
            if not lock.locked():
                self._finding.pop(session_id, None)

    async def _watch_spool(self) -> None:
        """Keep the spool within its quota, by what is sealed already."""
        while True:
            await asyncio.sleep(SPOOL_LOOK_SECONDS)
            try:
                size = await self.threads.sealing(spool.spool_bytes)
            except OSError:
                logger.exception("the spool cannot be measured")
                continue
            metrics.SPOOL_BYTES.set(size)
            over = size - settings.SPOOL_QUOTA_BYTES
            proxies = sorted(self.proxies.values(), key=lambda proxy: -proxy.journal.size)
            for proxy in proxies:
                if over > 0:
                    over -= proxy.journal.drop_sealed(over, keep=KEEP_BYTES)
            for proxy in proxies:
                proxy.hold_back(over > 0)


def _live_session(session_id: UUID) -> TerminalSession:
    session = TerminalSession.objects.select_related("user").get(pk=session_id)
    if not session.is_live:
        raise Ended(session)
    return session


async def _answers(owner: Elsewhere) -> bool:
    """Whether something still listens where that owner did."""
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(owner.host, owner.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
