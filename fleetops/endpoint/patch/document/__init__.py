"""AWS-RunPatchBaseline and AWS-RunPatchBaselineWithHooks: documents with AWS's names and parameters, and our script.

The script is POSIX sh and awk, in the files beside this one. A node's table (`table.render`), which says what it is to
do, is put in when the command is dispatched to it; then the content is that of one invocation.
"""

import base64
import gzip
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PLAIN: Final = "AWS-RunPatchBaseline"
WITH_HOOKS: Final = "AWS-RunPatchBaselineWithHooks"
NAMES: Final = frozenset({PLAIN, WITH_HOOKS})
NOOP: Final = "AWS-Noop"
PATCH_STEP: Final = "PatchLinux"
NOT_HERE_CODE: Final = 156  # of AWS's own script for a failure of no other sort
PARTS: Final = 6  # steps that hand out the report: 22,000 characters each, 3,000 packages take three
HOOKED_PARTS: Final = 3  # where there are three reports


@dataclass(frozen=True, slots=True)
class Backend:
    """What goes with a node's package manager."""

    scripts: tuple[str, ...]
    facts: tuple[str, ...]  # awk that makes facts of its words
    decide: str = "decide.awk"
    name: str = ""  # as the script knows it, if that is another


BACKENDS: Final = {
    "apt": Backend(("apt.sh",), ("apt.awk",)),
    "rpm": Backend(("rpm.sh",), ("notices.awk", "rpm.awk")),
    "suse": Backend(("zypper.sh",), ("notices.awk", "zypper.awk")),
    "demo": Backend(("demo.sh",), ("demo.awk",)),
    "demo-windows": Backend(("demo.sh", "windows.sh"), ("windows.awk",), "decide-windows.awk", "demo"),
}

_LONGEST_AS_IT_IS: Final = 40_000  # bytes of a table
_HERE: Final = Path(__file__).parent
_SLOT: Final = "RUN_ID=none NODE_ID=none; table() { :; } # replaced when the command is sent to a node"
_BACKEND_SLOT: Final = "BACKEND=none; unpack_facts() { :; } # replaced by what goes with the node's package manager"
_NOT_HERE: Final = (
    "FleetOps's own document patches Linux nodes. It has been run on no real {system} node, so it does nothing "
    "here: nothing is scanned, nothing is installed, and no patch compliance is reported."
)

_GUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_DOCUMENT: Final = (
    "(^[a-zA-Z0-9_\\-.]{3,128}$)|(^arn:[a-z0-9][-.a-z0-9]{0,62}:[a-z0-9][-.a-z0-9]{0,62}:"
    "([a-z0-9][-.a-z0-9]{0,62})?:([a-z0-9][-.a-z0-9]{0,62})?:document\\/[a-zA-Z0-9_\\-.]{3,128}$)"
)
_COMMON: Final[dict[str, Any]] = {
    "Operation": {
        "type": "String",
        "description": "(Required) Scan: find which patches of the baseline are missing. Install: install them.",
        "allowedValues": ["Scan", "Install"],
    },
    "SnapshotId": {
        "type": "String",
        "description": "(Optional) A GUID that names a snapshot of the baseline: nodes with one id get the same.",
        "allowedPattern": f"(^$)|^{_GUID}$",
        "default": "",
    },
    "RebootOption": {
        "type": "String",
        "description": "(Optional) What follows an Install: RebootIfNeeded restarts the node if patches were "
        "installed; with NoReboot they stay pending until a restart and a Scan.",
        "allowedValues": ["RebootIfNeeded", "NoReboot"],
        "default": "RebootIfNeeded",
    },
}
_PARAMETERS: Final[dict[str, Any]] = {
    "Operation": _COMMON["Operation"],
    "AssociationId": {
        "type": "String",
        "description": "(Optional) The State Manager association for which compliance is reported.",
        "allowedPattern": f"(^$)|^{_GUID.replace('a-f', 'a-fA-F')}$",
        "default": "",
    },
    "SnapshotId": _COMMON["SnapshotId"],
    "InstallOverrideList": {
        "type": "String",
        "description": "(Optional) An https or S3 path-style address of a YAML list of the patches to install "
        "instead of those that the baseline approves.",
        "allowedPattern": "(^$)|^https://.+$|^s3://([^/]+)/(.*?([^/]+))$",
        "default": "",
    },
    "RebootOption": _COMMON["RebootOption"],
    "BaselineOverride": {
        "type": "String",
        "description": "(Optional) An S3 address of a JSON list of patch baselines to use instead of the node's own.",
        "allowedPattern": "(^$)|^https://.+$|^s3://([^/]+)/(.*?([^/]+))$",
        "default": "",
    },
    "StepTimeoutSeconds": {
        "type": "String",
        "description": "(Optional) How long patching may take, in seconds; at most 36000.",
        "allowedPattern": "^([1-9][0-9]{0,3}|[12][0-9]{4}|3[0-5][0-9]{3}|36000)$",
        "default": "7200",
    },
}
_HOOK_PARAMETERS: Final[dict[str, Any]] = {
    **_COMMON,
    **{
        name: {
            "type": "String",
            "description": f"(Optional) The document that runs {when}.",
            "allowedPattern": _DOCUMENT,
            "default": "AWS-Noop",
        }
        for name, when in (
            ("PreInstallHookDocName", "before patches are installed"),
            ("PostInstallHookDocName", "after patches are installed, before a restart"),
            ("OnExitHookDocName", "at the end of an Install"),
        )
    },
}
_ON_LINUX: Final = {"StringEquals": ["platformType", "Linux"]}
_ON_INSTALL: Final = {"StringEquals": ["{{ Operation }}", "Install"]}


def _read(name: str) -> str:
    return (_HERE / name).read_text()


_FIND: Final = "WORK=${SSM_DEMO_VAR:-/var}/lib/amazon/ssm/patch-configuration/run-$RUN_ID"
_HAND_OUT: Final = f'{_FIND}; [ ! -s "$WORK/part.sh" ] || . "$WORK/part.sh"; exit 0'


def _file(name: str, text: str) -> str:
    """Lines of sh that write a file of the run's own."""
    mark = f"END_OF_{name.partition('.')[0].upper()}"
    return f"cat >\"$WORK/{name}\" <<'{mark}'\n{text.rstrip()}\n{mark}"


def _lines(parts: int) -> list[str]:
    """The script, whole but for what a node's dispatch puts in."""
    unpack = "\n".join(_file(name, _read(name)) for name in ("time.awk", "now.awk", "part.sh"))
    return [
        "OPERATION='{{ Operation }}' REBOOT_OPTION='{{ RebootOption }}' PHASE=${PHASE:-whole} PARTS=" + str(parts),
        _SLOT,
        _read("common.sh").rstrip(),
        _BACKEND_SLOT,
        f'unpack() {{\n[ ! -s "$TABLE" ] || return 0\n{unpack}\nunpack_facts\ncp "$0" "$WORK/patch.sh"\n'
        'table >"$TABLE.new"; mv "$TABLE.new" "$TABLE"\n}',
        _read("main.sh").rstrip(),
    ]


def _step(name: str, lines: list[str], seconds: str, **inputs: Any) -> dict[str, Any]:
    return {
        "precondition": _ON_LINUX,
        "action": "aws:runShellScript",
        "name": name,
        "inputs": {"timeoutSeconds": seconds, **inputs, "runCommand": lines},
    }


def _parts(name: str, number: int, *, is_last: bool) -> list[dict[str, Any]]:
    """Steps that hand out the report; those behind its last part do nothing."""
    last = "yes" if is_last else "no"
    return [
        _step(f"{name}{part}", [_SLOT, f"PART={part} IS_LAST={last}; {_HAND_OUT}"], "300")
        for part in range(1, number + 1)
    ]


def _hook(name: str, **inputs: Any) -> dict[str, Any]:
    path = f"{{{{ {name} }}}}"
    return {
        "precondition": _ON_INSTALL,
        "action": "aws:runDocument",
        "name": name.removesuffix("DocName"),
        "inputs": {**inputs, "documentType": "SSMDocument", "documentPath": path},
    }


def _not_here(system: str) -> dict[str, Any]:
    words = _NOT_HERE.format(system=system)
    if system == "Windows":
        action, name, lines = "aws:runPowerShellScript", "PatchWindows", [f"[Console]::Error.WriteLine('{words}')"]
    else:
        action, name, lines = "aws:runShellScript", "PatchMacOS", [f"echo '{words}' >&2"]
    return {
        "precondition": {"StringEquals": ["platformType", system]},
        "action": action,
        "name": name,
        "inputs": {"timeoutSeconds": "300", "onFailure": "exit", "runCommand": [*lines, f"exit {NOT_HERE_CODE}"]},
    }


def _again(phase: str) -> list[str]:
    """A later step of one command: the script lies in the run's directory."""
    return [_SLOT, f"PHASE={phase}; {_FIND}", '. "$WORK/patch.sh"']


def _documents() -> dict[str, dict[str, Any]]:
    said = "Scans for or installs patches from a patch baseline"
    timeout = "{{ StepTimeoutSeconds }}"
    plain = [_step(PATCH_STEP, _lines(PARTS), timeout), *_parts("PatchReport", PARTS, is_last=True)]
    first = ["PHASE=${PHASE:-first}", *_lines(HOOKED_PARTS)]
    hooked = [
        _step("PatchLinuxScan", first, "7200", onFailure="exit"),
        *_parts("ScanReport", HOOKED_PARTS, is_last=False),
        _hook("PreInstallHookDocName", onFailure="exit"),
        _step(PATCH_STEP, _again("install"), "7200"),
        *_parts("PatchReport", HOOKED_PARTS, is_last=False),
        _hook("PostInstallHookDocName", onFailure="exit"),
        _step("PatchLinuxReboot", _again("restart"), "7200"),
        *_parts("RebootReport", HOOKED_PARTS, is_last=True),
        _hook("OnExitHookDocName", finallyStep="true"),
    ]
    others = [_not_here("Windows"), _not_here("MacOS")]
    return {
        PLAIN: {
            "schemaVersion": "2.2",
            "description": f"{said} on Linux nodes.",
            "parameters": _PARAMETERS,
            "mainSteps": [*others, *plain],
        },
        WITH_HOOKS: {
            "schemaVersion": "2.2",
            "description": f"{said} on Linux nodes, and runs documents of your choice before, after and at the end.",
            "parameters": _HOOK_PARAMETERS,
            "mainSteps": [*others, *hooked],
        },
        NOOP: {
            "schemaVersion": "2.2",
            "description": "Does nothing: the default hook of AWS-RunPatchBaselineWithHooks.",
            "mainSteps": [
                {
                    "precondition": {"StringEquals": ["platformType", system]},
                    "action": "aws:runPowerShellScript" if system == "Windows" else "aws:runShellScript",
                    "name": f"Noop{system}",
                    "inputs": {"timeoutSeconds": "60", "runCommand": ["exit 0"]},
                }
                for system in ("Windows", "Linux", "MacOS")
            ],
        },
    }


DOCUMENTS: Final = _documents()


def _as_windows(steps: list[Any]) -> list[Any]:
    """The steps for a demo node that simulates Windows: Windows' own step does there what Linux's does elsewhere.

    Such a node runs what begins so, and no PowerShell.
    """
    scripts = {step["name"]: step for step in steps}
    if "PatchLinuxScan" in scripts:
        return steps  # of AWS-RunPatchBaselineWithHooks: there are no hooks for Windows yet
    made: list[Any] = []
    for step in steps:
        source = scripts[PATCH_STEP] if step["name"] == "PatchWindows" else step
        if step["name"] == "PatchWindows" or step["name"].startswith("PatchReport"):
            lines = ["#!/bin/sh", *source["inputs"]["runCommand"]]
            step = {
                **step,
                "precondition": {"StringEquals": ["platformType", "Windows"]},
                "action": "aws:runPowerShellScript",
                "inputs": {**source["inputs"], "runCommand": lines},
            }
        made.append(step)
    return made


def carried(table: str) -> str:
    """Lines of sh that print a table; a long one is packed, for a list of patches may be longer than a message."""
    if len(table) <= _LONGEST_AS_IT_IS:
        return f"cat <<'END_OF_TABLE'\n{table.rstrip()}\nEND_OF_TABLE"
    packed = base64.encodebytes(gzip.compress(table.encode(), mtime=0)).decode().rstrip()
    return f"base64 -d <<'END_OF_TABLE' | gzip -dc\n{packed}\nEND_OF_TABLE"


def for_node(
    content: Mapping[str, Any], *, command_id: str, instance_id: str, table: str, backend: str
) -> dict[str, Any]:
    """The content of one invocation: `table` and the files of `backend` ("apt", "rpm", "demo") are put in."""
    named = f"RUN_ID={shlex.quote(command_id)} NODE_ID={shlex.quote(instance_id)}"
    heredoc = f"table() {{\n{carried(table)}\n}}"
    with_it = BACKENDS[backend]
    files = _file("facts.awk", "\n".join(map(_read, with_it.facts))) + "\n" + _file("decide.awk", _read(with_it.decide))
    scripts = "\n".join(_read(script).rstrip() for script in with_it.scripts)
    tools = f"BACKEND={with_it.name or backend}\n{scripts}\nunpack_facts() {{\n{files}\n}}"
    given_steps = content["mainSteps"] if backend != "demo-windows" else _as_windows(content["mainSteps"])
    steps: list[Any] = []
    for step in given_steps:
        lines = step["inputs"].get("runCommand")
        if isinstance(lines, list) and _SLOT in lines:
            given = {_SLOT: f"{named}\n{heredoc}" if _BACKEND_SLOT in lines else named, _BACKEND_SLOT: tools}
            step = {**step, "inputs": {**step["inputs"], "runCommand": [given.get(line, line) for line in lines]}}
        steps.append(step)
    return {**content, "mainSteps": steps}
