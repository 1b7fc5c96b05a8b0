"""Who holds an account: rooms above say here why it may not be removed now."""

from collections.abc import Callable
from typing import Any

_holders: list[Callable[[Any], str]] = []


def hold_removal(holder: Callable[[Any], str]) -> None:
    """Have `holder(account)` say why an account may not be removed now, or "". For apps.py's ready()."""
    _holders.append(holder)


def reason_against(account: Any) -> str:
    """The first reason why `account` may not be removed now; empty if nobody holds it."""
    return next((text for holder in _holders if (text := holder(account))), "")
