"""Why a command ended, and the exit code that says so."""

from __future__ import annotations

from fleetops.errors import UserError

DONE = 0
REFUSED = 1  # the server, or this command, would not do it
USAGE = 2
UNREACHABLE = 3
NOT_LOGGED_IN = 4


class Refused(UserError):
    """It is not done; the text says why."""

    code = REFUSED


class WrongUsage(Refused):
    """The command line says something that cannot be."""

    code = USAGE


class Unreachable(Refused):
    """The server does not answer, or is not FleetOps."""

    code = UNREACHABLE


class NotLoggedIn(Refused):
    """There is no token, or it does not hold."""

    code = NOT_LOGGED_IN
