"""How the command log stands back behind terminals on the same host."""

from __future__ import annotations

from typing import Final

from fleetops import processes

NICE: Final = 10


def stand_back() -> None:
    """Let all other parts have the processor first; see processes.stand_back."""
    processes.stand_back(NICE)
