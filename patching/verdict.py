"""Whether a node's own report proves that a patch run did its work there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

SCAN, INSTALL = "Scan", "Install"
IF_NEEDED, NO_REBOOT = "RebootIfNeeded", "NoReboot"


class Word(StrEnum):
    WAITING = "waiting"
    BACK = "back"  # the agent is there; its report is not
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Told:
    """The last report of a node, as AWS sums it up."""

    operation: str
    snapshot_id: str
    ended_at: datetime
    missing: int = 0
    failed: int = 0
    pending_reboot: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a node, and when."""

    operation: str
    reboot_option: str
    snapshot_id: str
    sent_at: datetime
    is_again: bool = False  # the same run has sent it before
    has_list: bool = False  # an InstallOverrideList: what is missing besides is no matter of the run


def prove(asked: Asked, told: Told | None, *, is_online: bool) -> tuple[Word, str]:
    """What the report says of the run, with the reason in words.

    The report has to be of this run's snapshot, or, where somebody has scanned since, newer than the sending. An
    Install tells of no missing patches; a Scan that came after it does.
    """
    if told is None or not _is_of(asked, told):
        since = f"{asked.sent_at:%H:%M:%S} UTC"
        words = f"no patch report of it since {since}"
        return (Word.BACK, f"Its agent is there, and there is {words}.") if is_online else (Word.WAITING, _away(words))
    if told.failed and asked.operation == INSTALL:
        return Word.BAD, f"{_patches(told.failed)} failed to install."
    if told.pending_reboot and asked.operation == INSTALL and asked.reboot_option != NO_REBOOT:
        return Word.WAITING, f"{_patches(told.pending_reboot)} wait for a restart."
    if not is_online:
        return Word.WAITING, "Its report is there; its agent has not been heard of since."
    if asked.operation == INSTALL and told.operation == SCAN and told.missing and not asked.has_list:
        return Word.BAD, f"{_patches(told.missing)} still missing, by the scan of {told.ended_at:%H:%M:%S} UTC."
    return Word.GOOD, ""


def _is_of(asked: Asked, told: Told) -> bool:
    if told.snapshot_id == asked.snapshot_id and not asked.is_again:
        return told.operation == asked.operation  # the id is of this run alone: nobody's clock is asked
    # Another's: an Install asks for more than that somebody scanned; a Scan is as good as any later one.
    is_enough = asked.operation == SCAN or told.operation == SCAN or told.snapshot_id == asked.snapshot_id
    return told.ended_at >= asked.sent_at and is_enough


def _patches(number: int) -> str:
    return f"{number:,} patch{'' if number == 1 else 'es'}"


def _away(words: str) -> str:
    return f"Its agent has not been heard of since, and there is {words}."
