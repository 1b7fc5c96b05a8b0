"""What the doctor decides from facts."""

from pathlib import Path

import pytest

from fleetops.doctor.checks import file_system, other_versions
from fleetops.doctor.findings import by_limits, failed, is_older, ok, warning, worst


def test_the_worst_of_all_is_what_counts():
    assert worst([]) == "ok"
    assert worst([ok("a"), warning("b", "c")]) == "warning"
    assert worst([failed("a", "b"), ok("c"), warning("d", "e")]) == "failed"


@pytest.mark.parametrize(
    ("number", "state"), [(0, "ok"), (30, "ok"), (31, "warning"), (300, "warning"), (301, "failed")]
)
def test_a_number_is_held_to_its_limits(number, state):
    assert by_limits(number, warn=30, fail=300) == state


@pytest.mark.parametrize(
    ("version", "older"), [("2.3.67.9", True), ("2.3.68.0", False), ("3.3.40.0", False), ("1.0", True), ("odd", False)]
)
def test_versions_are_compared_as_numbers(version, older):
    assert is_older(version, "2.3.68.0") is older


def test_packages_that_differ_from_the_lock_are_named_and_those_of_other_systems_are_not():
    lock = """django==1.0 \\
    --hash=sha256:00
pytest==0.1 ; sys_platform == 'win32' \\
    --hash=sha256:00
no-such-package==1.0 \\
    --hash=sha256:00
no-such-other==1.0 ; sys_platform == 'win32'
"""
    found = other_versions(lock)
    assert [each.split(" ")[0] for each in found] == ["django", "no-such-package"]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nhost:/x /srv nfs4 rw 0 0\n/dev/b /srv/with\\040space xfs rw 0 0\n")
    assert file_system(Path("/srv/spool"), mounts) == "nfs4"
    assert file_system(Path("/srv/with space/spool"), mounts) == "xfs"
    assert file_system(Path("/var"), mounts) == "ext4"
    assert file_system(Path("/var"), tmp_path / "none") == ""
