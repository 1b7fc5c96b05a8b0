"""How the command log stands back behind terminals on the same host."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

NICE: Final = 10


def stand_back() -> None:
    """Let others have the processor first: niced, and as a batch job, which takes it from nobody as it wakes.

    Where Linux makes a group of each session (autogroup: sched(7)), nice counts within that group alone. If the session
    is ours alone, as a supervisor starts us, the group is niced too. Between control groups neither counts: a container
    or a unit has to be given less by its own settings (`cpu_shares`, `CPUWeight`).
    """
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE))
