"""Credentials of assumed roles, renewed well before they end, so that nobody's click waits for it.

A role that is assumed from a role is good for an hour at most. botocore would renew within the call that finds a
quarter of it left. Here a thread of each process does it sooner, and only for what is in use: nobody's role is assumed
in their name while they do nothing. What it could not renew, a call tries once more in the last ten minutes, and then
fails in words.
"""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from weakref import WeakSet

from botocore.credentials import DeferredRefreshableCredentials

from fleetops import clock

from . import governor
from .errors import AwsError

logger = logging.getLogger(__name__)

AHEAD: Final = timedelta(minutes=25)  # before they end: fifty tries, before a call has to
IN_USE: Final = timedelta(minutes=30)  # since a call was signed with them
EVERY_SECONDS: Final = 30.0
_WAITED_FOR_SECONDS: Final = 600  # before they end, a call waits for new ones; botocore's own figure


class RoleCredentials(DeferredRefreshableCredentials):  # type: ignore[misc]
    """What one assumed role was given; assumed at the first call."""

    _advisory_refresh_timeout = _WAITED_FOR_SECONDS
    _mandatory_refresh_timeout = _WAITED_FOR_SECONDS

    def __init__(self, assume: Callable[[], dict[str, str]], role_arn: str, session_name: str) -> None:
        super().__init__(refresh_using=assume, method="assume-role", time_fetcher=clock.now)
        self.role_arn = role_arn
        self.session_name = session_name
        self._used_at = clock.now()

    def get_frozen_credentials(self) -> Any:
        """What botocore asks for with each call that it signs."""
        self._used_at = clock.now()
        return super().get_frozen_credentials()

    @property
    def is_due(self) -> bool:
        """Whether they end soon, and are in use. Those that were never asked for are not."""
        if self._frozen_credentials is None or self._used_at <= clock.now() - IN_USE:
            return False
        return bool(self.refresh_needed(AHEAD.total_seconds()))

    def renew(self) -> None:
        """Assume the role again; calls go on with what there was meanwhile. Raises AwsError."""
        with self._refresh_lock:
            if self.is_due:
                self._set_from_data(self._refresh_using())
                self._publish_refresh()


_kept: WeakSet[RoleCredentials] = WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def keep(credentials: RoleCredentials) -> None:
    """Have them renewed for as long as somebody holds them."""
    global _thread
    with _lock:
        _kept.add(credentials)
        if _thread is None or not _thread.is_alive():  # also in the child of a fork, which has no threads
            _thread = threading.Thread(target=_renew_for_ever, name="aws-renewal", daemon=True)
            _thread.start()


def renew_due() -> int:
    """Renew what is due; how many were. One that cannot be is logged, and tried again next time."""
    with _lock:
        due = [each for each in _kept if each.is_due]
    renewed = 0
    for each in due:
        try:
            each.renew()
            renewed += 1
        except AwsError as error:
            logger.warning("a role was not renewed role=%s as=%s reason=%s", each.role_arn, each.session_name, error)
    return renewed


def _renew_for_ever() -> None:
    pause = threading.Event()
    while not pause.wait(EVERY_SECONDS):
        try:
            with governor.acting_for(governor.Priority.POLL):
                renew_due()
        except Exception:  # the outermost loop: the next round tries again
            logger.exception("renewing roles failed")
