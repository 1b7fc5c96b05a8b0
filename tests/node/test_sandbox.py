"""What a demo shell can see and do: looked at from inside, with each launcher."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleetops.node import launcher as launcher_module
from fleetops.node.host import NoSandbox, find_launcher
from fleetops.node.sandbox import FIRST_UID, HOME, Launcher, choose, choose_uid, covered, etc_files, prepare
from fleetops.node.spec import Directory, Options
from tests.node.conftest import running_node
from tests.node.gateway import Gateway, make_spec, running

IS_ROOT = os.getuid() == 0
KINDS = [
    pytest.param(
        "bwrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
    ),
    "namespaces",
]


@pytest.fixture(params=KINDS)
async def shell(request, tmp_path):
    """A shell in a node whose state directory lies behind a private one, with secrets beside it; and that directory."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "ca.key").write_text("SECRET")
    (private / "endpoint.sqlite3").write_text("SECRET")
    async with running(Gateway(private)) as gateway, running_node(gateway, kind=request.param) as node:
        neighbour = make_spec(private, "i-0bbbbbbbbbbbbbbbb", "neighbour")
        prepare(neighbour, FIRST_UID + 1 if IS_ROOT else None)
        (Directory(neighbour.home).home / "note").write_text("SECRET")
        client = await gateway.open()
        await client.see(":~$ ")
        yield client, private, node


async def test_no_state_no_key_and_no_other_node_can_be_read(shell):
    client, private, _ = shell
    seen = await client.run(f"cat {private}/ca.key {private}/endpoint.sqlite3 {private}/*/home/note; ls {private}")
    assert "SECRET" not in seen
    found = await client.run(
        "find / -xdev \\( -name '*.key' -o -name '*.sqlite3' -o -name note \\) -not -path '/proc/*' "
        "-not -path '/usr/*' -not -path '/etc/ssl/*' 2>/dev/null | head",
        seconds=30,
    )
    assert "/" not in found
    for place in ("/root", "/proc/1/root" + str(private), f"/proc/self/root{private}", "/opt", "/mnt", "/srv"):
        assert "SECRET" not in await client.run(f"ls -la {place}")
    assert "No such file" in await client.run(f"ls {private.parent}")


async def test_the_mounts_show_the_machines_programs_and_nothing_else_of_it(shell):
    client, _, _ = shell
    top = await client.run("ls -1 --color=never /")
    assert set(top.split()) <= {
        *("bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "tmp", "usr", "var")
    }
    assert await client.run("ls -1 --color=never /home") == "ssm-user\n"
    for path in ("/usr/x", "/etc/x", "/x", "/bin/x"):
        assert "x" not in await client.run(f"touch {path} 2>/dev/null && echo x''yes")
    assert "could" in await client.run("touch /tmp/a ~/a /var/tmp/a /dev/shm/a && echo co''uld")


async def test_files_in_memory_have_a_limit_and_shells_are_the_first_to_go_when_it_runs_out(shell):
    client, _, _ = shell
    for path, most in (("/tmp", 256), ("/run", 16), ("/dev/shm", 64)):
        # What was written is counted: an error may come as a signal, a message or a short file.
        await client.run(f"head -c {most + 40}M /dev/zero >{path}/full 2>/dev/null", seconds=30)
        assert int(await client.run(f"stat -c %s {path}/full")) <= most << 20, path
        await client.run(f"rm {path}/full")
    assert await client.run("echo x 2>/dev/null >/dev/full2 || echo re''fused") == "refused\n"
    assert await client.run("cat /proc/self/oom_score_adj") == "1000\n"


async def test_nothing_that_a_shell_leaves_behind_outlives_it(shell):
    client, _, _ = shell
    await client.run("(trap '' HUP TERM; setsid sleep 98765 & nohup sleep 98765 & disown -a) >/dev/null 2>&1")
    await until_sleep(2)
    await client.type("exit\r")
    await client.see_end()
    await until_sleep(0)


async def until_sleep(number: int) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while len(sleepers()) != number:
        assert asyncio.get_running_loop().time() < deadline, f"{sleepers()} sleep, not {number}"
        await asyncio.sleep(0.05)


def sleepers() -> list[str]:
    """The processes of this machine that sleep for our number of seconds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\x0098765\x00":
                found.append(path.parent.name)
    return found


async def test_other_processes_can_neither_be_seen_nor_killed(shell):
    client, _, _ = shell
    seen = await client.run("ls /proc | grep -c '^[0-9]'")
    assert int(seen) < 8
    victim = subprocess.Popen(["sleep", "60"])
    await client.run(f"kill -9 {victim.pid} {os.getpid()}")
    await client.type("kill -9 -1; exit\r")
    await client.see_end()
    assert victim.poll() is None
    victim.kill()
    victim.wait()


async def test_the_shell_has_no_privilege_and_no_way_to_one(shell):
    client, _, _ = shell
    status = await client.run("cat /proc/self/status")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000" in status or (name == "CapBnd" and not IS_ROOT)
    assert "NoNewPrivs:\t1" in status
    if IS_ROOT:
        assert f"Uid:\t{FIRST_UID}\t{FIRST_UID}\t{FIRST_UID}\t{FIRST_UID}" in status
        assert f"Gid:\t{FIRST_UID}" in status
        assert "Groups:\t \n" in status
    assert "denied" in await client.run("mount -t tmpfs none /tmp 2>&1 || echo denied")
    assert "denied" in await client.run("hostname evil 2>&1 || echo denied")


async def test_nothing_of_ours_is_left_open_in_the_shell(shell):
    client, _, _ = shell
    names = await client.run("ls -1 --color=never /proc/$$/fd")
    assert set(names.split()) == {"0", "1", "2", "255"}


async def test_the_shell_is_at_home_on_a_node_of_its_own(shell):
    client, _, _ = shell
    assert "pay-api-eu1a-01" in await client.run("hostname")
    assert HOME in await client.run("pwd")
    assert "ssm-user" in await client.run("id -un")
    assert 'NAME="Debian GNU/Linux"' in await client.run("cat /etc/os-release")
    assert "bash\t5.2" in await client.run("cat /var/lib/packages/installed")
    assert "/dev/" in await client.run("tty")
    assert "works" in await client.run("script -qc 'echo wor''ks' /dev/null")


async def test_what_is_written_at_home_stays_and_belongs_to_the_nodes_id(shell):
    client, _, node = shell
    await client.run("echo kept > ~/file; ln -s /etc/passwd ~/link")
    path = Directory(node.spec.home).home / "file"
    assert path.read_text() == "kept\n"
    assert path.stat().st_uid == (FIRST_UID if IS_ROOT else os.getuid())
    again = await client.gateway.open()
    await again.see(":~$ ")
    assert "kept" in await again.run("cat ~/file")


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
@pytest.mark.parametrize("kind", KINDS)
def test_without_root_the_kernel_gives_a_sandbox_too(kind, tmp_path):
    """As an ordinary user: the same root, by a user namespace."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    spec = make_spec(tmp_path)
    prepare(spec, 65_534)
    Directory(spec.home).root.chmod(0o755)
    (tmp_path / "secret").write_text("SECRET")
    program = shutil.copy(launcher_module.__file__, tmp_path / "launcher.py")
    script = f"id -u; hostname; cat {tmp_path}/secret; ls /; touch ~/mine && echo written"
    command = Launcher(kind).command(spec, None, (), ["/bin/sh", "-c", script])
    command = [
        {sys.executable: "/usr/bin/python3", launcher_module.__file__: str(program), "0": "65534"}.get(part, part)
        for part in command
    ]
    finished = subprocess.run(
        command, user=65_534, group=65_534, extra_groups=[], capture_output=True, text=True, check=False, cwd="/",
        env=Launcher(kind).environment(Directory(spec.home), 65_534), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert finished.stdout.splitlines()[:2] == ["65534", "pay-api-eu1a-01"], finished
    assert "SECRET" not in finished.stdout
    assert "written" in finished.stdout
    assert "root" not in finished.stdout


@pytest.mark.skipif(not IS_ROOT, reason="an id of its own needs root")
async def test_without_a_sandbox_root_gives_the_shell_another_id_or_none(tmp_path):
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    open_home, closed_home = tmp_path / "open", tmp_path / "closed"
    tmp_path.chmod(0o711)
    open_home.mkdir(mode=0o711)
    closed_home.mkdir(mode=0o700)
    async with running(Gateway(open_home)) as gateway, running_node(gateway, kind="none"):
        client = await gateway.open()
        await client.see("NOT in a sandbox")
        await client.see(":~$ ")
        assert str(FIRST_UID) in await client.run("id -u")
        reported = [facts["PlatformName"] for facts in gateway.information if "PlatformName" in facts]
        assert reported and all(name.endswith("(no sandbox)") for name in reported)
    async with running(Gateway(closed_home)) as gateway, running_node(gateway, kind="none"):
        client = await gateway.open()
        assert "Install bubblewrap" in (await client.see_end()).output


def test_beyond_loopback_no_node_starts_without_a_sandbox():
    options = Options("https://0.0.0.0:1", "ca.pem", is_loopback=False, launchers=("none",))
    with pytest.raises(NoSandbox, match=r"Demo nodes are not started.*127\.0\.0\.1"):
        find_launcher(options)


def test_the_first_launcher_that_works_is_taken(tmp_path, monkeypatch):
    assert choose(("namespaces", "none"), tmp_path / "a").kind == "namespaces"
    monkeypatch.setattr("fleetops.node.sandbox._LAUNCHER", tmp_path / "missing.py")
    assert choose(("namespaces", "none"), tmp_path / "b").kind == "none"


def test_directories_in_what_is_shown_are_covered(tmp_path):
    assert covered(["/usr/lib", str(tmp_path), "/var/lib", "/nowhere"]) == ["/usr/lib"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_directory_below_usr_is_covered(kind, tmp_path):
    spec = make_spec(tmp_path)
    uid = FIRST_UID if IS_ROOT else None
    prepare(spec, uid)
    command = Launcher(kind).command(
        spec, uid, ["/usr/share/doc"], ["/bin/sh", "-c", "ls /usr/share/doc; ls -d /usr/share/doc"]
    )
    finished = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert finished.stdout == "/usr/share/doc\n"


def test_every_node_has_an_id_of_its_own_and_keeps_it(tmp_path):
    specs = [make_spec(tmp_path, f"i-{n:017x}") for n in range(3)]
    uids = []
    for spec in specs:
        uids.append(choose_uid(spec))
        prepare(spec, uids[-1])
    assert [choose_uid(spec) for spec in specs] == uids
    assert len(set(uids)) == (3 if IS_ROOT else 1)


def test_a_link_that_a_shell_left_is_not_followed(tmp_path):
    spec = make_spec(tmp_path)
    uid = FIRST_UID if IS_ROOT else None
    prepare(spec, uid)
    var = Directory(spec.home).var
    shutil.rmtree(var / "lib")
    target = tmp_path / "outside"
    target.mkdir()
    (var / "lib").symlink_to(target)
    prepare(spec, uid)
    assert list(target.iterdir()) == []


def test_the_nodes_own_files_are_seen_where_programs_look(tmp_path):
    spec = make_spec(tmp_path)
    prepare(spec, None)
    targets = [target for _, target in etc_files(Directory(spec.home))]
    assert os.path.realpath("/etc/passwd") in targets
    assert os.path.realpath("/etc/os-release") in targets
