"""The node's side of a transfer, transfer.sh, on a terminal and under the shells that are `sh` somewhere."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import subprocess
import termios
from pathlib import Path

import pytest

from sessions_app.transfers import node
from sessions_app.transfers.node import NodeReader, Said
from tests.support.stack import descendants, until

SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
PART = node.UPLOAD_PART_BYTES


class Node:
    """One run of the script."""

    def __init__(
        self, shell: list[str], direction: str, path: str, *, overwrite: bool = False, before: str = ""
    ) -> None:
        text = node.commands()
        given = {"direction": direction, "path": path, "name": "file", "id": "0" * 32}
        for name in ("path", "name"):
            given[name] = base64.b64encode(given[name].encode()).decode()
        for name, value in (given | {"overwrite": "no"}).items():
            text = text.replace(f"{{{{ {name} }}}}", value)
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            [*shell, "-c", before + text],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self._reader = NodeReader()
        self._heard: list[Said | bytes] = []

    def _turn(self, data: bytes) -> bytes:
        """Write what goes, read what is there; what is left to write."""
        select.select([self.master], [self.master] if data else [], [], 10)
        with contextlib.suppress(BlockingIOError):
            self._heard += self._reader.feed(os.read(self.master, 65536))
        if data:
            with contextlib.suppress(BlockingIOError):
                return data[os.write(self.master, data) :]
        return data

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            while data and not any(isinstance(each, Said) and each.verb == "fail" for each in self._heard):
                data = self._turn(data)

    def hear(self, *, part: bool = False) -> Said | bytes:
        while True:
            while self._heard:
                found = self._heard.pop(0)
                if isinstance(found, bytes) is part:
                    return found
            self._turn(b"")

    def send(self, data: bytes, *, digest: str | None = None) -> Said:
        """Send a file; what the node says at its end."""
        ready = self.hear()
        if ready.verb != "ready":
            return ready
        for start in range(0, len(data), PART):
            encoded = base64.b64encode(data[start : start + PART])
            self.write(node.line("p", str(len(encoded))) + encoded)
            said = self.hear()
            if said.verb != "part":
                return said
        self.write(node.line("s", digest or hashlib.sha256(data).hexdigest()))
        return self.hear()

    def programs(self) -> set[str]:
        """What it has started that is not the shell itself any more."""
        found = set()
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        return found

    def close(self) -> int:
        code = self.process.wait(10)
        os.close(self.master)
        return code


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request) -> list[str]:
    return request.param


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_comes_to_lie_there_whole(shell, tmp_path):
    data = os.urandom(3 * PART + 17)
    run = Node(shell, "upload", str(tmp_path / "a 'b\"\n"))
    assert run.send(data) == Said("sum", (hashlib.sha256(data).hexdigest(),))
    assert run.close() == 0
    assert names(tmp_path) == ["a 'b\"\n"] and (tmp_path / "a 'b\"\n").read_bytes() == data


def test_a_part_comes_as_it_lies_there(shell, tmp_path):
    data = os.urandom(node.PART_BYTES + 1)
    (tmp_path / "-file").write_bytes(data)
    run = Node(shell, "download", str(tmp_path / "-file"))
    ready = run.hear()
    assert (ready.words[0], ready.path) == (str(len(data)), str(tmp_path / "-file"))
    run.write(node.line("n") * 3)
    assert [run.hear(part=True) for _ in range(3)] == [data[:-1], data[-1:], b""]
    run.write(node.line("s"))
    while (said := run.hear()).verb == "part":
        pass
    assert said.words == (hashlib.sha256(data).hexdigest(),)
    assert run.close() == 0


def test_another_digest_gets_no_name(shell, tmp_path):
    run = Node(shell, "upload", str(tmp_path / "x"))
    said = run.send(b"what was sent", digest="0" * 64)
    assert said.verb == "fail" and "digests differ" in said.failure
    assert run.close() == 1 and names(tmp_path) == []


def test_ctrl_c_in_the_midst_of_a_part_leaves_nothing(shell, tmp_path):
    run = Node(shell, "upload", str(tmp_path / "x"))
    assert run.hear().verb == "ready"
    run.write(node.line("p", "10000") + b"QUJD" * 500)
    assert len(names(tmp_path)) == 1
    # Until it reads the part: what comes while a shell starts a program may go to neither. The engine, which waits for
    # an answer for a second alone, ends the session then.
    until(lambda: {"head", "base64"} <= run.programs(), what="the part is read")
    run.write(node.STOP)
    said = run.hear()
    assert (said.verb, said.words) == ("fail", ("stopped",))
    assert run.close() == 1 and names(tmp_path) == []


def test_a_limit_of_the_user_is_told_and_leaves_nothing(shell, tmp_path):
    run = Node(shell, "upload", str(tmp_path / "x"), before="ulimit -f 100\n")
    said = run.send(b"x" * 2 * PART)
    assert said.verb == "fail" and "files so large" in said.failure
    run.close()
    assert names(tmp_path) == []


def test_a_full_file_system_is_told_and_leaves_nothing(shell, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
        pytest.skip("needs root, to mount a small file system")
    try:
        run = Node(shell, "upload", str(small / "x"))
        said = run.send(b"x" * 2 * PART)
        assert said.verb == "fail" and "no space left" in said.failure
        run.close()
        assert names(small) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_what_a_killed_one_left_goes_with_the_next(shell, tmp_path):
    old, young = tmp_path / ".fleetops-old.part", tmp_path / ".fleetops-young.part"
    for path, age in ((old, 3600), (young, 0)):
        path.touch()
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    run = Node(shell, "upload", str(tmp_path))
    assert run.send(b"new").verb == "sum"
    run.close()
    assert names(tmp_path) == [young.name, "file"]


def test_a_file_that_came_meanwhile_is_not_overwritten(shell, tmp_path):
    run = Node(shell, "upload", str(tmp_path / "x"))
    assert run.hear().verb == "ready"
    (tmp_path / "x").write_text("somebody else's")
    run.write(node.line("s", hashlib.sha256(b"").hexdigest()))
    assert "already" in run.hear().failure
    run.close()
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "somebody else's"


def test_what_no_node_of_ours_says_is_refused():
    with pytest.raises(ValueError, match="without an end"):
        NodeReader().feed(b"x" * 70_000)
    with pytest.raises(ValueError, match="too long"):
        NodeReader().feed(b"QUJD" * 15 + b"\n" + (b"QUJD" * 15 + b"\n") * 8000)
    with pytest.raises(ValueError):
        NodeReader().feed(b"QUJ\n@part\n")
    assert NodeReader().feed(b"sh: no job control\r\n@fail other a\x1b[2Jb\r\n")[0].failure.endswith("do it: a[2Jb.")
