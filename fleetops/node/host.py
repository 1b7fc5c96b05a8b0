"""Several nodes in one process, told over standard input what becomes of them.

Each line is one JSON object: {"op":"node","spec":{...}} makes a node or changes it, {"op":"remove","node":KEY},
{"op":"credentials","node":KEY,"credentials":{...}|null}, {"op":"state","node":KEY,"running":bool}. A KEY is
[account id, region, instance id]. The end of input ends the process, and with it all shells.
"""

import asyncio
import json
import logging
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

from .agent import Node
from .sandbox import Launcher, choose
from .spec import Credentials, NodeSpec, Options

logger = logging.getLogger(__name__)

MAX_LINE = 1024 * 1024  # bytes


class NoSandbox(Exception):
    """No shell may be started on this machine; the text says what to do about it."""


class Host:
    """The nodes of this process."""

    def __init__(self, options: Options, launcher: Launcher) -> None:
        self._options = options
        self._launcher = launcher
        self._context = ssl.create_default_context(cafile=options.ca_file)
        self._nodes: dict[tuple[str, ...], tuple[Node, asyncio.Task[None]]] = {}

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one line. Raises KeyError or TypeError for one that is wrong."""
        match order["op"]:
            case "node":
                self._add(NodeSpec.from_json(order["spec"]))
            case "remove":
                node = self._nodes.pop(tuple(order["node"]), None)
                if node is not None:
                    node[1].cancel()
            case "credentials":
                credentials = order["credentials"]
                self._nodes[tuple(order["node"])][0].set_credentials(
                    Credentials.from_json(credentials) if credentials else None
                )
            case "state":
                self._nodes[tuple(order["node"])][0].set_running(bool(order["running"]))
            case other:
                raise KeyError(other)

    def _add(self, spec: NodeSpec) -> None:
        known = self._nodes.get(spec.key)
        if known is not None:
            if known[0].spec == spec:
                return
            known[1].cancel()
        node = Node(spec, self._options, self._context, self._launcher)
        task = asyncio.create_task(node.run())
        task.add_done_callback(lambda done: _report(spec.instance_id, done))
        self._nodes[spec.key] = (node, task)

    async def stop(self) -> None:
        tasks = [task for _, task in self._nodes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def find_launcher(options: Options) -> Launcher:
    """The best way of starting shells here. Raises NoSandbox where only an unsandboxed one is left, and forbidden."""
    kinds = options.launchers if options.is_loopback else tuple(kind for kind in options.launchers if kind != "none")
    with tempfile.TemporaryDirectory(prefix="fleetops-node-") as directory:
        try:
            return choose(kinds, Path(directory) / "probe")
        except LookupError as error:
            why = "" if options.is_loopback else ", and the endpoint listens beyond this machine"
            raise NoSandbox(
                f"Demo nodes are not started: {error}{why}. "
                "Install bubblewrap, or let the endpoint listen on 127.0.0.1."
            ) from None


async def run_host(options: Options, specs: list[NodeSpec]) -> None:
    """Run nodes until standard input ends."""
    launcher = await asyncio.to_thread(find_launcher, options)
    host = Host(options, launcher)
    print(json.dumps({"sandbox": launcher.kind}), flush=True)
    for spec in specs:
        host.obey({"op": "node", "spec": spec.to_json()})
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            try:
                host.obey(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                logger.error("an order was refused reason=%s %s", type(error).__name__, error)
    finally:
        await host.stop()


def _report(instance_id: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("node stopped instance=%s", instance_id, exc_info=error)
