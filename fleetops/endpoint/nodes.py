"""The managed instances: what their agents said, whether they are there, and what EC2 and IAM say of them.

All of it is in memory, on the event loop; a new node is in the database before its first call is answered, and
heartbeats follow every HEARTBEAT_FLUSH_SECONDS by one writer.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fleetops import clock
from fleetops.endpoint import settings
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Node

logger = logging.getLogger(__name__)

# After its control channel is lost a node has this long to come back before it counts as lost; agents take 0 to 2.5 s.
_CHANNEL_GRACE = timedelta(seconds=5)
_MOST_IN_ONE_WRITE = 500  # after a restart every node reports at once, and other writers wait in the same line
_GONE_STATES = {"stopped", "stopping", "shutting-down", "terminated"}


@dataclass(slots=True)
class Managed:
    """One managed instance."""

    key: NodeKey
    information: dict[str, Any] = field(default_factory=dict)
    registered_at: datetime | None = None
    last_ping_at: datetime | None = None
    tags: dict[str, str] = field(default_factory=dict)
    iam_role: str = ""
    name: str = ""
    ec2_state: str = ""  # "" for a hybrid node
    activation_id: str = ""
    fingerprint: str = ""
    public_key: str = ""  # of a node that registered with an activation
    key_made_at: datetime | None = None
    channel_lost_at: datetime | None = None
    is_dirty: bool = False

    @property
    def instance_id(self) -> str:
        return self.key[2]

    @property
    def is_hybrid(self) -> bool:
        return self.instance_id.startswith("mi-")

    @property
    def is_listed(self) -> bool:
        """Whether DescribeInstanceInformation shows it: it leaves out stopped and terminated instances."""
        return self.registered_at is not None and self.ec2_state not in _GONE_STATES


class Nodes:
    """All managed instances, and the writer of their rows."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._nodes: dict[NodeKey, Managed] = {}
        self._task: asyncio.Task[None] | None = None
        self.is_connected: Callable[[NodeKey], bool] = lambda key: False

    async def load(self) -> None:
        """Read the rows."""
        for row in await self._run(lambda: list(Node.objects.all())):
            self._nodes[(row.account_id, row.region, row.instance_id)] = Managed(
                key=(row.account_id, row.region, row.instance_id),
                information=row.information,
                registered_at=row.registered_at,
                last_ping_at=row.last_ping_at,
                tags=row.tags,
                iam_role=row.iam_role,
                name=row.name,
                activation_id=row.activation_id,
                fingerprint=row.fingerprint,
                public_key=row.public_key,
                key_made_at=row.key_made_at,
            )

    def start(self) -> None:
        self._task = asyncio.create_task(self._flush_regularly())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    def find(self, key: NodeKey) -> Managed | None:
        return self._nodes.get(key)

    def of_region(self, account_id: str, region: str) -> list[Managed]:
        """The managed instances of one region that are shown, by their id."""
        return sorted(
            (node for node in self._nodes.values() if node.key[:2] == (account_id, region) and node.is_listed),
            key=lambda node: node.instance_id,
        )

    def registered_in(self, account_id: str, region: str) -> list[Managed]:
        """All managed instances of one region by their id, stopped and terminated ones too."""
        return sorted(
            (
                node
                for node in self._nodes.values()
                if node.key[:2] == (account_id, region) and node.registered_at is not None
            ),
            key=lambda node: node.instance_id,
        )

    async def report(self, key: NodeKey, information: dict[str, Any], now: datetime) -> Managed:
        """Merge what an agent says: the short form comes first after each start and must not take the rest away."""
        node = self._nodes.get(key)
        is_new = node is None or node.registered_at is None
        if node is None:
            node = self._nodes[key] = Managed(key)
        node.information = node.information | information
        node.last_ping_at = now
        node.is_dirty = True
        if is_new:
            node.registered_at = now
            await self._save([node])
        return node

    async def register_hybrid(
        self, key: NodeKey, *, name: str, iam_role: str, tags: dict[str, str], now: datetime
    ) -> None:
        """Make the row of a machine outside EC2 before its agent reports; one that is there stays as it is."""
        node = self._nodes.setdefault(key, Managed(key))
        if node.registered_at is None:
            node.registered_at, node.name, node.iam_role, node.tags = now, name, iam_role, tags
            await self._save([node])

    def taken_ids(self) -> set[str]:
        """Every hybrid id that is taken, in any account and region."""
        return {key[2] for key in self._nodes if key[2].startswith("mi-")}

    async def enrol(self, node: Managed) -> None:
        """Keep a node that has just registered."""
        await self._save([node])
        self._nodes[node.key] = node

    async def keep(self, node: Managed) -> None:
        """Write a node's row at once."""
        await self._save([node])

    async def forget(self, node: Managed) -> None:
        """Take a node away: it is no longer managed."""
        self._nodes.pop(node.key, None)
        account_id, region, instance_id = node.key
        rows = Node.objects.filter(account_id=account_id, region=region, instance_id=instance_id)
        await self._run(rows.delete)

    def is_gone(self, key: NodeKey) -> bool:
        """Whether a hybrid node was deregistered. An EC2 instance is EC2's to end."""
        return key[2].startswith("mi-") and key not in self._nodes

    def registered(self, instance_id: str, region: str) -> Managed | None:
        """The node that registered under this id with a key of its own; ids are not given twice."""
        return next(
            (
                node
                for node in self._nodes.values()
                if node.instance_id == instance_id and node.key[1] == region and node.public_key
            ),
            None,
        )

    async def set_tags(self, node: Managed, tags: dict[str, str]) -> None:
        node.tags = tags
        await self._save([node])

    def set_ec2(self, account_id: str, region: str, facts: Iterable[dict[str, Any]]) -> list[NodeKey]:
        """Take over what EC2 says of a region's instances: state and tags. Those that have gone for good since."""
        gone = []
        for fact in facts:
            key = (account_id, region, fact["instance_id"])
            node = self._nodes.setdefault(key, Managed(key))
            if fact["state"] == "terminated" != node.ec2_state:
                gone.append(key)
            node.ec2_state = fact["state"]
            node.tags = fact["tags"]
        return gone

    def channel_opened(self, key: NodeKey, now: datetime) -> None:
        if self.is_gone(key):
            return  # it was deregistered in this moment, and does not come back by this
        node = self._nodes.setdefault(key, Managed(key))
        node.channel_lost_at, node.last_ping_at, node.is_dirty = None, now, True

    def channel_lost(self, key: NodeKey, now: datetime) -> None:
        if node := self._nodes.get(key):
            node.channel_lost_at = now

    def ping_status(self, node: Managed, now: datetime) -> str:
        """Online or ConnectionLost: by the control channel first, and by the last ping for an agent without one."""
        if self.is_connected(node.key):
            return "Online"
        last, lost = node.last_ping_at, node.channel_lost_at
        if last is None or now - last > clock.during(timedelta(seconds=settings.PING_SECONDS)):
            return "ConnectionLost"
        if lost is not None and last <= lost and now - lost > clock.during(_CHANNEL_GRACE):
            return "ConnectionLost"
        return "Online"

    def last_ping(self, node: Managed, now: datetime) -> datetime | None:
        """When it was last heard of; a node whose channel is open has just been."""
        if self.is_connected(node.key) and node.last_ping_at is not None:
            # The channel's own pings are not told to us: whole minutes, so that the answer is not new each time.
            return max(node.last_ping_at, now.replace(second=0, microsecond=0))
        return node.last_ping_at

    async def flush(self) -> None:
        """Write what has changed."""
        dirty = [node for node in self._nodes.values() if node.is_dirty and node.registered_at is not None]
        for start in range(0, len(dirty), _MOST_IN_ONE_WRITE):
            await self._save(dirty[start : start + _MOST_IN_ONE_WRITE])

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(settings.HEARTBEAT_FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:  # the outermost loop of the writer: the next round tries again
                logger.exception("heartbeats not written")

    async def _save(self, nodes: list[Managed]) -> None:
        rows = []
        for node in nodes:
            node.is_dirty = False  # at once: what is reported while this is written is written next time
            account_id, region, instance_id = node.key
            rows.append(
                Node(
                    account_id=account_id,
                    region=region,
                    instance_id=instance_id,
                    information=node.information,
                    tags=node.tags if node.is_hybrid else {},
                    iam_role=node.iam_role,
                    name=node.name,
                    registered_at=node.registered_at or clock.now(),
                    last_ping_at=node.last_ping_at,
                    activation_id=node.activation_id,
                    fingerprint=node.fingerprint,
                    public_key=node.public_key,
                    key_made_at=node.key_made_at,
                )
            )
        try:
            await self._run(
                lambda: Node.objects.bulk_create(
                    rows,
                    update_conflicts=True,
                    unique_fields=["account_id", "region", "instance_id"],
                    update_fields=[
                        "information",
                        "tags",
                        "iam_role",
                        "name",
                        "registered_at",
                        "last_ping_at",
                        "activation_id",
                        "fingerprint",
                        "public_key",
                        "key_made_at",
                    ],
                )
            )
        except BaseException:
            for node in nodes:
                node.is_dirty = True
            raise

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._executor, work)
