"""What one running endpoint is made of: moto's child, keys and tokens, nodes, sessions, the trail, the hub.

The operations (api/) and the router (app.py) are written on these; here is only how they begin and end.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fleetops.awsapi import models
from fleetops.endpoint import settings
from fleetops.endpoint.auth import Authenticator, Authorizer, Identities
from fleetops.endpoint.automation.engine import Automations
from fleetops.endpoint.bodies import Bodies
from fleetops.endpoint.commands import Commands, Jobs
from fleetops.endpoint.compliance import ComplianceRecords
from fleetops.endpoint.credentials import TokenVault
from fleetops.endpoint.documents import Documents
from fleetops.endpoint.enrolment import Enrolment
from fleetops.endpoint.faults import Faults
from fleetops.endpoint.findings import Findings
from fleetops.endpoint.hub import Hub
from fleetops.endpoint.inventory import Inventory
from fleetops.endpoint.keys import key
from fleetops.endpoint.lies import LyingJobs, LyingStore
from fleetops.endpoint.log_events import LogEvents
from fleetops.endpoint.moto_client import MotoClient
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.patch.baselines import Baselines
from fleetops.endpoint.patch.overrides import Lists
from fleetops.endpoint.patch.records import PatchRecords
from fleetops.endpoint.patch.runs import PatchRuns
from fleetops.endpoint.patch.snapshots import Snapshots
from fleetops.endpoint.services import HubStore, Sessions
from fleetops.endpoint.trail import Trail


class Endpoint:
    """Everything of one running endpoint."""

    def __init__(self, home: Path, *, stream_host: str) -> None:
        """`stream_host` is HOST:PORT, as clients of the channels are told it."""
        self.home = home
        self.stream_host = stream_host
        self.closing = asyncio.Event()
        # One thread writes to the database, so that SQLite's writers never wait for each other; one only reads.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="database")
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="database-reader")
        self.moto = MotoClient(home / "moto", home / "keys")
        self.bodies = Bodies(home / "moto" / "bodies")
        self.vault = TokenVault(key(home / "keys", "token.key"))
        self.identities = Identities(self.moto)
        self.authenticator = Authenticator(self.identities, self.vault)
        self.authorizer = Authorizer(self.identities)
        self.nodes = Nodes(self._writer)
        self.authenticator.is_gone = self.nodes.is_gone
        self.enrolment = Enrolment(self._writer, self.reader, self.nodes, self.identities, self.vault)
        self.sessions = Sessions(self._writer)
        self.documents = Documents(self._writer, self.reader)
        self.inventory = Inventory(self._writer, self.reader, self.nodes)
        self.compliance = ComplianceRecords(self._writer, self.reader, self.inventory)
        self.findings = Findings(self._writer, self.reader)
        self.baselines = Baselines(self._writer, self.reader, self.nodes)
        self.snapshots = Snapshots(
            self._writer, self.reader, self.baselines, self.nodes, key(home / "keys", "patch-snapshot.key")
        )
        self.patch_records = PatchRecords(self._writer, self.reader, self.nodes, self.moto.tell)
        self.trail = Trail(self._writer)
        self.log_events = LogEvents(self.moto, self._writer, self.reader)
        self.commands = Commands(self._writer, self.reader, lambda: self._jobs)
        self.lists = Lists(self.moto, self.bodies, stream_host)
        self.patch_runs = PatchRuns(self.nodes, self.snapshots, self.patch_records, self.lists)
        self.commands.patching = self.patch_runs
        self.automations = Automations(
            self._writer,
            self.reader,
            commands=self.commands,
            identities=self.identities,
            trail=self.trail,
            tell=self.moto.tell,
            host=stream_host,
        )
        # Rules for faults on demand; None where nobody may ask for any. A token of each start's own.
        self.faults = Faults(secrets.token_urlsafe(32)) if settings.FAULTS else None
        store = HubStore(self.sessions, self.nodes, self.commands)
        if self.faults is not None:
            store = LyingStore(self.sessions, self.nodes, self.commands, self.faults)
        self.hub = Hub(store)
        self._jobs: Jobs = self.hub
        if self.faults is not None:
            self._jobs = LyingJobs(self.hub, self.commands, self.faults)
        self.nodes.is_connected = self.hub.is_connected
        # Told (account, region) after EC2 or IAM may have changed what an instance is; see fleet.py.
        self.on_change: Callable[[str, str], Awaitable[None]] | None = None

    async def start(self) -> None:
        self.bodies.clear()
        self.moto.start()
        # Read while moto starts: a first request would otherwise hold up the loop, and every terminal on it.
        await asyncio.to_thread(models.preload)
        await self.nodes.load()
        self.nodes.start()
        self.trail.start()
        self.patch_records.start()
        await self.commands.start()
        await self.hub.start()
        await self.automations.start()

    def close(self) -> None:
        """We are about to stop: long polls are answered, and nodes that go are no news."""
        self.closing.set()
        self.hub.close()

    async def stop(self) -> None:
        """End in order, when nobody calls any more: what is queued reaches the database, then moto."""
        self.close()
        await self.automations.stop()
        await self.hub.stop()
        await self.commands.stop()
        await self.patch_records.stop()
        await self.nodes.stop()
        await self.log_events.stop()
        await self.trail.stop()
        await self.moto.stop()
        self._writer.shutdown()
        self.reader.shutdown()
