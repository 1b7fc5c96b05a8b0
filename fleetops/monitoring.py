"""/healthz, /readyz and /metrics of web and terminal: answered before anything else of them is asked.

No log-in, no session, no Host that has to be known: whoever looks after a process asks it by its address. /healthz says
that it is alive, /readyz whether it can do its work and what is missing, /metrics counts, for who may read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

import redis
from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.utils import Error as AnyDatabaseError

from fleetops import metrics
from fleetops.clock import monotonic
from fleetops.presence import EVERY_SECONDS, Presence, broker

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEPT_SECONDS = 1.0  # an answer of /readyz: anybody may ask, and asking must cost little
_TEXT = "text/plain; charset=utf-8"


class NotReady(Exception):
    """A check has failed; the text is for anybody, and names no address, user or file."""


def check_database() -> None:
    """The database answers, and has every migration that this version knows."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        missing = unapplied_migrations()
    except AnyDatabaseError as error:
        logger.warning("the database does not answer a check error=%s", type(error).__name__)
        raise NotReady("The database does not answer.") from None
    finally:
        connection.close()
    if missing:
        raise NotReady(f"The database lacks {len(missing)} migrations of this version; run `fleetops manage migrate`.")


_known: set[tuple[str, str]] | None = None


def unapplied_migrations() -> list[tuple[str, str]]:
    """Migrations that this version brings and the database has not had, as (app, name). Raises database errors."""
    global _known
    if _known is None:
        _known = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
    return sorted(_known - set(MigrationRecorder(connection).applied_migrations()))


def check_broker() -> None:
    """Valkey answers, and takes what is written."""
    try:
        client = broker(seconds=1.0)
        client.set("fleetops:ready", "1", ex=60)
        client.close()
    except redis.RedisError as error:
        logger.warning("the broker does not answer a check error=%s", type(error).__name__)
        raise NotReady("The broker (Valkey) does not take what is written.") from None


def check_spool() -> None:
    """The spool takes a file: without it no output may be shown."""
    try:
        settings.SPOOL_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = settings.SPOOL_DIR / f".ready.{uuid4().hex}"
        path.write_bytes(b"ready")
        os.unlink(path)
    except OSError as error:
        logger.warning("the spool cannot be written to error=%s", error.strerror)
        raise NotReady("The spool cannot be written to.") from None


def waiting_tasks() -> list[tuple[tuple[str, ...], float]]:
    """Tasks that no worker has taken yet; they lie in database 0 of our Valkey. Nothing where it does not answer."""
    queue = "celery"
    try:
        with broker(number=0) as client:
            return [((), float(client.llen(queue)))]
    except redis.RedisError:
        return []


CHECKS: dict[str, dict[str, Callable[[], None]]] = {
    "web": {"database": check_database, "broker": check_broker},
    "terminal": {"database": check_database, "broker": check_broker, "spool": check_spool},
}


class Readiness:
    """Asks the checks of a part, at most once a second, however many want to know."""

    def __init__(self, part: str) -> None:
        self.checks = CHECKS[part]
        self._lock = threading.Lock()
        self._until = 0.0
        self._found: dict[str, Any] = {}

    def ask(self) -> dict[str, Any]:
        with self._lock:
            if monotonic() >= self._until:
                self._found = self._look()
                self._until = monotonic() + KEPT_SECONDS
            return self._found

    def _look(self) -> dict[str, Any]:
        checks: dict[str, Any] = {}
        for name, check in self.checks.items():
            began = monotonic()
            trouble = ""
            try:
                check()
            except NotReady as error:
                trouble = str(error)
            except Exception:  # the outermost loop of a check: whatever it is, it is not ready
                logger.exception("a check failed check=%s", name)
                trouble = "The check itself failed; the log says why."
            checks[name] = {"ok": not trouble, "ms": round((monotonic() - began) * 1000, 1)}
            if trouble:
                checks[name]["text"] = trouble
        is_ready = all(each["ok"] for each in checks.values())
        return {"status": "ready" if is_ready else "not ready", "checks": checks}


class Watched:
    """An ASGI application with the three addresses in front of it, and a sign of life while it runs."""

    def __init__(self, application: Any, part: str, *, has_lifespan: bool) -> None:
        self.application = application
        self.part = part
        self.has_lifespan = has_lifespan
        self.readiness = Readiness(part)
        self.presence = Presence(part)
        if part == "web":
            metrics.ask(
                "fleetops_task_queue_length", "Tasks that wait for a worker.", (), waiting_tasks, database=False
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in {"/healthz", "/readyz", "/metrics"}:
            await self._answer(scope, send)
        else:
            await self.application(scope, receive, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        path, status, kind = scope["path"], 200, _TEXT
        if scope["method"] not in {"GET", "HEAD"}:
            status, body = 405, b"GET alone.\n"
        elif path == "/healthz":
            body = b"ok\n"
        elif path == "/readyz":
            found = await asyncio.to_thread(self.readiness.ask)
            status = 200 if found["status"] == "ready" else 503
            kind, body = "application/json", json.dumps(found).encode() + b"\n"
        else:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if metrics.may_scrape((scope.get("client") or ("",))[0], headers):
                kind, body = metrics.CONTENT_TYPE, await asyncio.to_thread(self._numbers)
            else:
                status, body = 403, metrics.REFUSED
        fields = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
        fields |= {"x-content-type-options": "nosniff"} | ({"allow": "GET, HEAD"} if status == 405 else {})
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _numbers(self) -> bytes:
        try:
            return metrics.exposition(database=self.part == "web")
        finally:
            connection.close()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = asyncio.create_task(self._tell())
        try:
            if self.has_lifespan:
                await self.application(scope, receive, send)
            else:
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling
            await asyncio.to_thread(self.presence.end)
        if not self.has_lifespan:
            await send({"type": "lifespan.shutdown.complete"})

    async def _tell(self) -> None:
        while True:
            await asyncio.to_thread(self.presence.tell)
            await asyncio.sleep(EVERY_SECONDS)
