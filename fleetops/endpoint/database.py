"""Database work off the event loop, on a connection that is looked at first: PostgreSQL may have been restarted."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from django.db import close_old_connections

T = TypeVar("T")


async def in_database(executor: Executor, work: Callable[[], T]) -> T:
    """Run `work` in the executor's thread; what it returns."""

    def fresh() -> T:
        close_old_connections()
        return work()

    return await asyncio.get_running_loop().run_in_executor(executor, fresh)
