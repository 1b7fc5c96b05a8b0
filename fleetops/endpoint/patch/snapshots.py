"""Snapshots: a baseline as it was when a snapshot's id was first used, so that many nodes are judged by the same.

The rules' days are counted from that moment too. Who gives the id again within three days gets the same content; a
BaselineOverride that comes with an id in use is not looked at ("the snapshot wins"). The content is downloaded by a URL
that proves itself, as a presigned one of S3 does. Source: user guide, AWS-RunPatchBaseline (SnapshotId).
"""

import hmac
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson
from django.db import transaction

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import PatchSnapshot
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.patch import shapes
from fleetops.endpoint.patch.baselines import Baselines, patch_group_of
from fleetops.endpoint.patch.facts import Baseline

KEPT: Final = timedelta(days=3)
DOWNLOADABLE: Final = timedelta(hours=24)
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
PATH: Final = "/patch-baseline-snapshots/"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A baseline as the nodes of one operating system and group obey it under one id."""

    snapshot_id: str
    baseline: Baseline
    taken_at: datetime  # from which the rules' days are counted
    is_override: bool
    number: int  # of its row


class Snapshots:
    """The snapshots' rows."""

    def __init__(self, writer: Executor, reader: Executor, baselines: Baselines, nodes: Nodes, key: bytes) -> None:
        self._writer = writer
        self._reader = reader
        self._baselines = baselines
        self._nodes = nodes
        self._key = key

    async def take(
        self, key: NodeKey, snapshot_id: str, *, override: Mapping[str, Any] | None = None, now: datetime
    ) -> Snapshot:
        """The snapshot of this id for a node; it is made if there is none, or none that is young enough.

        Raises ApiError as `Baselines.effective` does, and ValidationException for an id that is no GUID.
        """
        if not _GUID.fullmatch(snapshot_id):
            raise ApiError("ValidationException", f"{snapshot_id[:64]} is not the id of a snapshot.")
        baseline = await self._baselines.effective(key, override=override)
        node = self._nodes.find(key)
        assert node is not None
        here = {
            "account_id": key[0],
            "region": key[1],
            "snapshot_id": snapshot_id.lower(),
            "operating_system": baseline.operating_system,
            "patch_group": patch_group_of(node)[:256],
        }

        def write() -> PatchSnapshot:
            with transaction.atomic():
                row = PatchSnapshot.objects.filter(**here).first()
                if row is not None and now - row.taken_at <= KEPT:
                    return row
                PatchSnapshot.objects.filter(taken_at__lt=now - KEPT).delete()
                return PatchSnapshot.objects.create(
                    **here,
                    baseline_id=baseline.baseline_id,
                    baseline_name=baseline.name,
                    content=shapes.written(baseline),
                    is_override=override is not None,
                    taken_at=now,
                )

        return _snapshot(await in_database(self._writer, write))

    def query(self, snapshot: Snapshot, now: datetime) -> str:
        """The path and query by which a snapshot can be downloaded from now on for a day."""
        until = str(int((now + DOWNLOADABLE).timestamp()))
        fields = {"Expires": until, "Signature": self._sign(snapshot.number, until)}
        return f"{PATH}{snapshot.number}?{urlencode(fields)}"

    async def download(self, path: str, query: str, now: datetime) -> bytes:
        """What a path and query of ours stand for. Raises ApiError (AccessDenied, NoSuchKey)."""
        fields = dict(parse_qsl(query))
        number, until = path.removeprefix(PATH), fields.get("Expires", "")
        is_whole = number.isascii() and number.isdigit() and len(number) < 19 and until.isascii() and until.isdigit()
        if not is_whole or not hmac.compare_digest(self._sign(int(number), until), fields.get("Signature", "")):
            raise ApiError("AccessDenied", "The request is not signed.", 403)
        if now.timestamp() > int(until):
            raise ApiError("AccessDenied", "Request has expired", 403)
        row = await in_database(self._reader, PatchSnapshot.objects.filter(pk=int(number)).first)
        if row is None or now - row.taken_at > KEPT:
            raise ApiError("NoSuchKey", "The specified key does not exist.", 404)
        return orjson.dumps(
            {
                "snapshotId": row.snapshot_id,
                "takenAt": row.taken_at,
                "operatingSystem": row.operating_system,
                "patchGroup": row.patch_group,
                "patchBaseline": {
                    "BaselineId": row.baseline_id,
                    "Name": row.baseline_name,
                    "OperatingSystem": row.operating_system,
                    **row.content,
                },
            }
        )

    def _sign(self, number: int, until: str) -> str:
        return hmac.digest(self._key, f"{number}/{until}".encode(), "sha256").hex()


def _snapshot(row: PatchSnapshot) -> Snapshot:
    baseline = shapes.read(
        row.content, baseline_id=row.baseline_id, name=row.baseline_name, operating_system=row.operating_system
    )
    return Snapshot(row.snapshot_id, baseline, row.taken_at, row.is_override, row.pk)
