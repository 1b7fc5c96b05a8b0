"""What a demo node is told to be, and the directory that it lives in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node. `home` is its directory; everything that it keeps lies in there."""

    account_id: str
    region: str
    instance_id: str
    hostname: str
    name: str
    home: str
    tags: Mapping[str, str] = field(default_factory=dict)
    platform_name: str = "Debian GNU/Linux"
    platform_version: str = "12"
    platform_type: str = "Linux"
    agent_version: str = "3.3.987.0"  # four numeric parts above 3.1.1511.0, or clients think of it as too old
    zone: str = ""
    ip: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)  # name -> version, at the very first start

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NodeSpec":
        """Raises TypeError for a field that is missing or unknown."""
        return cls(**value)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.account_id, self.region, self.instance_id


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an instance's metadata service hands out for its role."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Credentials":
        return cls(value["access_key_id"], value["secret_access_key"], value.get("session_token") or "")

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Options:
    """How a host of nodes behaves."""

    endpoint: str  # https://host:port
    ca_file: str
    heartbeat_seconds: float = 300.0  # the real agent's Ssm.HealthFrequencyMinutes
    retry_scale: float = 1.0  # times every delay before the real agent would try again
    is_loopback: bool = True  # whether the endpoint answers on this machine alone
    launchers: tuple[str, ...] = ("bwrap", "namespaces", "none")  # tried in this order
    hidden: tuple[str, ...] = ()  # directories that no shell may see, wherever they lie
    restart_command: tuple[str, ...] = ()  # restarts the machine that this node is; without it nothing does


class Directory:
    """A node's own directory: what its shells see as home, /var and some of /etc, and what the agent keeps."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.home = self.root / "home"
        self.etc = self.root / "etc"
        self.var = self.root / "var"
        self.sessions = self.root / "sessions"  # one empty file for each session that has a shell
        self.jobs = self.root / "jobs"  # a directory for each command of the last 30 minutes
        self.replies = self.root / "replies"  # a file for each answer to a command that nobody has acknowledged
        self.boots = self.root / "boots"  # how often the node was restarted, or stopped and started

    def count_boot(self) -> None:
        """The node starts anew: what a restart makes real is real from now on."""
        fresh = self.boots.with_name("boots.new")
        fresh.write_text(str(self.boot + 1))
        fresh.replace(self.boots)

    @property
    def boot(self) -> int:
        try:
            return int(self.boots.read_text())
        except (OSError, ValueError):
            return 0
