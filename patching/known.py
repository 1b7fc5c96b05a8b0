"""Which patches a region knows of an operating system, kept for the preview: from AWS's list, and from its nodes.

AWS lists the patches of Windows and Amazon Linux alone [SSM, DescribeAvailablePatches]; of other systems only what
nodes have reported is known, which has no release dates. A page asks, a worker reads; the age is shown.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from fleetops.aws import patching as aws
from fleetops.aws.errors import AwsError
from fleetops.aws.patching import AvailablePatch, NodePatch
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Instance, Region

from .families import LISTED_KEYS, Family, family_of, traits_of
from .groups import of_system
from .mirror import SESSION_NAME
from .models import KnownPatches, LegalValues
from .preview import Patch

logger = logging.getLogger(__name__)

VALUES_EVERY = timedelta(hours=24)
PATCHES_EVERY = timedelta(hours=1)
CLAIM = timedelta(seconds=120)
MOST_PATCHES = 5000  # kept of one operating system: 50 pages
MOST_NODES = 20  # asked for their patches, the ones that were seen last
_PAGES_OF_A_NODE = 10
_LISTED_BY_AWS = frozenset({"WINDOWS", "AMAZON_LINUX", "AMAZON_LINUX_2", "AMAZON_LINUX_2022", "AMAZON_LINUX_2023"})


# --- what filters take -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Legal:
    """What AWS takes for each filter key of an operating system."""

    values: dict[str, list[str]]
    read_at: datetime | None = None  # the oldest of them
    problem: str = ""  # why they could not be read now


def legal_values(region: Region, operating_system: str, *, session_name: str, now: datetime) -> Legal:
    """Read from AWS where what is kept is older than a day; of what cannot be read the old stays."""
    keys = [key for key in traits_of(operating_system).keys if key in LISTED_KEYS]
    sets = ("OS", "APPLICATION") if operating_system == "WINDOWS" else ("OS",)
    kept = {
        (row.key, row.patch_set): row
        for row in LegalValues.objects.filter(region=region, operating_system=operating_system)
    }
    problem = ""
    for key in keys:
        for patch_set in sets:
            row = kept.get((key, patch_set))
            if problem or (row is not None and row.read_at > now - VALUES_EVERY):
                continue
            try:
                found = aws.property_values(
                    region.account.access(),
                    region.name,
                    operating_system=operating_system,
                    key=key,
                    patch_set=patch_set,
                    session_name=session_name,
                )
            except AwsError as error:
                problem = str(error)
                continue
            kept[key, patch_set], _ = LegalValues.objects.update_or_create(
                region=region,
                operating_system=operating_system,
                patch_set=patch_set,
                key=key,
                defaults={"values": found, "read_at": now},
            )
    values: dict[str, list[str]] = {}
    for (key, _), row in kept.items():
        values[key] = list(dict.fromkeys([*values.get(key, []), *row.values]))
    return Legal(values, min((row.read_at for row in kept.values()), default=None), problem)


# --- the patches there are -------------------------------------------------------------------------------------------


def ask(region: Region, operating_system: str, *, now: datetime) -> tuple[KnownPatches, bool]:
    """What is kept, and whether it is to be read anew: it is older than an hour, or was never read."""
    row, _ = KnownPatches.objects.get_or_create(region=region, operating_system=operating_system)
    is_due = row.read_at is None or row.read_at <= now - PATCHES_EVERY
    has_failed_lately = bool(row.error) and row.claimed_until is not None and row.claimed_until > now
    if not is_due or has_failed_lately:
        return row, False
    if row.asked_at is None or row.asked_at <= now - timedelta(minutes=1):
        KnownPatches.objects.filter(pk=row.pk).update(asked_at=now)
    return row, True


def asked(*, now: datetime) -> list[int]:
    """What pages have asked for, and nobody reads or has read."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    unread = Q(read_at=None) | Q(read_at__lte=now - PATCHES_EVERY)
    lately = Q(asked_at__gt=now - timedelta(minutes=10))
    return list(KnownPatches.objects.filter(free & unread & lately).values_list("pk", flat=True))


def read(known_id: int, *, now: datetime) -> None:
    """Read the patches of one operating system in a region, and how they stand on some of its nodes."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    if not KnownPatches.objects.filter(free, pk=known_id).update(claimed_until=now + CLAIM):
        return
    row = KnownPatches.objects.select_related("region__account").get(pk=known_id)
    region, system = row.region, row.operating_system
    nodes = list(
        of_system(Instance.objects.present(), region.pk, system)
        .exclude(last_ping_at=None)
        .order_by("-last_ping_at", "pk")[:MOST_NODES]
    )
    try:
        found, is_cut = _available(region, system, nodes)
        states: dict[str, dict[str, str]] = {}
        for node in nodes:
            told = _of_node(region, node)
            states[str(node.pk)] = {key: _held(each) for each in told for key in _keys(each, system)}
            for each in told:
                if (patch := of_node_patch(each, system)) is not None:
                    _add(found, patch)
    except AwsError as error:
        fail(known_id, str(error))
        return
    patches = sorted(found.values(), key=lambda patch: patch.title)[:MOST_PATCHES]
    KnownPatches.objects.filter(pk=known_id).update(
        patches=[patch.to_json() for patch in patches],
        nodes=states,
        is_cut=is_cut or len(found) > MOST_PATCHES,
        claimed_until=None,
        read_at=clock_now(),
        error="",
    )
    logger.info("patches read system=%s region=%s count=%d nodes=%d", system, region, len(patches), len(nodes))


def fail(known_id: int, error: str) -> None:
    """Write down why a reading failed. It is tried again after a minute, if somebody still looks."""
    later = clock_now() + timedelta(seconds=60)
    KnownPatches.objects.filter(pk=known_id).update(claimed_until=later, error=error[:512])
    logger.warning("patches not read known=%s error=%s", known_id, error)


def patches_of(row: KnownPatches) -> list[Patch]:
    return [Patch.of_json(each) for each in row.patches]


def lists_patches(operating_system: str) -> bool:
    """Whether AWS lists what there is of an operating system, with release dates."""
    return operating_system in _LISTED_BY_AWS


def _available(region: Region, system: str, nodes: list[Instance]) -> tuple[dict[str, Patch], bool]:
    products = sorted({product for node in nodes for product in products_of(node, system)})
    found: dict[str, Patch] = {}
    if not products or not lists_patches(system):
        return found, False
    asked: list[dict[str, list[str]]] = [{"PRODUCT": products}]
    if system == "WINDOWS":
        asked = [{"PATCH_SET": ["OS"], "PRODUCT": products}, {"PATCH_SET": ["APPLICATION"]}]
    access = region.account.access()
    for filters in asked:
        for page in aws.available_patch_pages(access, region.name, filters=filters, session_name=SESSION_NAME):
            for each in page:
                _add(found, of_available(each))
            if len(found) >= MOST_PATCHES and page.token:
                return found, True
    return found, False


def products_of(node: Instance, system: str) -> list[str]:
    """A node's product, as AWS's filters name it."""
    if system == "WINDOWS":
        year = re.search(r"\b(20\d\d)( R2)?\b", node.platform_name)
        return [f"WindowsServer{year[1]}{'R2' if year[2] else ''}"] if year else []
    if system == "AMAZON_LINUX_2":
        return ["AmazonLinux2", "AmazonLinux2.0"]
    if system == "AMAZON_LINUX":
        return [f"AmazonLinux{node.platform_version}"] if node.platform_version else []
    return ["AmazonLinux" + system.removeprefix("AMAZON_LINUX_")]


def _of_node(region: Region, node: Instance) -> list[NodePatch]:
    told: list[NodePatch] = []
    access = region.account.access()
    pages = aws.node_patch_pages(access, region.name, instance_id=node.instance_id, session_name=SESSION_NAME)
    try:
        for number, page in enumerate(pages, 1):
            told += page
            if number == _PAGES_OF_A_NODE:
                break
    except AwsError as error:
        if error.code != "InvalidInstanceId":  # it is gone by now
            raise
    return told


def of_available(told: AvailablePatch) -> Patch:
    return Patch(
        name=told.name,
        version=told.version,
        release=told.release,
        epoch=told.epoch,
        arch=told.arch,
        product=told.product,
        product_family=told.product_family,
        patch_set="OS" if told.product_family in {"", "Windows"} else "APPLICATION",
        classification=told.classification,
        severity=told.severity,
        released_at=told.released_at,
        advisory_ids=told.advisory_ids,
        cves=told.cves,
        bugzilla_ids=told.bugzilla_ids,
    )


# "openssl.x86_64:1:3.0.8-1.amzn2023.0.1", "libssl3:amd64:3.0.13-1"; the parts of a Linux title.
_EPOCH = re.compile(r"^(\d+):(?=.)")
_ARCHES = ("x86_64", "aarch64", "noarch", "i686", "i386", "amd64", "arm64", "armhf", "all", "src")


def split_title(title: str, kb_id: str) -> tuple[str, str, str, str]:
    """Name, architecture, epoch and version (with release) of what a Linux node calls a patch; empty where untold."""
    name, arch = kb_id, ""
    head, _, last = kb_id.rpartition(".")
    if head and last in _ARCHES:
        name, arch = head, last
    rest = title.removeprefix(kb_id) if title.startswith(kb_id) else title.removeprefix(name)
    rest = rest.lstrip(".:- ")
    if not arch and (found := next((each for each in _ARCHES if rest.startswith(f"{each}:")), "")):
        arch, rest = found, rest[len(found) + 1 :]
    epoch = _EPOCH.match(rest)
    return name, arch, epoch[1] if epoch else "", rest[epoch.end() :] if epoch else rest


def of_node_patch(told: NodePatch, system: str) -> Patch | None:
    """What a node tells of a patch that its baseline is about; None for what it merely has installed."""
    if told.state in {"INSTALLED_OTHER", "NOT_APPLICABLE"} or not (told.classification or told.severity):
        return None
    family = family_of(system)
    if family in {Family.WINDOWS, Family.MACOS}:
        return Patch(name=told.kb_id, classification=told.classification, severity=told.severity, cves=told.cves)
    name, arch, epoch, full = split_title(told.title, told.kb_id)
    version, _, release = full.rpartition("-") if family != Family.APT else (full, "", "")
    return Patch(
        name=name,
        arch=arch,
        epoch=epoch,
        version=version or full,
        release=release if version else "",
        classification=told.classification,
        severity=told.severity,
        cves=told.cves,
    )


def _keys(told: NodePatch, system: str) -> tuple[str, ...]:
    """By which a patch is looked up on a node: its name with its version, and its name alone."""
    if family_of(system) in {Family.WINDOWS, Family.MACOS}:
        return (told.kb_id,)
    name, _, _, full = split_title(told.title, told.kb_id)
    return (f"{name}|{full}", name) if full else (name,)


def _held(told: NodePatch) -> str:
    """As preview.compare reads it."""
    return f"{told.state}@{told.installed_at.isoformat()}" if told.installed_at else told.state


def _add(found: dict[str, Patch], patch: Patch) -> None:
    """What AWS's list tells has a date, and is kept where a node tells of the same."""
    found.setdefault(patch.key, patch)
