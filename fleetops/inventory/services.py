"""Linking accounts, and reading what AWS tells of their instances into our rows."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.urls import reverse

from fleetops.audit.record import record
from fleetops.aws import ec2, ssm
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.aws.records import Ec2Instance, ManagedInstance
from fleetops.clock import during, monotonic
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.notify.services import notify, resolve

from .accounts import hide_unread
from .models import Account, Instance, InstanceTag, Region

logger = logging.getLogger(__name__)

# As whom the worker calls AWS; CloudTrail shows it as the role session's name.
SESSION_NAME = "fleetops-inventory"
# Longer than the refresh task may live, so that a claim never ends under its worker.
CLAIM = timedelta(seconds=120)
# Between two refreshes that people ask for.
SHORTEST_PAUSE = timedelta(seconds=5)
# A region whose reading takes long is read less often: reading is at most a third of the time.
READING_SHARE = 3
# A hybrid node's tags cost one call each: so many a refresh, the longest unread first.
TAG_CALLS = 25
# Of one refresh task, which may live for 90 s: the last page, its writing and the hybrid nodes' tags come after it.
READING_SECONDS = 45
_ROWS = 500  # instances that are compared and written together, in one transaction

_EC2_FIELDS = ("ec2_state", "instance_type", "zone", "image_id", "private_ip", "profile_arn", "launched_at")
_SSM_FIELDS = (
    "resource_type",
    "ping_status",
    "agent_version",
    "platform_type",
    "platform_name",
    "platform_version",
    "computer_name",
)
# What a page shows; a change of any of them is a change that open pages are told of.
_SHOWN_FIELDS = (*_EC2_FIELDS, *_SSM_FIELDS, "name", "tags", "gone_at")
_WRITTEN_FIELDS = (*_SHOWN_FIELDS, "last_ping_at", "ec2_read_at", "ssm_read_at", "tags_read_at", "changed_at")
_GONE_STATES = {"terminated", "shutting-down"}


# --- linking ---------------------------------------------------------------------------------------------------------


def link_endpoint(handover: Path, credentials_file: Path, *, actor: Any) -> list[Account]:
    """Take over what the endpoint wrote for us: accounts and regions as rows, credentials as profiles of a file.

    Safe to repeat; only what changed is written and audited. The profiles are there before the rows that name them.

    Raises UserError if the hand-over is not what an endpoint writes.
    """
    try:
        told = json.loads(handover.read_text())
        ca_pem = Path(told["ca_file"]).read_text()
        profiles = {
            f"fleetops-{each['account_id']}": (
                str(each["product_credentials"]["access_key_id"]),
                str(each["product_credentials"]["secret_access_key"]),
            )
            for each in told["accounts"]
        }
        endpoint_url, stream_hosts = str(told["endpoint_url"]), [str(host) for host in told["stream_hosts"]]
        accounts = [
            (
                str(each["account_id"]),
                str(each["name"]),
                str(each["role_arn"]),
                str(each["external_id"]),
                each["regions"],
            )
            for each in told["accounts"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Not the error's text: a broken JSON text may quote a secret.
        raise UserError(
            f"{handover} is not a hand-over of the endpoint ({type(error).__name__}). "
            "Start the endpoint again; it writes the file anew."
        ) from None
    if urlsplit(endpoint_url).scheme != "https":
        raise UserError(f"{handover} names {endpoint_url!r}, which is not https. Start the endpoint again.")
    write_profiles(credentials_file, profiles)
    linked = []
    for account_id, name, role_arn, external_id, regions in accounts:
        facts = {
            "name": name,
            "role_arn": role_arn,
            "external_id": external_id,
            "profile": f"fleetops-{account_id}",
            "endpoint_url": endpoint_url,
            "ca_pem": ca_pem,
            "stream_hosts": stream_hosts,
            "is_embedded": True,
        }
        linked.append(link_account(account_id, facts, regions=regions, actor=actor))
    return linked


def link_account(account_id: str, facts: Mapping[str, Any], *, regions: Sequence[str], actor: Any) -> Account:
    """Make or update the row of an account and the rows of its regions; audited if that changes anything.

    What people have set stays: a name that they gave to an account of the endpoint, regions that they turned off.
    """
    with transaction.atomic():
        account, created = Account.objects.get_or_create(account_id=account_id, defaults=dict(facts))
        told = {name: value for name, value in facts.items() if not (name == "name" and facts.get("is_embedded"))}
        changed = sorted(name for name, value in told.items() if getattr(account, name) != value)
        if changed:
            for name in changed:
                setattr(account, name, facts[name])
            account.save(update_fields=changed)
        known = set(account.regions.values_list("name", flat=True))
        added = sorted(set(regions) - known)
        Region.objects.bulk_create([Region(account=account, name=name) for name in added])
        if created or changed or added:
            # Whatever was wrong may be right now: read at once.
            account.regions.update(started_at=None)
            record(
                "inventory.account.link",
                actor=actor,
                target=account,
                account_id=account_id,
                created=created,
                changed=changed,
                regions_added=added,
                role_arn=account.role_arn,
                endpoint_url=account.endpoint_url,
            )
            logger.info("account linked account=%s changed=%s regions=%s", account_id, changed, added)
    return account


def write_profiles(path: Path, profiles: Mapping[str, tuple[str, str]]) -> bool:
    """Put profiles (name → access key id and secret) into an AWS credentials file; True if that changed the file.

    Other profiles stay as they are. The file is 0600 and replaced whole, so that a reader sees the old or the new one.
    """
    before = path.read_text() if path.exists() else ""
    kept, is_ours = [], False
    for line in before.splitlines():
        if line.strip().startswith("["):
            is_ours = line.strip().strip("[]").strip() in profiles
        if not is_ours:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    for name, (access_key_id, secret) in sorted(profiles.items()):
        kept += [""] if kept else []
        kept += [f"[{name}]", f"aws_access_key_id = {access_key_id}", f"aws_secret_access_key = {secret}"]
    after = "\n".join(kept) + "\n"
    if after == before and path.stat().st_mode & 0o077 == 0:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
    return True


# --- claiming --------------------------------------------------------------------------------------------------------


def claim_due_regions(*, now: datetime) -> list[int]:
    """Claim the regions that are to be read now; of two that ask at once, each region goes to one."""
    return _claim((r for r in _unclaimed(now) if now >= due_at(r) or _is_to_come(r, now)), now)


def claim_regions_now(*, now: datetime) -> list[int]:
    """Claim all regions but those being read, or begun within the last 5 s: a person asks for fresh facts."""
    recent = now - during(SHORTEST_PAUSE)
    old = (r for r in _unclaimed(now) if r.started_at is None or r.started_at <= recent or _is_to_come(r, now))
    return _claim(old, now)


def due_at(region: Region) -> datetime:
    """When `region` is to be read next; long ago if it never was."""
    if region.started_at is None:
        return datetime.min.replace(tzinfo=UTC)
    if region.reading:
        return region.started_at
    interval = timedelta(seconds=settings.INVENTORY_SECONDS)
    if region.refreshed_at is not None and region.refreshed_at > region.started_at:
        interval = max(interval, (region.refreshed_at - region.started_at) * READING_SHARE)
    return region.started_at + interval


def _is_to_come(region: Region, now: datetime) -> bool:
    """Whether its last reading began later than now: the clock was put back, and nobody waits until it is there again.

    Not by as little as the clocks of two machines may differ.
    """
    return region.started_at is not None and region.started_at > now + CLAIM


def _unclaimed(now: datetime) -> list[Region]:
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    return list(Region.objects.filter(free, enabled=True, account__enabled=True))


def _claim(regions: Iterable[Region], now: datetime) -> list[int]:
    return [
        region.pk
        for region in regions
        if Region.objects.filter(
            pk=region.pk, enabled=True, started_at=region.started_at, claimed_until=region.claimed_until
        ).update(started_at=now, claimed_until=now + during(CLAIM))
    ]


# --- refreshing ------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one refresh of a region found."""

    read: int = 0  # answers of the two services, each for one instance
    changed: int = 0
    gone: int = 0
    error: str = ""
    began: datetime | None = None
    reading: dict[str, Any] = field(default_factory=dict)  # where to go on, if this was not all of it


def refresh_region(region_id: int, *, now: datetime) -> Outcome | None:
    """Read a claimed region from EC2 and SSM and bring its rows up to date; None if nobody holds a claim on it.

    No AWS call is made inside a transaction. The two services are read on their own, page by page: where one fails,
    what it told before and the other's facts are still taken, nothing is marked as gone, and the region's row says in
    words what failed. Every fact keeps the moment of its reading. A region that takes longer than READING_SECONDS,
    since AWS answers only so many calls a second, is read on from there by the next call of this.
    """
    readable = Region.objects.select_related("account").filter(enabled=True, account__enabled=True)
    region = readable.filter(pk=region_id, claimed_until__gt=now).first()
    if region is None:
        logger.info("refresh skipped region=%s: not claimed", region_id)
        return None
    outcome = _read(region, now)
    hide_unread(region_id)
    _finish(region, outcome)
    return outcome


def fail_refresh(region_id: int, error: str) -> None:
    """Write down that a refresh ended before its time."""
    region = Region.objects.select_related("account").get(pk=region_id)
    _finish(region, Outcome(error=error))


def _read(region: Region, moment: datetime) -> Outcome:
    """Read on where the reading of this region stands, or begin one, for at most READING_SECONDS."""
    access, outcome, stop_at = region.account.access(), Outcome(), monotonic() + READING_SECONDS
    reading = region.reading or {"began": moment.isoformat(), "step": "ssm", "token": "", "errors": []}
    began = outcome.began = datetime.fromisoformat(reading["began"])
    steps = (("ssm", ssm.instance_pages, _take_node), ("ec2", ec2.instance_pages, _take_machine))
    for name, pages, take in steps[reading["step"] == "ec2" :]:
        token = reading["token"] if reading["step"] == name else ""
        records: dict[str, Any] = {}
        has_come_on = False
        try:
            for page in pages(access, region.name, session_name=SESSION_NAME, token=token):
                records |= {each.instance_id: each for each in page}
                is_late = page.token and monotonic() > stop_at
                if len(records) >= _ROWS or is_late:
                    _write(region, records, take, moment, outcome)
                    records = {}
                if is_late:
                    outcome.reading = reading | {"step": name, "token": page.token}
                    return outcome
                token, has_come_on = page.token, True
        except AwsError as error:
            if _may_go_on(error, has_come_on):
                _write(region, records, take, moment, outcome)
                outcome.reading = reading | {"step": name, "token": token}
                return outcome
            reading["errors"].append(f"{name}: {error}")
        _write(region, records, take, moment, outcome)
    failed = {error.partition(":")[0] for error in reading["errors"]}
    if "ssm" not in failed:
        outcome.changed += _silence(region, began, moment)
    if not failed:
        outcome.gone = _mark_gone(region, began, moment)
    try:
        _read_hybrid_tags(region, access, began, moment, outcome)
    except AwsError as error:
        if not _may_go_on(error, has_come_on=False):  # the next refresh reads the longest unread first
            reading["errors"].append(f"tags: {error}")
    # One cause may fail all: it is told once.
    outcome.error = " ".join(dict.fromkeys(error.partition(": ")[2] for error in reading["errors"]))
    return outcome


def _may_go_on(error: AwsError, has_come_on: bool) -> bool:
    """Whether a reading that ended so goes on from there: only because calls are few, and not for ever on one page."""
    return isinstance(error, Unavailable) and (error.is_paced or (error.is_throttled and has_come_on))


def _write(
    region: Region,
    records: Mapping[str, Any],
    take: Callable[[Instance, Any, datetime], None],
    moment: datetime,
    outcome: Outcome,
) -> None:
    """Bring the rows of what one service told up to date, in a bounded number of queries; `take` puts it into a row."""
    ids = [key for key, record in records.items() if getattr(record, "state", "") not in _GONE_STATES]
    if not ids:
        return
    read_at = "ec2_read_at" if take is _take_machine else "ssm_read_at"
    with transaction.atomic():
        rows = {row.instance_id: row for row in region.instances.filter(instance_id__in=ids)}
        fresh, retagged, pinged, touched = [], [], [], []
        for instance_id in ids:
            row = rows.get(instance_id)
            is_new = row is None
            if row is None:
                row = Instance(account_id=region.account_id, region=region, instance_id=instance_id)
            elif (getattr(row, read_at) or moment) > moment:
                continue  # an event had it read meanwhile
            before = [getattr(row, name) for name in _SHOWN_FIELDS]
            last_ping_at = row.last_ping_at
            take(row, records[instance_id], moment)
            changed = [name for name, value in zip(_SHOWN_FIELDS, before, strict=True) if getattr(row, name) != value]
            if is_new or "tags" in changed:
                retagged.append(row)
            if is_new or changed:
                row.changed_at = moment
                outcome.changed += 1
                fresh.append(row)
            elif row.last_ping_at != last_ping_at:
                pinged.append(row)
            else:
                touched.append(row.pk)
        _upsert(fresh)
        _write_tags(region, retagged)
        _write_pings(pinged)
        if touched:
            Instance.objects.filter(pk__in=touched).update(**{read_at: moment})
    outcome.read += len(ids)


def refresh_instances(region: Region, instance_ids: Sequence[str], *, now: datetime) -> Outcome:
    """Read just these instances from EC2 and SSM. Raises AwsError; what was read before it is kept."""
    access, outcome = region.account.access(), Outcome()
    for start in range(0, len(instance_ids), ssm.PAGE):
        ids = instance_ids[start : start + ssm.PAGE]
        machines = {
            each.instance_id: each for each in ec2.instances(access, region.name, ids, session_name=SESSION_NAME)
        }
        nodes = {each.instance_id: each for each in ssm.instances(access, region.name, ids, session_name=SESSION_NAME)}
        _write(region, nodes, _take_node, now, outcome)
        _write(region, machines, _take_machine, now, outcome)
        known = region.instances.filter(gone_at=None)
        silent = known.filter(instance_id__in=[each for each in ids if each not in nodes]).exclude(ping_status="")
        outcome.changed += silent.update(ping_status="", changed_at=now, ssm_read_at=now)
        # What EC2 does not list may be too new for it; what it says is terminated is gone.
        ended = [key for key, each in machines.items() if each.state in _GONE_STATES and key not in nodes]
        outcome.gone += known.filter(instance_id__in=ended).update(gone_at=now, changed_at=now, ec2_read_at=now)
    return outcome


def _take_machine(row: Instance, machine: Ec2Instance, moment: datetime) -> None:
    """Put EC2's facts into `row`; what SSM told stays as it was."""
    for name in _EC2_FIELDS:
        _set(row, name, getattr(machine, "state" if name == "ec2_state" else name))
    row.tags = dict(machine.tags)
    _set(row, "name", row.tags.get("Name") or row.computer_name)
    row.ec2_read_at, row.gone_at = moment, None


def _take_node(row: Instance, node: ManagedInstance, moment: datetime) -> None:
    """Put SSM's facts into `row`; what EC2 told stays as it was."""
    for name in _SSM_FIELDS:
        _set(row, name, getattr(node, name))
    row.last_ping_at = node.last_ping_at
    if not row.private_ip and row.is_hybrid:
        _set(row, "private_ip", node.ip_address)
    _set(row, "name", row.tags.get("Name") or (node.name if row.is_hybrid else "") or row.computer_name)
    row.ssm_read_at, row.gone_at = moment, None


def _set(row: Instance, name: str, value: Any) -> None:
    longest = Instance._meta.get_field(name).max_length
    setattr(row, name, value[:longest] if longest and value else value)


def _upsert(rows: list[Instance]) -> None:
    Instance.objects.bulk_create(
        rows,
        batch_size=_ROWS,
        update_conflicts=True,
        unique_fields=["account", "region", "instance_id"],
        update_fields=_WRITTEN_FIELDS,
    )


def _write_tags(region: Region, rows: list[Instance]) -> None:
    """Rewrite the tag rows of instances whose tags changed."""
    if not rows:
        return
    # Asked for anew: where somebody else made the row in between, the key is theirs.
    keys = dict(
        region.instances.filter(instance_id__in=[row.instance_id for row in rows]).values_list("instance_id", "pk")
    )
    InstanceTag.objects.filter(instance__in=list(keys.values())).delete()
    InstanceTag.objects.bulk_create(
        [
            InstanceTag(instance_id=keys[row.instance_id], key=key[:128], value=value[:256])
            for row in rows
            for key, value in row.tags.items()
        ],
        batch_size=_ROWS,
    )


def _write_pings(rows: list[Instance]) -> None:
    """Write what moves on every row between two readings, and nothing else of it."""
    if not rows:
        return
    quote = connection.ops.quote_name
    fields = [Instance._meta.get_field(name) for name in ("last_ping_at", "ssm_read_at", "id")]
    last_ping_at, ssm_read_at, key = (quote(field.column) for field in fields)
    sql = f"UPDATE {quote(Instance._meta.db_table)} SET {last_ping_at} = %s, {ssm_read_at} = %s WHERE {key} = %s"
    with connection.cursor() as cursor:
        cursor.executemany(
            sql,
            [[field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows],
        )


def _silence(region: Region, began: datetime, moment: datetime) -> int:
    """What SSM, read whole from `began` on, does not list answers no more; its agent's facts stay, with their age."""
    unread = Q(ssm_read_at=None) | Q(ssm_read_at__lt=began)
    silent = region.instances.filter(unread, gone_at=None).exclude(ping_status="")
    return silent.update(ping_status="", changed_at=moment)


def _mark_gone(region: Region, began: datetime, moment: datetime) -> int:
    """Mark what neither service listed in a whole reading that began at `began`."""
    unread_by_ec2 = Q(ec2_read_at=None) | Q(ec2_read_at__lt=began)
    unread_by_ssm = Q(ssm_read_at=None) | Q(ssm_read_at__lt=began)
    return region.instances.filter(unread_by_ec2, unread_by_ssm, gone_at=None).update(
        gone_at=moment, changed_at=moment, ping_status=""
    )


def _read_hybrid_tags(
    region: Region, access: AccountAccess, began: datetime, moment: datetime, outcome: Outcome
) -> None:
    """Ask for the tags of some hybrid nodes, the longest unread first."""
    hybrid = region.instances.filter(instance_id__startswith="mi-", gone_at=None, ssm_read_at__gte=began)
    for row in hybrid.order_by(F("tags_read_at").asc(nulls_first=True))[:TAG_CALLS]:
        tags = ssm.managed_instance_tags(access, region.name, instance_id=row.instance_id, session_name=SESSION_NAME)
        row.tags_read_at = moment
        with transaction.atomic():
            if tags != row.tags:
                row.tags, row.changed_at = tags, moment
                _set(row, "name", tags.get("Name") or row.name)
                outcome.changed += 1
                _write_tags(region, [row])
            row.save(update_fields=["tags", "name", "changed_at", "tags_read_at"])


def _tell(region: Region, outcome: Outcome) -> None:
    """Tell people of a region that failed twice in a row, since one failure mends itself, and of its end."""
    account_id, was_failing = region.account.account_id, bool(region.error)
    key = f"{account_id}:{region.name}"
    if outcome.error and was_failing:
        notify(
            "inventory.region",
            dedup_key=key,
            title=f"{region} cannot be read",
            text=outcome.error,
            url=reverse("accounts:account", args=[region.account.pk]),
            severity="warning",
            account_id=account_id,
            region=region.name,
        )
    elif was_failing and not outcome.error and not outcome.reading:
        resolve("inventory.region", dedup_key=key)


def _finish(region: Region, outcome: Outcome) -> None:
    """Give the claim back, and write down how it went; the first failure after a success is audited."""
    changes: dict[str, Any] = {"claimed_until": None, "reading": outcome.reading}
    if not outcome.reading:
        changes["error"] = outcome.error[:512]
        if not outcome.error:
            changes |= {"refreshed_at": clock_now(), "started_at": outcome.began or region.started_at}
    with transaction.atomic():
        # Only while the claim is still ours: a reading that took too long does not end another's.
        if not Region.objects.filter(pk=region.pk, claimed_until=region.claimed_until).update(**changes):
            return
        if outcome.error and not region.error:
            record(
                "inventory.region.refresh.fail",
                actor="worker",
                target=region.account,
                outcome="failed",
                reason=outcome.error,
                account_id=region.account.account_id,
                region=region.name,
            )
        _tell(region, outcome)
    if outcome.error:
        logger.warning(
            "refresh failed account=%s region=%s error=%s", region.account.account_id, region.name, outcome.error
        )
    elif outcome.reading:
        logger.info(
            "region read in part account=%s region=%s read=%s", region.account.account_id, region.name, outcome.read
        )
    elif outcome.changed or outcome.gone or region.error:
        logger.info(
            "region refreshed account=%s region=%s read=%s changed=%s gone=%s",
            region.account.account_id,
            region.name,
            outcome.read,
            outcome.changed,
            outcome.gone,
        )
