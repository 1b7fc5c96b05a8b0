"""The script by itself, on a demo node's lists: with each shell that a node may have, and when things go wrong."""

import fcntl
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from fleetops.documents import command as command_document
from fleetops.endpoint.patch import document
from fleetops.endpoint.patch.facts import Baseline, Filter, PatchState, Rule
from fleetops.endpoint.patch.report import Unreported, decode
from fleetops.endpoint.patch.table import Offer, Setting, refused, render

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
NODE = "i-0123456789abcdef0"
SHELLS = [words for words in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(words[0])]
each_shell = pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
SECURITY = Baseline("pb-1", "it's", "AMAZON_LINUX_2023", rules=(Rule((Filter("CLASSIFICATION", ("Security",)),), 7),))
CVE = ("CVE-2026-0001",)


def offer(name, version, rank, **more):
    kept = {"classification": "Security", "is_security": True} | more
    return Offer(
        *(name, "x86_64", version, rank, kept["classification"], "Important", "", "", NOW - timedelta(days=30), CVE),
        *(kept["is_security"], "ALAS-1"),
    )


OFFERS = [offer("openssl", "3-2", 1), offer("openssl", "3-1", 2), offer("kernel", "6-2", 1), offer("kernel", "6-1", 2)]


class Machine:
    """A demo node's /var, and the steps of a command run on it one after the other as an agent runs them."""

    def __init__(self, directory, shell=None):
        self.var = directory / "a var"
        self.installed = self.var / "lib/packages/installed"
        self.installed.parent.mkdir(parents=True)
        self.installed.write_text("kernel\t6-1\nopenssl\t3-1\nvim\t9-1\n")
        self.shell = shell or ["sh"]
        self.boot = 0
        self.runs = 0
        self.outputs, self.ended, self.errors = [], [], []

    def step(self, lines, **more):
        file = self.var.parent / "_script.sh"
        file.write_text("\n".join(lines) + "\n")
        environment = {
            "PATH": os.environ["PATH"],
            "SSM_DEMO_VAR": str(self.var),
            "SSM_DEMO_BOOT": str(self.boot),
            "DEMO_PACE": "0",
        } | more.pop("environment", {})
        return subprocess.Popen(
            [*self.shell, str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def steps(self, table, backend="demo", **given):
        """The Linux steps of a new command, their parameters put in."""
        self.runs += 1
        self.command_id = f"command-{self.runs}"
        content = document.for_node(
            document.DOCUMENTS[document.PLAIN],
            command_id=self.command_id,
            instance_id=NODE,
            table=table,
            backend=backend,
        )
        read = command_document.parse(content)
        parameters = command_document.with_defaults(read, given)
        return [command_document.prepared(step, parameters) for step in read.steps[2:]]

    def run(self, table, *, restarts=True, **given):
        """Run a command; its report. Raises Unreported."""
        steps = self.steps(table, **given)
        self.outputs, self.ended, self.errors = [], [], []
        for number, step in enumerate(steps):
            if command_document.is_passed_over(steps, number, self.ended):
                break
            while True:
                process = self.step(step.inputs["runCommand"])
                out, err = process.communicate()
                if process.returncode != 194:
                    break
                self.boot += restarts
            self.outputs.append(out)
            self.errors.append(err)
            self.ended.append(("Success" if process.returncode in (0, 168) else "Failed", process.returncode))
        return decode(self.outputs, command_id=self.command_id, instance_id=NODE)

    def packages(self):
        return dict(line.split("\t") for line in self.installed.read_text().splitlines())


def table(baseline=SECURITY, **more):
    return render(baseline, now=NOW, setting=Setting("snap", "rpm", "x", **({"offers": OFFERS} | more)))


def states(report):
    return {patch.title: patch.state.value for patch in report.patches}


@each_shell
def test_a_scan_an_installation_and_a_restart(shell, tmp_path):
    machine = Machine(tmp_path, shell)
    scan = machine.run(table(), Operation="Scan")
    assert not any(machine.errors)
    assert states(scan) == {
        "kernel.x86_64:6-2": "MISSING",
        "openssl.x86_64:3-2": "MISSING",
        "vim.x86_64:9-1": "INSTALLED_OTHER",
    }
    assert machine.outputs[0].startswith(f"Patch Summary for {NODE}\n")
    assert "Baseline                      : it's\n" in machine.outputs[0]
    left = machine.run(table(), Operation="Install", RebootOption="NoReboot")
    assert left.counts[PatchState.INSTALLED_PENDING_REBOOT] == 2 and left.is_pending_reboot
    assert machine.packages() == {"kernel": "6-2", "openssl": "3-2", "vim": "9-1"}
    assert machine.run(table(), Operation="Scan").counts[PatchState.INSTALLED_PENDING_REBOOT] == 2
    done = machine.run(table(), Operation="Install")
    assert machine.boot == 1 and done.counts[PatchState.INSTALLED] == 2 and not done.is_pending_reboot
    assert done.last_no_reboot_install_at is not None
    assert machine.run(table(), Operation="Install").counts == done.counts and machine.boot == 1


def test_a_restart_that_was_none_leaves_the_patches_pending(tmp_path):
    machine = Machine(tmp_path)
    steps = machine.steps(table(), Operation="Install")
    for _ in (1, 2):
        process = machine.step(steps[0].inputs["runCommand"])
        out, _ = process.communicate()
    part = machine.step(steps[1].inputs["runCommand"]).communicate()[0]
    assert process.returncode == 0 and "Going on after" in out
    report = decode([part], command_id=machine.command_id, instance_id=NODE)
    assert report.counts[PatchState.INSTALLED_PENDING_REBOOT] == 2


def test_two_runs_do_not_overlap(tmp_path):
    machine = Machine(tmp_path)
    machine.run(table(), Operation="Scan")
    lock = machine.var / "lib/amazon/ssm/patch-configuration/lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = machine.step(machine.steps(table(), Operation="Scan")[0].inputs["runCommand"])
        assert process.stdout.readline() == "Another patching operation runs on this node; waiting for it.\n"
    out, _ = process.communicate()
    assert process.returncode == 0 and "Patch Summary" in out


def test_a_run_that_is_killed_lets_go_of_the_lock_and_what_it_installed_waits_for_a_restart(tmp_path):
    machine = Machine(tmp_path)
    lines = machine.steps(table(), Operation="Install")[0].inputs["runCommand"]
    process = machine.step(lines, environment={"DEMO_PACE": "1"}, start_new_session=True)
    while machine.packages()["kernel"] != "6-2":
        assert process.poll() is None
    os.killpg(process.pid, 9)
    process.communicate()
    report = machine.run(table(), Operation="Scan")
    assert states(report) == {
        "kernel.x86_64:6-2": "INSTALLED_PENDING_REBOOT",
        "openssl.x86_64:3-2": "MISSING",
        "vim.x86_64:9-1": "INSTALLED_OTHER",
    }


def test_a_table_that_refuses_is_told_and_nothing_is_done(tmp_path):
    machine = Machine(tmp_path)
    with pytest.raises(Unreported):
        machine.run(refused("It's 100 % wrong; é."), Operation="Install")
    assert machine.ended[0] == ("Failed", 1) and machine.packages()["kernel"] == "6-1"
    assert machine.errors[0] == "It's 100 % wrong; é.\n"


def test_a_document_that_did_not_come_through_the_endpoint_does_nothing(tmp_path):
    machine = Machine(tmp_path)
    content = document.DOCUMENTS[document.PLAIN]
    steps = {step["name"]: step["inputs"]["runCommand"] for step in content["mainSteps"]}
    lines = [line.replace("{{ Operation }}", "Install") for line in steps["PatchLinux"]]
    process = machine.step(lines)
    assert "No patch baseline came with this command" in process.communicate()[1]
    assert process.returncode == 1 and machine.packages()["kernel"] == "6-1"


@pytest.mark.parametrize("backend", ["apt", "rpm", "suse"])
def test_a_demo_node_never_asks_the_machines_own_package_manager(tmp_path, backend):
    machine = Machine(tmp_path)
    (step, *_) = machine.steps(table(), backend, Operation="Scan")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg-query", "dnf", "yum", "rpm", "zypper"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{tmp_path}/asked'\n")
        (programs / name).chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    process = machine.step(step.inputs["runCommand"], environment=path)
    process.communicate()
    assert process.returncode == 1 and not (tmp_path / "asked").exists()


def test_what_does_not_fit_is_not_reported_in_part(tmp_path):
    machine = Machine(tmp_path)
    names = (f"package-{number * 2_654_435_761 % 2**40:x}\t{number * 40_503 % 65_537}-1\n" for number in range(20_000))
    machine.installed.write_text("".join(names))
    with pytest.raises(Unreported):
        machine.run(table(), Operation="Scan")
    assert "more than the 6" in machine.errors[0]


def test_the_document_fits_its_bounds_and_has_nothing_that_an_agent_would_replace():
    for content in document.DOCUMENTS.values():
        read = command_document.parse(content)
        assert read.platform_types == ("Windows", "Linux", "MacOS")
        lines = [line for step in content["mainSteps"] for line in step["inputs"].get("runCommand", [])]
        text = "\n".join(lines).replace("{{ Operation }}", "").replace("{{ RebootOption }}", "")
        assert "{{" not in text and all(line.isascii() for line in lines)
    for name in ("PatchWindows", "PatchMacOS"):
        (step,) = (one for one in document.DOCUMENTS[document.PLAIN]["mainSteps"] if one["name"] == name)
        assert "run on no real" in step["inputs"]["runCommand"][0]
        assert step["inputs"]["runCommand"][-1] == f"exit {document.NOT_HERE_CODE}"
