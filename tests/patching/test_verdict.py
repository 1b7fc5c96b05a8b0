"""A node is done when its own report proves it, and not before."""

from datetime import UTC, datetime, timedelta

import pytest

from patching.verdict import IF_NEEDED, INSTALL, NO_REBOOT, SCAN, Asked, Told, Word, prove

SENT = datetime(2026, 11, 2, 4, 0, tzinfo=UTC)
LATER, EARLIER = SENT + timedelta(minutes=5), SENT - timedelta(minutes=5)


def asked(operation=INSTALL, reboot_option=IF_NEEDED, **more):
    return Asked(operation, reboot_option, "mine", SENT, **more)


def told(operation=INSTALL, snapshot="mine", at=LATER, **counts):
    return Told(operation, snapshot, at, **counts)


@pytest.mark.parametrize(
    ("question", "answer", "is_online", "word", "words"),
    [
        (asked(), None, True, Word.BACK, "no patch report of it since 04:00:00 UTC"),
        (asked(), None, False, Word.WAITING, "has not been heard of"),
        (asked(), told(), True, Word.GOOD, ""),
        (asked(), told(), False, Word.WAITING, "Its report is there; its agent has not been heard of since."),
        (asked(), told(at=EARLIER), True, Word.GOOD, ""),  # a node whose clock is behind: the snapshot is this run's
        (asked(), told(failed=1), True, Word.BAD, "1 patch failed to install."),
        (asked(), told(failed=2), False, Word.BAD, "2 patches failed"),
        (asked(), told(pending_reboot=3), True, Word.WAITING, "3 patches wait for a restart."),
        (asked(reboot_option=NO_REBOOT), told(pending_reboot=3), True, Word.GOOD, ""),
        (asked(), told(SCAN, "another", LATER), True, Word.GOOD, ""),  # somebody has scanned since
        (asked(), told(SCAN, "another", LATER, missing=2), True, Word.BAD, "2 patches still missing, by the scan"),
        (asked(has_list=True), told(SCAN, "another", LATER, missing=2), True, Word.GOOD, ""),
        (asked(), told(SCAN, "another", EARLIER), True, Word.BACK, "no patch report"),
        (asked(), told(INSTALL, "another", LATER), True, Word.BACK, "no patch report"),  # another's installation
        (asked(), told(SCAN, "mine"), True, Word.BACK, "no patch report"),
        (asked(is_again=True), told(at=EARLIER, failed=1), True, Word.BACK, "no patch report"),  # of the first try
        (asked(is_again=True), told(at=LATER), True, Word.GOOD, ""),
        (asked(SCAN), told(SCAN, missing=9, failed=1), True, Word.GOOD, ""),  # that it is not compliant is an answer
        (asked(SCAN), told(SCAN, "another", LATER), True, Word.GOOD, ""),
    ],
)
def test_what_a_report_proves(question, answer, is_online, word, words):
    said, reason = prove(question, answer, is_online=is_online)
    assert said == word
    assert words in reason if words else not reason
