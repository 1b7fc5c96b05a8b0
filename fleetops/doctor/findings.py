"""What the doctor finds: one line each, with what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARNING: Final = "warning"  # look soon
FAILED: Final = "failed"  # something does not work, or will not last
EXIT_CODES: Final = {OK: 0, WARNING: 1, FAILED: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: str
    text: str
    to_do: str = ""  # empty where nothing is


def ok(text: str) -> Finding:
    return Finding(OK, text)


def warning(text: str, to_do: str) -> Finding:
    return Finding(WARNING, text, to_do)


def failed(text: str, to_do: str) -> Finding:
    return Finding(FAILED, text, to_do)


def worst(findings: Sequence[Finding]) -> str:
    """The state of all of them together."""
    return max((each.state for each in findings), key=lambda state: EXIT_CODES[state], default=OK)


def by_limits(number: float, *, warn: float, fail: float) -> str:
    """The state of a number that should be small."""
    return FAILED if number > fail else WARNING if number > warn else OK


def is_older(version: str, than: str) -> bool:
    """Whether a dotted version is older; one that is none is not."""
    try:
        return tuple(int(part) for part in version.split(".")) < tuple(int(part) for part in than.split("."))
    except ValueError:
        return False
