"""The demo nodes' ties to EC2 and IAM: which of them run, and with whose credentials.

What an instance metadata service does on AWS, done by telling the node host: credentials while the instance has a
profile with a role, none without, renewed at half of their life.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import credentials, seed
from fleetops.endpoint.calls import NodeKey, Principal
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.nodehost import Credentials, NodeHost, NodeSpec
from fleetops.endpoint.patch import catalogue
from fleetops.endpoint.patch.runs import Demo

logger = logging.getLogger(__name__)

_LIFETIME = timedelta(hours=1)  # AWS's instance metadata gives six; renewed at half of it
_RENEW_EVERY = timedelta(seconds=30)
_RENEW_BEFORE = timedelta(minutes=30)


@dataclass(slots=True)
class _Given:
    role: str | None
    ends_at: datetime | None


class Fleet:
    """Keeps the demo nodes as EC2 and IAM say that they are."""

    def __init__(self, endpoint: Endpoint, host: NodeHost | None, home: Path) -> None:
        """`host` is None where no demo nodes are wanted: EC2's side is kept up all the same."""
        self._endpoint = endpoint
        self._host = host
        self._home = home
        self._given: dict[NodeKey, _Given] = {}
        self._lock = asyncio.Lock()
        self._demo = {machine.key[:2] for machine in seed.ALL_MACHINES}
        self._machines = {machine.key: machine for machine in seed.ALL_MACHINES}
        self._regions: set[tuple[str, str]] = set(self._demo)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the hybrid nodes known, tell the host of every node, and begin to renew."""
        for machine in seed.ALL_MACHINES:
            if not machine.zone:
                await self._endpoint.nodes.register_hybrid(
                    machine.key,
                    name=machine.name,
                    iam_role=seed.HYBRID_ROLE,
                    tags=machine.tags,
                    now=clock.now() - timedelta(days=machine.age_days),
                )
        specs: list[NodeSpec] = []
        for account, region in sorted(self._demo):
            facts = await self._take_over(account, region)
            specs += self._specs(account, region, facts)
            await self._give(account, region, facts)
        if self._host is not None:
            await self._host.update(specs)
        self._endpoint.on_change = self.refresh
        if self._host is not None:
            self._endpoint.patch_runs.demo = self._repository
        self._task = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self, account_id: str, region: str) -> None:
        """EC2 in a region, or (region "") IAM has changed: take it over."""
        regions = [(account_id, region)] if region else [pair for pair in self._regions if pair[0] == account_id]
        self._regions.update(regions)
        async with self._lock:
            for account, name in regions:
                facts = await self._take_over(account, name)
                if (account, name) in self._demo:
                    await self._give(account, name, facts)

    async def _take_over(self, account_id: str, region: str) -> dict[str, dict]:
        """Take over what EC2 says of a region: a machine that is gone for good gets no command any more."""
        facts = await self._facts(account_id, region)
        for node in self._endpoint.nodes.set_ec2(account_id, region, facts.values()):
            await self._endpoint.commands.node_gone(node)
        return facts

    async def _facts(self, account_id: str, region: str) -> dict[str, dict]:
        found = await self._endpoint.moto.result(ask="instance_facts", account=account_id, region=region)
        return {fact["instance_id"]: fact for fact in found}

    async def _give(self, account: str, region: str, facts: dict[str, dict]) -> None:
        """Tell the host what has changed for each demo node of a region."""
        if self._host is None:
            return
        now = clock.now()
        for machine in _machines(account, region):
            node = machine.key
            fact = facts.get(machine.instance_id)
            if machine.zone:
                running = fact is not None and fact["state"] == "running"
                role = fact["role"] if fact is not None and running else None
            else:
                running, role = True, seed.HYBRID_ROLE
            self._host.set_running(node, running)
            given = self._given.get(node)
            fresh = given is not None and (given.ends_at is None or given.ends_at - now > _RENEW_BEFORE)
            if given is not None and given.role == role and fresh:
                continue
            keys = None
            if role is not None:
                keys = await self._credentials(node, role)
            self._given[node] = _Given(role, keys.expires_at if keys is not None else None)
            self._host.set_credentials(
                node,
                Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
                if keys is not None
                else None,
            )
            logger.info("node credentials changed account=%s region=%s instance=%s role=%s", *node, role)

    async def _credentials(self, node: NodeKey, role_name: str) -> credentials.Credentials | None:
        """Credentials as instance metadata gives them: of the role, for this one node. None without the role."""
        account, _, instance_id = node
        role = await self._endpoint.identities.identity(account, "role", role_name)
        if role is None:
            return None
        principal = Principal(
            kind="node",
            account_id=account,
            arn=f"arn:aws:sts::{account}:assumed-role/{role_name}/{instance_id}",
            user_id=f"{role['id']}:{instance_id}",
            name=role_name,
            access_key_id="",
            session_name=instance_id,
            role_arn=role["arn"],
            node=node,
        )
        return self._endpoint.vault.issue(principal, _LIFETIME, clock.now())

    def _specs(self, account: str, region: str, facts: dict[str, dict]) -> Iterable[NodeSpec]:
        for machine in _machines(account, region):
            fact = facts.get(machine.instance_id, {})
            name, version = seed.platform_of(machine)
            yield NodeSpec(
                account_id=account,
                region=region,
                instance_id=machine.instance_id,
                hostname=machine.name,
                name=machine.name,
                home=str(self._home / "nodes" / _directory(machine)),
                tags=machine.tags,
                platform_name=name,
                platform_version=version,
                platform_type=seed.platform_type_of(machine),
                agent_version=seed.agent_version_of(machine),
                zone=fact.get("zone") or "",
                ip=fact.get("ip") or "10.40.11.2" + machine.name[-1],
                packages=seed.packages_of(machine, clock.now()),
            )

    def _repository(self, key: NodeKey, now: datetime) -> Demo | None:
        """What a demo node's repository holds; None for any other node."""
        machine = self._machines.get(key)
        if machine is None:
            return None
        platform = catalogue.PLATFORMS.get(machine.platform)
        if platform is None:  # Windows: the service knows the updates of all such nodes
            return Demo((), "x64", "")
        # On one machine the first patch of each month fails, and goes well the second time.
        flaky = f"{now:%Y-%m}" if machine.name == seed.FLAKY else ""
        return Demo(catalogue.offers(platform, now), platform.arch, flaky)

    async def _renew(self) -> None:
        while True:
            # Under a clock that goes fast often enough all the same; one that is put further wakes us.
            pause = min(clock.during(_RENEW_EVERY), _RENEW_BEFORE / 3)
            await clock.sleep(pause.total_seconds())
            try:
                for account, region in sorted(self._demo):
                    await self.refresh(account, region)
            except ApiError as error:
                logger.warning("node credentials not renewed reason=%s", error)
            except Exception:  # the outermost loop: without it all nodes would be lost within the hour
                logger.exception("node credentials not renewed")


def _machines(account: str, region: str) -> Iterable[seed.Machine]:
    return (machine for machine in seed.ALL_MACHINES if machine.key[:2] == (account, region))


def _directory(machine: seed.Machine) -> str:
    """Of a node's home: two machines may have one id, and the first region's were there before there was another."""
    is_first = machine.key[:2] == (seed.ACCOUNT_ID, seed.REGION)
    return machine.instance_id if is_first else ".".join(machine.key)
