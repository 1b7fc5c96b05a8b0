"""What a test process has started ends with it, also when it is killed: xdist kills its workers after a Ctrl-C."""

import shutil
from collections.abc import Sequence

_SETPRIV = shutil.which("setpriv")  # of util-linux


def ends_with_tests(command: Sequence[object]) -> list[str]:
    """`command`, to which the kernel sends SIGTERM once the thread that starts it is gone (Linux)."""
    return [*([_SETPRIV, "--pdeathsig", "TERM"] if _SETPRIV else []), *map(str, command)]
