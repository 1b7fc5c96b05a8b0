"""Our node in a root of its own: `fleetops node` as on any machine, but what it runs is run inside of that root.

A process holds the mounts; they go with it. What a root needs is looked for first, and its absence told in one line.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleetops.node.agent import Node
from fleetops.node.machine import Machine, _context, register
from fleetops.node.sandbox import Launcher
from fleetops.node.spec import NodeSpec
from tests.support.endpoint import ROOT, RunningEndpoint, until
from tests.support.ends import ends_with_tests

IAM_ROLE = "ssm-hybrid"
# A file of the root's stands in the place of the kernel's boot id: a restart is another text in it.
_HOLD = """
mount --make-rprivate / && {mounts}
mount -t proc proc "$ROOT/proc" && mount --bind /dev "$ROOT/dev" || exit 1
[ -s "$ROOT/boot-id" ] || echo first >"$ROOT/boot-id"
mount --bind "$ROOT/boot-id" "$ROOT/proc/sys/kernel/random/boot_id" || exit 1
echo ready; exec sleep infinity
"""


def missing(*programs: str) -> str:
    """Why no root can be made here; empty if one can."""
    if os.getuid() != 0:
        return "a root of its own needs root"
    lacking = [name for name in ("unshare", "nsenter", "chroot", *programs) if shutil.which(name) is None]
    if lacking:
        return f"not here: {', '.join(lacking)}"
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else "nothing may be mounted here"


@dataclass
class Root:
    """A directory that is some machine's root, as long as its holder lives."""

    path: Path
    holder: int  # the process that holds its mounts

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "chroot", str(self.path), *argv]

    def run(self, *argv: str, **more: Any) -> str:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            self.command(argv), env=environment, capture_output=True, text=True, check=False, cwd="/", **more
        )
        assert done.returncode in {0, 100}, done.stdout + done.stderr
        return done.stdout

    def write(self, name: str, text: str) -> None:
        """Write a file inside."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", name, input=text)

    def restart(self, name: str) -> None:
        """As far as the boot id goes."""
        self.run("sh", "-c", 'echo "$1" >/boot-id', "sh", name)


@contextlib.contextmanager
def held(path: Path, mounts: str = "true") -> Iterator[Root]:
    """The root at `path`; `mounts` are lines of shell that mount what it is made of."""
    holder = subprocess.Popen(
        ends_with_tests(["unshare", "--mount", "sh", "-c", _HOLD.format(mounts=mounts)]),
        env={**os.environ, "ROOT": str(path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n", f"the root at {path} could not be mounted"
        yield Root(path, holder.pid)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@dataclass(frozen=True, slots=True)
class InRoot(Launcher):
    """A machine's launcher, whose programs run in a root of their own."""

    root: Root = field(default=None)  # type: ignore[assignment]

    def command(self, spec: NodeSpec, uid: int | None, hidden: Sequence[str], argv: Sequence[str]) -> list[str]:
        return self.root.command(argv)


@contextlib.contextmanager
def node_in(endpoint: RunningEndpoint, root: Root, home: Path, **spec: str) -> Iterator[str]:
    """Our node, registered with an activation and online; its instance id. `spec`: what it says of its platform."""
    ssm = endpoint.client("ssm")
    activation = ssm.create_activation(IamRole=IAM_ROLE, DefaultInstanceName=home.name)
    told = {
        "home": str(home),
        "root": str(root.path),
        "holder": root.holder,
        "endpoint": endpoint.url,
        "ca_file": str(endpoint.handover["ca_file"]),
        "activation_id": activation["ActivationId"],
        "code": activation["ActivationCode"],
        "spec": spec,
    }
    command = ends_with_tests([sys.executable, "-m", "tests.endpoint.patch.machines", json.dumps(told)])
    with (home.parent / f"{home.name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        instance_id = process.stdout.readline().strip()
        assert instance_id, Path(log.name).read_text()
        until(lambda: _is_online(ssm, instance_id), seconds=30, what="the node in its root is online")
        yield instance_id
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _is_online(ssm: Any, instance_id: str) -> bool:
    rows = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [instance_id]}])
    found = rows["InstanceInformationList"]
    return bool(found) and found[0]["PingStatus"] == "Online" and "PlatformName" in found[0]


async def _live(told: dict[str, Any]) -> None:
    """Register, tell the instance id, and be that node."""
    home = Path(told["home"])
    named = {name: told[name] for name in ("endpoint", "ca_file", "activation_id", "code")}
    print(await register(home, region="eu-west-1", **named), flush=True)
    root = Root(Path(told["root"]), told["holder"])
    restart = tuple(root.command(["sh", "-c", "date +%s%N >/boot-id"]))
    machine = Machine(
        home,
        options=lambda options: replace(options, retry_scale=0.1, heartbeat_seconds=1.0, restart_command=restart),
    )
    launcher = InRoot("machine", root)
    machine.spec = replace(machine.spec, **told["spec"])
    machine.node = Node(machine.spec, machine._options, _context(told["ca_file"]), launcher)
    await machine.run()


if __name__ == "__main__":
    asyncio.run(_live(json.loads(sys.argv[1])))
