"""A gateway and a node, for tests that speak the real protocol over real sockets."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from fleetops.node.agent import Node
from fleetops.node.sandbox import Launcher
from fleetops.node.spec import NodeSpec, Options
from tests.node.gateway import Gateway, key_for, make_spec, running
from tests.support.endpoint import running_endpoint

NodeMaker = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A real endpoint with its demo nodes. Tests that break it, or set what holds for its account, start their own."""
    with running_endpoint(tmp_path_factory.mktemp("demo") / "home", nodes="demo") as endpoint:
        yield endpoint


@pytest.fixture
async def gateway(tmp_path) -> AsyncIterator[Gateway]:
    async with running(Gateway(tmp_path)) as gateway:
        yield gateway


def options_for(gateway: Gateway, **changes) -> Options:
    values = {"retry_scale": 0.02, "heartbeat_seconds": 60.0, **changes}
    return Options(gateway.url, str(gateway.home / "ca.pem"), **values)


@contextlib.asynccontextmanager
async def running_node(
    gateway: Gateway, *, spec: NodeSpec | None = None, kind: str = "bwrap", **changes
) -> AsyncIterator[Node]:
    """A node in this process, online."""
    spec = spec or make_spec(gateway.home)
    context = ssl.create_default_context(cafile=str(gateway.home / "ca.pem"))
    node = Node(spec, options_for(gateway, **changes), context, Launcher(kind))
    living = asyncio.create_task(node.run())
    node.set_credentials(key_for(spec.instance_id))
    try:
        await gateway.until_connected(spec.instance_id)
        yield node
    finally:
        living.cancel()
        await asyncio.wait([living])


@pytest.fixture
async def node(gateway) -> AsyncIterator[Node]:
    async with running_node(gateway) as node:
        yield node


@pytest.fixture
def node_home(tmp_path) -> Path:
    return tmp_path / "i-0aaaaaaaaaaaaaaaa"
