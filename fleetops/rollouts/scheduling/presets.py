"""Schedules that are offered ready made. A wing hands its own in, in its `apps.py` `ready()`, as it does its kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Preset:
    """What is filled in; `wanted` as a schedule keeps it."""

    key: str
    name: str
    about: str
    expression: str
    wanted: Mapping[str, Any] = field(default_factory=dict)


_presets: dict[str, Preset] = {}


def offer(preset: Preset) -> None:
    _presets[preset.key] = preset


def find(key: str) -> Preset | None:
    return _presets.get(key)


def all_presets() -> list[Preset]:
    return list(_presets.values())
