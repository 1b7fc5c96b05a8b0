"""What `make` does before anything is installed: its failures in words, and nothing done twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleetops import bootstrap
from fleetops.errors import UserError


def test_a_step_that_fails_shows_its_last_lines_and_how_to_mend_it(capsys):
    step = bootstrap.Step("Front-end packages")
    command = [sys.executable, "-c", "print('\\n'.join(map(str, range(100)))); raise SystemExit(7)"]
    seen: list[str] = []
    with pytest.raises(UserError) as failure:
        bootstrap.run(step, command, watch=seen.append, mend="Check the network.")
    said = str(failure.value)
    assert said.startswith("Front-end packages failed with exit code 7:\n    75\n")
    assert said.endswith("    99\nCheck the network.")
    assert len(seen) == 100


def test_what_is_no_node_has_no_version():
    assert bootstrap.node_version(Path(sys.executable)) == 0
    assert bootstrap.node_version(Path("/nowhere/node")) == 0


def test_a_changed_source_changes_the_digest_and_so_does_a_moved_one():
    here = Path(__file__).resolve()
    one, other = here, here.with_name("test_plan.py")
    assert bootstrap.digest([one, other]) == bootstrap.digest([other, one])
    assert bootstrap.digest([one]) != bootstrap.digest([other])


@pytest.mark.parametrize("arguments", [[], ["all"], ["dev", "backend"]])
def test_wrong_arguments_are_told_the_right_ones(arguments):
    answer = subprocess.run(
        [sys.executable, "-m", "fleetops.bootstrap", *arguments],
        cwd=bootstrap.ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert "(embedded | dev) [front-end]" in answer.stderr


def test_make_without_a_python_that_will_do_says_which_is_needed():
    answer = subprocess.run(["make", "up", "PYTHON="], cwd=bootstrap.ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "FleetOps needs Python 3.11 or newer" in answer.stderr
