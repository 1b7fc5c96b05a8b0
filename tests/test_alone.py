"""The second chance of `make test`: who gets it, and who does not. With pytest itself, on a few tests of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALWAYS = "def test_always(): assert False\n"
GOOD = "def test_good(): pass\n"
# Fails in its first process alone, as one that had too little time.
ONCE = """
import pathlib
def test_once():
    seen = pathlib.Path(__file__).with_name("seen")
    was_there = seen.exists()
    seen.touch()
    assert was_there
"""
KILLED = """
import os, pathlib
def test_killed():
    seen = pathlib.Path(__file__).with_name("killed")
    was_there = seen.exists()
    seen.touch()
    if not was_there:
        os._exit(7)
"""


def made(directory: Path, **files: str) -> Path:
    (directory / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text)
    return directory


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.alone", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one", "two"])
def test_one_that_fails_among_others_and_not_alone_is_told_and_passes(tmp_path, workers):
    code, told = run(made(tmp_path, once=ONCE, good=GOOD), *workers)
    assert code == 0, told
    assert "Once more, alone: 1 that failed beside others." in told
    assert "These failed beside others, and not alone:\n  test_once.py::test_once" in told


def test_one_that_fails_again_has_failed(tmp_path):
    code, told = run(made(tmp_path, once=ONCE, always=ALWAYS))
    assert code == 1
    assert "and not alone:" not in told


def test_a_test_that_takes_its_worker_down_is_asked_again(tmp_path):
    code, told = run(made(tmp_path, killed=KILLED, good=GOOD), "-n", "2")
    assert code == 0, told
    assert "test_killed.py::test_killed" in told


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"broken": "import no_such_module\n"}, 2),  # not collected
        ({"broken": "import no_such_module\n", "once": ONCE}, 2),
        ({}, 5),  # no test at all
        ({"killed": KILLED, "once": ONCE}, 7),  # pytest itself went down
    ],
)
def test_nobody_is_asked_again_after_a_run_that_did_not_come_to_its_end(tmp_path, files, code):
    found, told = run(made(tmp_path, **files))
    assert found == code, told
    assert "Once more" not in told


def test_nobody_is_asked_again_where_many_fail(tmp_path):
    many = "import pytest\n@pytest.mark.parametrize('n', range(13))\ndef test_many(n): assert False\n"
    code, told = run(made(tmp_path, many=many, once=ONCE))
    assert code == 1
    assert "Once more" not in told
