"""Which patch group a node is in, by its tag, and which baseline it has: its group's, or the default.

A node's group is its tag `Patch Group` or `PatchGroup`, spelt exactly so [user guide, patch groups]; of a node that
has both the first counts, as at the endpoint. A group has at most one baseline of each operating system.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from django.db.models import CharField, Count, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce, NullIf

from fleetops.inventory.models import Instance, InstanceQuerySet, InstanceTag, Region

from .families import OPERATING_SYSTEMS, operating_system_of
from .models import PatchBaseline, PatchGroup

TAGS = ("Patch Group", "PatchGroup")


def group_of(tags: Mapping[str, str]) -> str:
    """The patch group that a node's tags say; "" for none."""
    return next((tags[tag] for tag in TAGS if tags.get(tag)), "")


def system_of(instance: Instance) -> str:
    """AWS's name of an instance's operating system; "" for one that Patch Manager does not know."""
    return operating_system_of(instance.platform_type, instance.platform_name, instance.platform_version)


def with_group(instances: InstanceQuerySet) -> InstanceQuerySet:
    """With `patch_group`, "" for a node in none."""
    tagged = [
        NullIf(Subquery(InstanceTag.objects.filter(instance=OuterRef("pk"), key=tag).values("value")[:1]), Value(""))
        for tag in TAGS
    ]
    return instances.annotate(patch_group=Coalesce(*tagged, Value(""), output_field=CharField()))


@dataclass(slots=True)
class Part:
    """The nodes of a group that have one operating system."""

    operating_system: str  # "" for one that Patch Manager does not know
    nodes: int = 0
    baseline: PatchBaseline | None = None
    is_registered: bool = False  # else it is the default

    @property
    def name(self) -> str:
        return OPERATING_SYSTEMS.get(self.operating_system, "Not known to Patch Manager")


@dataclass(slots=True)
class Group:
    """A patch group of an account and region, or its nodes in no group (name "")."""

    name: str
    region: Region
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        return sum(part.nodes for part in self.parts.values())

    @property
    def systems(self) -> list[Part]:
        return sorted(self.parts.values(), key=lambda part: (-part.nodes, part.name))

    @property
    def is_registered(self) -> bool:
        return any(part.is_registered for part in self.parts.values())


def overview(user, *, regions: Iterable[Region] | None = None) -> list[Group]:
    """All groups that are registered, or that nodes' tags name, and the nodes in none; a fixed number of queries."""
    found: dict[tuple[int, str], Group] = {}
    places = {region.pk: region for region in (regions or _regions())}
    nodes = with_group(Instance.objects.visible_to(user).present()).filter(region__in=places).order_by()
    counted = nodes.values("region_id", "patch_group", "platform_type", "platform_name", "platform_version").annotate(
        count=Count("pk")
    )
    for each in counted:
        group = found.setdefault(
            (each["region_id"], each["patch_group"]), Group(each["patch_group"], places[each["region_id"]])
        )
        system = operating_system_of(each["platform_type"], each["platform_name"], each["platform_version"])
        group.parts.setdefault(system, Part(system)).nodes += each["count"]
    registered = PatchGroup.objects.filter(region__in=places).select_related("baseline")
    for row in registered:
        group = found.setdefault((row.region_id, row.name), Group(row.name, places[row.region_id]))
        part = group.parts.setdefault(row.operating_system, Part(row.operating_system))
        part.baseline, part.is_registered = row.baseline, True
    defaults = _defaults(places)
    for (region_id, _), group in found.items():
        for part in group.parts.values():
            if part.baseline is None:
                part.baseline = defaults.get((region_id, part.operating_system))
    return sorted(found.values(), key=lambda group: (not group.name, group.name.casefold(), str(group.region)))


def _regions() -> list[Region]:
    return list(Region.objects.filter(enabled=True, account__enabled=True).select_related("account"))


def _defaults(region_ids: Iterable[int]) -> dict[tuple[int, str], PatchBaseline]:
    rows = PatchBaseline.objects.present().filter(region__in=list(region_ids), is_default=True)
    return {(row.region_id, row.operating_system): row for row in rows}


def baselines_of(instances: Iterable[Instance]) -> dict[Instance, PatchBaseline | None]:
    """The baseline that applies to each; None where Patch Manager knows no such system. Two queries."""
    instances = list(instances)
    region_ids = {each.region_id for each in instances}
    registered = {
        (row.region_id, row.name, row.operating_system): row.baseline
        for row in PatchGroup.objects.filter(region__in=region_ids).select_related("baseline")
    }
    defaults = _defaults(region_ids)
    found: dict[Instance, PatchBaseline | None] = {}
    for each in instances:
        system, group = system_of(each), group_of(each.tags)
        baseline = registered.get((each.region_id, group, system)) if group else None
        found[each] = baseline or defaults.get((each.region_id, system))
    return found


def nodes_of(baseline: PatchBaseline, user=None) -> InstanceQuerySet:
    """The nodes to which a baseline applies, with `patch_group`; those that `user` may see, if one is given."""
    instances = Instance.objects.visible_to(user) if user is not None else Instance.objects.all()
    nodes = with_group(of_system(instances.present(), baseline.region_id, baseline.operating_system))
    same = PatchGroup.objects.filter(region=baseline.region_id, operating_system=baseline.operating_system)
    condition = Q(patch_group__in=list(same.filter(baseline=baseline).values_list("name", flat=True)))
    if baseline.is_default:
        condition |= ~Q(patch_group__in=list(same.values_list("name", flat=True)))
    return nodes.filter(condition)


def of_system(instances: InstanceQuerySet, region_id: int, operating_system: str) -> InstanceQuerySet:
    """Those of a region that have an operating system, which is told by what their agents report."""
    platforms: dict[tuple[str, str], list[str]] = defaultdict(list)
    there = Instance.objects.present().filter(region=region_id).order_by()
    for kind, name, version in there.values_list("platform_type", "platform_name", "platform_version").distinct():
        if operating_system_of(kind, name, version) == operating_system:
            platforms[kind, name].append(version)
    condition = Q(pk__in=[])
    for (kind, name), versions in platforms.items():
        condition |= Q(platform_type=kind, platform_name=name, platform_version__in=versions)
    return instances.filter(condition, region=region_id)


def counts_of(baselines: Iterable[PatchBaseline], user) -> dict[int, int]:
    """How many nodes each has, by its key; a fixed number of queries."""
    baselines = list(baselines)
    regions = Region.objects.filter(pk__in={each.region_id for each in baselines}).select_related("account")
    counts: dict[int, int] = defaultdict(int)
    if not baselines:
        return counts
    for group in overview(user, regions=list(regions)):
        for part in group.parts.values():
            if part.baseline is not None:
                counts[part.baseline.pk] += part.nodes
    return counts
