"""Blocking work of the terminal process: database, AWS and sealing, each in a few threads of its own.

Not asgiref's one thread for everything: there a StartSession that waits for 20 seconds would hold up every heartbeat.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The pools of one process."""

    def __init__(self) -> None:
        self._database = ThreadPoolExecutor(4, "database")
        # The beat has a thread of its own: nothing may keep it waiting so long that others take the owner for dead.
        self._beat = ThreadPoolExecutor(1, "beat")
        self._aws = ThreadPoolExecutor(16, "aws")
        self._sealing = ThreadPoolExecutor(2, "sealing")

    async def database(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work`, which uses the database."""
        return await _run(self._database, work, *args, **kwargs)

    async def beat(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work`, which must not wait behind other work."""
        return await _run(self._beat, work, *args, **kwargs)

    async def aws(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work`, which calls AWS and may use the database."""
        return await _run(self._aws, work, *args, **kwargs)

    async def sealing(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work`, which compresses, syncs a file and writes a row."""
        return await _run(self._sealing, work, *args, **kwargs)

    def close(self) -> None:
        """Let the threads end once their work is done."""
        for pool in (self._database, self._beat, self._aws, self._sealing):
            pool.shutdown(wait=False)


async def _run(pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    def call() -> T:
        close_old_connections()
        try:
            return work(*args, **kwargs)
        finally:
            close_old_connections()

    # The audit log reads who asked from the context.
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)
