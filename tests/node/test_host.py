"""The process that holds the nodes: its orders, its death, its memory."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fleetops.endpoint.nodehost import NodeHost
from fleetops.node.agent import LOST_TEXT
from tests.node.gateway import Gateway, eventually, key_for, make_spec, node_key, running

NODE = "i-0aaaaaaaaaaaaaaaa"


@pytest.fixture
async def gateway(tmp_path):
    async with running(Gateway(tmp_path)) as gateway:
        yield gateway


@pytest.fixture
async def host(gateway):
    host = NodeHost(
        endpoint_url=gateway.url,
        ca_file=gateway.home / "ca.pem",
        hidden=[gateway.home],
        config_file=gateway.home / "nodes.json",
        retry_scale=0.02,
    )
    host.set_credentials(node_key(NODE), key_for(NODE))
    await host.update([make_spec(gateway.home)])
    await host.start()
    await gateway.until_connected(NODE)
    yield host
    await host.stop()


def rss(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_when_the_host_is_killed_its_sessions_end_in_words_and_its_nodes_come_back(gateway, host):
    client = await gateway.open()
    await client.see(":~$ ")
    killed, shells = host.pid, children(host.pid)
    assert shells
    os.kill(killed, signal.SIGKILL)
    assert (await client.see_end(seconds=15)).output == LOST_TEXT
    assert gateway.store.ended[client.session_id] == ("Failed", LOST_TEXT)
    await eventually(lambda: not any(is_alive(pid) for pid in shells))
    assert host.pid != killed
    again = await gateway.open()
    await again.see(":~$ ")


async def test_stop_leaves_no_process(gateway, host):
    client = await gateway.open()
    await client.see(":~$ ")
    pid, shells = host.pid, children(host.pid)
    await host.stop()
    assert not is_alive(pid)
    await eventually(lambda: not any(is_alive(shell) for shell in shells))
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))


async def test_nodes_come_and_go_and_lose_their_credentials(gateway, host):
    second = make_spec(gateway.home, "i-0bbbbbbbbbbbbbbbb", "pg-ledger-eu1a-1")
    host.set_credentials(second.key, {"access_key_id": second.instance_id, "secret_access_key": "s"})
    await host.update([make_spec(gateway.home), second])
    await gateway.until_connected(second.instance_id)
    assert gateway.hub.is_connected(node_key(NODE))
    homes = [Path(make_spec(gateway.home).home) / "home", Path(second.home) / "home"]
    assert len({home.stat().st_uid for home in homes}) == (2 if os.getuid() == 0 else 1)
    host.set_credentials(node_key(NODE), None)
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    host.set_running(second.key, False)
    await eventually(lambda: not gateway.hub.is_connected(node_key(second.instance_id)))
    host.set_running(second.key, True)
    await gateway.until_connected(second.instance_id)
    await host.update([make_spec(gateway.home)])
    await eventually(lambda: not gateway.hub.is_connected(node_key(second.instance_id)))


async def test_where_no_node_may_run_the_host_is_not_started_over_and_over(gateway):
    host = NodeHost(
        endpoint_url=gateway.url,
        ca_file=gateway.home / "ca.pem",
        config_file=gateway.home / "nodes.json",
        is_loopback=False,
        launchers=("none",),
    )
    await host.start()
    await eventually(lambda: host._watching.done())
    assert host.sandbox == ""
    await host.stop()


async def test_the_host_says_which_sandbox_it_has(host):
    await eventually(lambda: host.sandbox in ("bwrap", "namespaces"))


async def test_a_host_whose_credentials_never_came_stays_offline(gateway):
    host = NodeHost(endpoint_url=gateway.url, ca_file=gateway.home / "ca.pem", config_file=gateway.home / "nodes.json")
    await host.update([make_spec(gateway.home, "i-0cccccccccccccccc")])
    await host.start()
    await eventually(lambda: host.sandbox != "")
    assert not gateway.hub.is_connected(node_key("i-0cccccccccccccccc"))
    await host.stop()


async def test_ten_sessions_with_readers_that_stopped_cost_the_host_what_the_window_says(gateway, host):
    clients = [await gateway.open() for _ in range(10)]
    for client in clients:
        await client.see(":~$ ")
    before = rss(host.pid)
    for client in clients:
        client.keeps_output = False
        await client.type("yes\r")
        await eventually(lambda client=client: client.received > 200_000)
        client.stop_reading()
    sizes = []
    while len(sizes) < 4 or sizes[-1] - sizes[-4] > 200_000:  # until it grows no more
        sizes.append(rss(host.pid))
        await asyncio.sleep(0.4)
    assert sizes[-1] - before < 10 * 3 * 1024 * 1024
    for client in clients:
        await client.type("\x03")
        client.keeps_output = True
        client.read_on()
        await client.see("$ ", seconds=20)


async def test_a_session_costs_the_host_little(gateway, host):
    first = await gateway.open()
    await first.see(":~$ ")
    before = rss(host.pid)
    clients = [await gateway.open() for _ in range(20)]
    for client in clients:
        await client.see(":~$ ")
    assert (rss(host.pid) - before) / 20 < 300_000
