"""A limit as people write it: "5" targets, or "10%" of them. Pure.

A share is rounded down, as Run Command does it: 10 % of 50 is 5, of 55 is 5 as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fleetops.errors import UserError

MOST: Final = 20_000  # targets of a run
_LIMIT: Final = re.compile(r"\s*(\d{1,5})\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """So many, or so many of a hundred."""

    number: int
    is_share: bool = False

    def of(self, total: int, *, least: int = 0) -> int:
        """Of so many targets how many; never fewer than `least`, nor more than there are."""
        found = total * self.number // 100 if self.is_share else self.number
        return max(least, min(found, total)) if total else least

    def __str__(self) -> str:
        return f"{self.number}%" if self.is_share else str(self.number)


def parse(text: str, *, what: str = "The limit") -> Limit:
    """Read "5" or "10%". Raises UserError, which begins with `what`."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise UserError(f"{what} is a number of targets, as 5, or a share of them, as 10%; “{text[:20]}” is neither.")
    limit = Limit(int(found[1]), bool(found[2]))
    if limit.is_share and limit.number > 100:
        raise UserError(f"{what} cannot be more than 100%.")
    if limit.number > MOST:
        raise UserError(f"{what} cannot be more than {MOST:,} targets; 100% means all.")
    return limit


def concurrency(text: str, total: int) -> int:
    """How many of `total` targets may be out of service at once: at least one. Raises UserError."""
    return parse(text, what="The concurrency").of(total, least=1)


def budget(text: str, total: int) -> int:
    """How many of `total` targets may fail; one more stops it. Raises UserError."""
    return parse(text, what="The error budget").of(total)
