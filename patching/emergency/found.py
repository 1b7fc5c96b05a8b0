"""What is known of a CVE or a package: what to offer while somebody types, and which nodes it affects.

Two sources: what nodes report as missing, and what AWS's lists name that no baseline has approved yet (known.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from django.db.models import Count, Max, Min, Q

from fleetops.clock import now as clock_now
from fleetops.errors import FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance, Region
from fleetops.inventory.selection import facts_of, select
from fleetops.rollouts.clusters import clusters_of, guards
from fleetops.targets import TargetFacts, parse
from patching import known
from patching.compliance.asking import OLD
from patching.compliance.models import PatchSpan, SpanCve, Standing
from patching.compliance.verdict import PatchState
from patching.families import OPERATING_SYSTEMS, Family, family_of, operating_system_of
from patching.groups import system_of
from patching.models import KnownPatches
from patching.pinned import Entry, entry_of
from patching.preview import Patch, older_on

from .choose import Need
from .marks import Marked, mark
from .models import What

# What a node lacks, in whatever way it says so. The last is Windows', of what its baseline lets wait.
LACKS: Final = (PatchState.MISSING, PatchState.FAILED, PatchState.AVAILABLE_SECURITY_UPDATE)
MOST_OFFERS: Final = 12
MOST_LISTS: Final = 40  # AWS lists that one look has read anew
LONGEST: Final = 255
_CVE: Final = re.compile(r"CVE-\d{4}-\d{4,7}")  # [CVE, "CVE ID syntax"]
_WITH_LIST: Final = frozenset({Family.RPM, Family.APT, Family.SUSE, Family.WINDOWS})


def checked(what: str, name: str) -> tuple[str, str]:
    """As it is kept and compared. Raises FieldError for what can be no CVE and no package."""
    if what not in What.values:
        raise FieldError("what", "Say cve or package.")
    name = name.strip()
    if what == What.CVE:
        name = name.upper()
        if not _CVE.fullmatch(name):
            raise FieldError("name", "A CVE is written as CVE-2026-12345: the year, then four to seven digits.")
    elif not 1 <= len(name) <= LONGEST or any(not each.isprintable() or each.isspace() for each in name):
        raise FieldError("name", "A package is one word, as openssl or KB5041585.")
    return what, name


def package_of(kb_id: str, title: str) -> str:
    """The name of the package of what a report tells."""
    return known.split_title(title, kb_id)[0]


# --- offers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """A CVE or package, with how many nodes lack its patch by their reports."""

    what: str
    name: str
    nodes: int
    note: str = ""  # names of packages; or that AWS's lists alone know it


def offers(user: User, words: str) -> list[Offer]:
    """What to offer for a few words, the most widespread first; without words, the most widespread of all."""
    words = words.replace("\x00", "").strip()[:200]
    there = Instance.objects.visible_to(user).present().exclude(ssm_read_at=None)
    lacking = PatchSpan.objects.open().filter(state__in=LACKS, instance__in=there)
    counted = SpanCve.objects.filter(span__in=lacking, cve__icontains=words).order_by().values("cve")
    cves = list(counted.annotate(nodes=Count("span__instance", distinct=True)).order_by("-nodes", "cve")[:MOST_OFFERS])
    names: dict[str, set[str]] = defaultdict(set)
    told = SpanCve.objects.filter(span__in=lacking, cve__in=[each["cve"] for each in cves])
    for cve, kb_id, title in told.values_list("cve", "span__kb_id", "span__title").distinct():
        names[cve].add(package_of(kb_id, title))
    found = [Offer("cve", each["cve"], each["nodes"], _few(names[each["cve"]])) for each in cves]
    found += _packages(lacking, words)
    found.sort(key=lambda each: (each.name.lower() != words.lower(), -each.nodes, each.what, each.name))
    found = found[:MOST_OFFERS]
    if len(words) >= 3:
        there_already = {each.name for each in found}
        listed = sorted(cve for cve in _listed(user) if words.upper() in cve and cve not in there_already)
        found += [Offer("cve", cve, 0, "in AWS's lists") for cve in listed[: MOST_OFFERS - len(found)]]
    return found


def _packages(lacking: Any, words: str) -> list[Offer]:
    rows = lacking.filter(kb_id__icontains=words).order_by().values("kb_id", "title")
    rows = rows.annotate(nodes=Count("instance", distinct=True)).order_by("-nodes", "kb_id", "title")
    counted: dict[str, set[str]] = defaultdict(set)
    for each in rows[: 8 * MOST_OFFERS]:
        counted[package_of(each["kb_id"], each["title"])].add(each["kb_id"])
    ids = {kb_id: name for name, all_ in list(counted.items())[: 2 * MOST_OFFERS] for kb_id in all_}
    nodes: dict[str, set[Any]] = defaultdict(set)
    for kb_id, instance in lacking.filter(kb_id__in=ids).order_by().values_list("kb_id", "instance").distinct():
        nodes[ids[kb_id]].add(instance)
    return [Offer("package", name, len(those)) for name, those in nodes.items() if words.lower() in name.lower()]


def _few(names: Collection[str]) -> str:
    few = sorted(names)
    return ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")


@lru_cache(maxsize=256)
def _index(known_id: int, read_at: datetime) -> Mapping[str, tuple[Patch, ...]]:
    """The patches of one of AWS's lists, by CVE and by package; kept until it is read anew."""
    row = KnownPatches.objects.filter(pk=known_id).first()
    found: dict[str, list[Patch]] = defaultdict(list)
    for patch in known.patches_of(row) if row is not None else ():
        for key in (*patch.cves, f"package:{patch.name}"):
            found[key].append(patch)
    return {key: tuple(patches) for key, patches in found.items()}


def _lists(user: User) -> list[tuple[int, int, str, datetime]]:
    """The lists that were read of regions where the user sees nodes: key, region, operating system, when."""
    regions = Instance.objects.visible_to(user).present().order_by().values("region").distinct()
    rows = KnownPatches.objects.filter(region__in=regions).exclude(read_at=None).order_by("pk")
    return list(rows.values_list("pk", "region", "operating_system", "read_at"))


def _listed(user: User) -> set[str]:
    every = (key for pk, _, _, read_at in _lists(user) for key in _index(pk, read_at))
    return {key for key in every if key.startswith("CVE-")}


def ask_lists(user: User) -> int:
    """Have AWS's lists read where they are old, for a look at a CVE; how many are being read."""
    seen = Instance.objects.visible_to(user).present().exclude(ssm_read_at=None).order_by()
    places = set()
    facts = ("region", "platform_type", "platform_name", "platform_version")
    for region, *platform in seen.filter(region__enabled=True).values_list(*facts).distinct():
        system = operating_system_of(*platform)
        if known.lists_patches(system):
            places.add((region, system))
    moment, asked = clock_now(), 0
    regions = Region.objects.in_bulk({region for region, _ in places})
    for region, system in sorted(places)[:MOST_LISTS]:
        asked += known.ask(regions[region], system, now=moment)[1]
    return asked


# --- who is affected -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    """One node that lacks it."""

    instance: Instance
    facts: TargetFacts
    system: str
    marked: Marked
    reported_at: datetime | None
    needs: list[Need] = field(default_factory=list)
    patches: list[tuple[str, str]] = field(default_factory=list)  # KBId and title, as its reports have them
    is_listed: bool = False  # AWS's list says so, and no report: its baseline has not approved it
    problem: str = ""  # why no list can fix it

    @property
    def system_name(self) -> str:
        return OPERATING_SYSTEMS.get(self.system, "an operating system that Patch Manager does not know")


@dataclass(slots=True)
class Affected:
    """All that is known of a CVE or package, of the nodes that a person may see."""

    what: str
    name: str
    nodes: list[Node]
    is_known: bool  # somebody has told of it: a report, now or earlier, or one of AWS's lists
    have: int = 0  # nodes that have it installed
    waiting: int = 0  # of which these wait for a restart
    never: int = 0  # nodes that were never scanned
    old: int = 0  # whose last report is older than a week
    silent: int = 0  # that tell of no CVEs: apt
    scanned: int = 0
    oldest_at: datetime | None = None
    newest_at: datetime | None = None
    packages: tuple[str, ...] = ()  # in which it is


def affected(user: User, what: str, name: str, *, scope: str = "", data: str = "") -> Affected:
    """Which nodes lack it. `scope`: only those that a target expression selects; `data`: one for what holds data.

    Raises UserError for what can be no CVE, package or expression.
    """
    what, name = checked(what, name)
    holds_data = _expression(data, "data") if data.strip() else None
    there = Instance.objects.visible_to(user).present().exclude(ssm_read_at=None)
    if scope.strip():
        there = select(_expression(scope, "q"), there)
    told = PatchSpan.objects.filter(instance__in=there)
    if what == What.CVE:
        told = told.filter(pk__in=SpanCve.objects.filter(cve=name).values("span"))
    else:
        told = told.filter(Q(kb_id__iexact=name) | Q(kb_id__istartswith=f"{name}.") | Q(kb_id__istartswith=f"{name}:"))
    rows = told.open().order_by().values_list("instance", "kb_id", "title", "state")
    lacking: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    have, waiting, packages = set(), set(), set()
    for instance, kb_id, title, state in rows:
        package = package_of(kb_id, title)
        if what == What.PACKAGE and package.lower() != name.lower():
            continue
        packages.add(package)
        if state in LACKS:
            lacking[instance].append((kb_id, title))
        elif state in {PatchState.INSTALLED, PatchState.INSTALLED_PENDING_REBOOT}:
            have.add(instance)
            if state == PatchState.INSTALLED_PENDING_REBOOT:
                waiting.add(instance)
    listed, is_listed = _by_lists(user, what, name)
    ids = {str(pk): pk for pk in there.filter(pk__in=[*listed]).values_list("pk", flat=True)} if listed else {}
    chosen = there.filter(pk__in={*lacking, *ids.values()}).select_related("account", "region")
    chosen = chosen.select_related("account", "region", "patch_standing__report").order_by("name", "instance_id")
    protections = guards()
    nodes = []
    for instance in chosen:
        facts = facts_of(instance)
        clusters = clusters_of(facts.account_id, facts.tags, protections)
        report = instance.patch_standing.report if hasattr(instance, "patch_standing") else None
        marked = mark(facts.tags, clusters, holds_data=holds_data is not None and holds_data.matches(facts))
        node = Node(instance, facts, system_of(instance), marked, report.ended_at if report else None)
        node.patches = sorted(lacking.get(instance.pk, ()))
        _fill(node, listed.get(str(instance.pk), ()))
        packages.update(patch.name for patch, _ in listed.get(str(instance.pk), ()))
        nodes.append(node)
    counted = Standing.objects.filter(instance__in=there).aggregate(
        scanned=Count("pk"),
        old=Count("pk", filter=Q(report__ended_at__lt=clock_now() - OLD)),
        oldest=Min("report__ended_at"),
        newest=Max("report__ended_at"),
    )
    return Affected(
        what,
        name,
        nodes,
        is_known=bool(nodes) or is_listed or bool(have) or told.exists(),
        have=len(have - set(lacking)),
        waiting=len(waiting - set(lacking)),
        never=there.filter(patch_standing=None).count(),
        old=counted["old"],
        silent=_silent(there) if what == What.CVE else 0,
        scanned=counted["scanned"],
        oldest_at=counted["oldest"],
        newest_at=counted["newest"],
        packages=tuple(sorted(packages)),
    )


def is_anything_scanned(user: User) -> bool:
    return Standing.objects.filter(instance__in=Instance.objects.visible_to(user).present()).exists()


def never_scanned(user: User, scope: str = "") -> Any:
    """Nodes of which nobody knows what they lack."""
    there = Instance.objects.visible_to(user).present().exclude(ssm_read_at=None).filter(patch_standing=None)
    there = select(_expression(scope, "q"), there) if scope.strip() else there
    return there.select_related("account", "region").order_by("name", "instance_id")


def _expression(text: str, name: str) -> Any:
    try:
        return parse(text, words=True)
    except UserError as error:
        raise FieldError(name, str(error)) from None


def _silent(there: Any) -> int:
    """Nodes whose package manager tells of no CVEs."""
    platforms = there.order_by().values_list("platform_type", "platform_name", "platform_version")
    counted = platforms.annotate(count=Count("pk"))
    return sum(row[3] for row in counted if family_of(operating_system_of(*row[:3]) or "WINDOWS") is Family.APT)


def _by_lists(user: User, what: str, name: str) -> tuple[dict[str, list[tuple[Patch, datetime]]], bool]:
    """By node (the text of its key) the patches that AWS's lists have of it and it lacks; whether any list has it."""
    found: dict[str, list[tuple[Patch, datetime]]] = defaultdict(list)
    is_listed = False
    key = name if what == What.CVE else f"package:{name}"
    for pk, _, _, read_at in _lists(user):
        patches = _index(pk, read_at).get(key, ())
        if not patches:
            continue
        is_listed = True
        nodes = KnownPatches.objects.values_list("nodes", flat=True).get(pk=pk)
        # Of several versions of a package the last that names it; of a package for its own sake the last of all.
        newest: dict[tuple[str, str], Patch] = {}
        for patch in sorted(patches, key=lambda each: each.released_at.timestamp() if each.released_at else 0):
            newest[patch.name, patch.arch] = patch
        for patch in newest.values():
            for node in older_on(patch, nodes):
                found[node].append((patch, read_at))
    return found, is_listed


@dataclass(frozen=True, slots=True)
class _Told:
    """A patch as entry_of takes it."""

    kb_id: str
    title: str


def _fill(node: Node, listed: Sequence[tuple[Patch, datetime]]) -> None:
    """What the node needs, as its list names it; or why no list can name it."""
    if not node.system or family_of(node.system) not in _WITH_LIST:
        node.problem = f"AWS-RunPatchBaseline takes no list of patches for {node.system_name}."
        return
    version = node.instance.platform_version
    for kb_id, title in node.patches:
        try:
            entry = entry_of(_Told(kb_id, title), node.system)  # type: ignore[arg-type]
        except UserError as error:
            node.problem = str(error)
            return
        node.needs.append(Need(node.instance.pk, node.system, version, entry.id, entry.title, node.reported_at))
    reported = {package_of(*each) for each in node.patches}
    for patch, read_at in listed:
        if patch.name not in reported:
            entry = _entry(patch, node.system)
            node.is_listed = not node.patches
            node.needs.append(Need(node.instance.pk, node.system, version, entry.id, entry.title, read_at))


def _entry(patch: Patch, system: str) -> Entry:
    """A patch of AWS's list, as an InstallOverrideList names it."""
    if family_of(system) is Family.WINDOWS:
        return Entry(patch.name)
    whole = f"{patch.name}.{patch.arch}" if patch.arch else patch.name
    if family_of(system) is Family.APT:
        return Entry(whole, f"{whole if patch.arch else f'{patch.name}.*'}:{patch.full_version}")
    return Entry(whole, f"{whole}:{patch.epoch or '0'}:{patch.full_version}")
