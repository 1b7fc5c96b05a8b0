"""Who asks: what an audit row or a log line says of the request that it belongs to, wherever the code runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from fleetops.clock import uuid7


@dataclass
class RequestContext:
    """One page request, websocket or task."""

    request_id: str = ""
    source_address: str = ""
    source: str = ""  # browser, api, terminal, worker, command; empty where nobody has said
    via: str = ""  # the API token that acts for the actor, as its owner calls it
    # Unix seconds at which the user of that id gave a second factor in the log-in that this belongs to, if they did.
    second_factor: Callable[[str], float | None] = lambda user_id: None
    # Whether the log-in or token that this came with still counts: for what goes on after it was let in.
    stands: Callable[[], bool] = lambda: True
    denial_recorded: bool = False  # audit.record.deny sets it, so that one refusal makes one row
    user: str = ""  # id of whoever is logged in, for the log
    session: str = ""  # id of the terminal session that it is about, for the log


_NOWHERE = RequestContext()  # outside of every request; nobody writes to it
current: ContextVar[RequestContext] = ContextVar("fleetops_request_context", default=_NOWHERE)


@contextmanager
def within(source: str, *, request_id: str = "", source_address: str = "") -> Iterator[RequestContext]:
    """Run a block, or as a decorator a whole function, in a context of its own: `@within("worker")` below a task.

    Inside of one with the same source it is part of that: a task that a page handed over keeps the page's request id.
    """
    outer = current.get()
    if outer.source == source and not request_id and not source_address:
        yield outer
        return
    context = RequestContext(request_id or uuid7().hex, source_address, source)
    token = current.set(context)
    try:
        yield context
    finally:
        current.reset(token)
