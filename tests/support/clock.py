"""A clock file, by which this process goes for one test; others go by it if they are started with its path."""

from collections.abc import Iterator
from pathlib import Path

import botocore.auth
import pytest

from fleetops import clock


@pytest.fixture
def clock_file(tmp_path) -> Iterator[Path]:
    """A clock file that shifts nothing yet; `clock.set_shift` writes it."""
    path = tmp_path / "clock.json"
    clock.set_shift(path)
    clock.follow(path)
    yield path
    clock.follow(None)


@pytest.fixture
def following(clock_file, monkeypatch) -> Path:
    """The same, and what sign_by_this does to botocore is undone afterwards."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", botocore.auth.get_current_datetime)
    return clock_file
