"""What may be done with an affected node besides patching it where it is. Pure.

EC2 tags the members of an Auto Scaling group with the group's name, and nobody else can set such a tag [EC2 Auto
Scaling user guide, "Tag Auto Scaling groups and instances"]. A node that holds data is patched in place whatever group
it is in: a new one would begin without them.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GROUP_TAG: Final = "aws:autoscaling:groupName"


class Mark(StrEnum):
    """In the order in which lists have them."""

    DATA = "data"
    REPLACEABLE = "replaceable"
    ALONE = "alone"

    @property
    def words(self) -> str:
        return {"data": "Holds data", "replaceable": "Replaceable", "alone": "Stands alone"}[self.value]

    def counted(self, count: int) -> str:
        """ "1 holds data", "4 stand alone"."""
        verbs = {"data": ("holds data", "hold data"), "alone": ("stands alone", "stand alone")}
        one, many = verbs.get(self.value, (self.words.lower(), self.words.lower()))
        return f"{count:,} {one if count == 1 else many}"


@dataclass(frozen=True, slots=True)
class Marked:
    """A node's mark, with why it has it."""

    mark: Mark
    why: str
    group: str = ""  # the Auto Scaling group that it is a member of


def mark(tags: Mapping[str, str], clusters: Collection[str], *, holds_data: bool) -> Marked:
    """The mark of one node.

    `clusters`: names of the protected clusters that it is a member of ("111122223333 cluster=db-1"); `holds_data`: its
    tags say so, by an expression.
    """
    group = tags.get(GROUP_TAG, "")
    in_group = f"; it is a member of the Auto Scaling group {group} as well" if group else ""
    if clusters:
        return Marked(Mark.DATA, f"in a protected cluster, {min(clusters).partition(' ')[2]}{in_group}", group)
    if holds_data:
        return Marked(Mark.DATA, f"its tags say so{in_group}", group)
    if group:
        return Marked(Mark.REPLACEABLE, f"member of the Auto Scaling group {group}", group)
    return Marked(Mark.ALONE, "in no Auto Scaling group, no protected cluster, and no tag says that it holds data")


def refresh_command(group: str, region: str) -> str:
    """The command that replaces the members of a group, some at a time [EC2 Auto Scaling, StartInstanceRefresh]."""
    return (
        f"aws autoscaling start-instance-refresh --auto-scaling-group-name {shlex.quote(group)} "
        f"--region {shlex.quote(region)}"
    )


def console_words(group: str) -> str:
    return f"EC2 console: Auto Scaling Groups, {group}, tab Instance refresh, Start instance refresh"
