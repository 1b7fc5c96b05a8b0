"""The documents' own awk, run by itself: with each awk that this machine has."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fleetops.endpoint.patch import document
from fleetops.endpoint.patch.facts import Baseline, Candidate
from fleetops.endpoint.patch.table import Setting, moment, render

HERE = Path(document.__file__).parent
AWKS = [
    words
    for words in (["mawk"], ["gawk", "--posix"], ["original-awk"], ["busybox", "awk"])
    if shutil.which(words[0]) is not None
] or [["awk"]]


def files_of(*names: str) -> list[str]:
    """awk's arguments for some of the document's files."""
    return [argument for name in names for argument in ("-f", str(HERE / name))]


def awk(words: list[str], *arguments: str, stdin: str = "") -> str:
    """What an awk prints."""
    done = subprocess.run([*words, *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def fact(patch: Candidate, *, kind: str = "U", rank: int = 1, installed: str = "") -> str:
    """A candidate as a line of facts."""
    full = f"{patch.version}-{patch.release}" if patch.release else patch.version
    fields = [
        *(kind, patch.name, patch.arch, f"{patch.epoch}:{full}" if patch.epoch else full, str(rank)),
        *(patch.classification, patch.severity, patch.priority, patch.section, patch.product),
        *(moment(patch.released_at) if patch.released_at else "", ",".join(patch.cves), str(int(patch.is_security))),
        *(installed, ",".join(patch.advisory_ids), ",".join(patch.bugzilla_ids)),
    ]
    return "\t".join(fields) + "\n"


def decided(
    words: list[str],
    directory: Path,
    baseline: Baseline,
    facts: Iterable[str],
    *,
    now: Any,
    family: str,
    mode: str = "report",
    operation: str = "Scan",
    tracking: str = "",
    failed: str = "",
    product: str = "product",
    script: str = "decide.awk",
    **setting: Any,
) -> list[list[str]]:
    """What decide.awk says of facts under a baseline."""
    files = {
        "table": render(baseline, now=now, setting=Setting("snapshot", family, product, **setting)),
        "facts": "".join(facts),
        "tracking": tracking,
        "failed": failed,
    }
    arguments = ["-v", f"mode={mode}", "-v", f"operation={operation}", "-f", str(HERE / script)]
    for name, text in files.items():
        (directory / name).write_text(text)
        arguments += [f"what={name}", str(directory / name)]
    return [line.split("\t") for line in awk(words, *arguments).splitlines()]
