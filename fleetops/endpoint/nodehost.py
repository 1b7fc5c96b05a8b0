"""The process that runs the demo nodes: started, told what becomes of each, and started again when it dies."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fleetops.endpoint.calls import NodeKey
from fleetops.node.spec import Credentials, NodeSpec

__all__ = ["Credentials", "NodeHost", "NodeSpec"]

logger = logging.getLogger(__name__)

NO_SANDBOX: Final = 3  # the host's exit status when no node may run on this machine
STOP_SECONDS: Final = 1.5  # for the nodes to end by themselves once their input has ended
FIRST_DELAY: Final = 0.2  # seconds before a host that died is started again; doubles while it dies at once
LAST_DELAY: Final = 10.0
STEADY_SECONDS: Final = 10.0  # a host that lived so long starts again after FIRST_DELAY

# A demo node comes back in a second or two where the real agent takes up to ten.
RETRY_SCALE: Final = 0.1


class NodeHost:
    """The demo nodes of this endpoint. What it was told it tells a new process again."""

    def __init__(
        self,
        *,
        endpoint_url: str,
        ca_file: str | Path,
        hidden: Iterable[str | Path] = (),
        is_loopback: bool = True,
        launchers: tuple[str, ...] = ("bwrap", "namespaces", "none"),
        heartbeat_seconds: float = 60.0,
        retry_scale: float = RETRY_SCALE,
        config_file: str | Path,
    ) -> None:
        """`hidden`: directories that no shell may see. `config_file`: where the nodes' options may be written."""
        self._endpoint_url = endpoint_url
        self._ca_file = str(ca_file)
        self._config_file = Path(config_file)
        self._options = {
            "hidden": [str(path) for path in hidden],
            "is_loopback": is_loopback,
            "launchers": list(launchers),
            "heartbeat_seconds": heartbeat_seconds,
            "retry_scale": retry_scale,
        }
        # By the whole key: two accounts may each have a node of one id.
        self._specs: dict[NodeKey, NodeSpec] = {}
        self._credentials: dict[NodeKey, dict[str, str] | None] = {}
        self._running: dict[NodeKey, bool] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self.sandbox = ""  # "bwrap", "namespaces" or "none", once the host has looked

    @property
    def pid(self) -> int | None:
        """The process that holds all nodes; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process, and keep it running until stop."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the process and all shells."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._end_process()

    async def update(self, specs: Iterable[NodeSpec]) -> None:
        """Make these the nodes: new ones begin, changed ones begin anew, others end."""
        wanted = {spec.key: spec for spec in specs}
        for node in self._specs.keys() - wanted.keys():
            self._credentials.pop(node, None)
            self._running.pop(node, None)
            self._order(op="remove", node=node)
        changed = [spec for spec in wanted.values() if self._specs.get(spec.key) != spec]
        self._specs = wanted
        for spec in changed:
            self._introduce(spec)

    def set_credentials(self, node: NodeKey, credentials: Mapping[str, str] | Credentials | None) -> None:
        """Give a node its role's credentials, or take them away: it then goes offline."""
        if credentials is not None and not isinstance(credentials, Credentials):
            credentials = Credentials.from_json(credentials)
        self._credentials[node] = credentials.to_json() if credentials is not None else None
        if node in self._specs:  # else it goes along with the spec
            self._order(op="credentials", node=node, credentials=self._credentials[node])

    def set_running(self, node: NodeKey, running: bool) -> None:
        """Start a node, or stop it: all its shells end, and it goes offline."""
        self._running[node] = running
        if node in self._specs:
            self._order(op="state", node=node, running=running)

    def _introduce(self, spec: NodeSpec) -> None:
        self._order(op="node", spec=spec.to_json())
        self._order(op="state", node=spec.key, running=self._running.get(spec.key, True))
        self._order(op="credentials", node=spec.key, credentials=self._credentials.get(spec.key))

    def _order(self, **order: Any) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            began_at = loop.time()
            try:
                if await self._run_once() == NO_SANDBOX:
                    logger.error("demo nodes are off: this machine has no sandbox for them")
                    return
            except OSError as error:
                logger.error("the host of the nodes does not start reason=%s", error)
            if loop.time() - began_at > STEADY_SECONDS:
                delay = FIRST_DELAY
            logger.warning("the host of the nodes ended; it is started again seconds=%s", delay)
            await asyncio.sleep(delay)
            delay = min(LAST_DELAY, delay * 2)

    async def _run_once(self) -> int:
        """Start the process, tell it all that was told, and return its status when it has ended."""
        self._config_file.write_text(json.dumps({"options": self._options}))
        command = [sys.executable, "-m", "fleetops.node", "host", "--endpoint", self._endpoint_url]
        command += ["--ca", self._ca_file, "--config", str(self._config_file), "--die-with-parent"]
        ours = ("AWS_", "FLEETOPS_")  # what the shells have no use for; the host itself goes by our clock
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ours) or name == "FLEETOPS_CLOCK_FILE"
        }
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
        )
        for spec in self._specs.values():
            self._introduce(spec)
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, KeyError):
            self.sandbox = json.loads(await self._process.stdout.readline())["sandbox"]
            logger.info("the host of the nodes runs pid=%s sandbox=%s", self._process.pid, self.sandbox)
        status = await self._process.wait()
        self._process = None
        return status

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
