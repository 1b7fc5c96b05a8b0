"""How well the command log reads what was typed: somebody types into real shells, and its rows are compared.

    python benchmarks/commandlog.py [--old] [--far SEEDS] [--json FILE]
    python benchmarks/commandlog.py --echo 10 [--keys 300] [--rounds 3]

At least 60 interactions (tests/support/torture.py) in bash and in zsh, with and without the shell's integration, key by
key on a pty; in each nine forged marks are shown. What the log makes of it is read from the journal as a terminal
writes it, and again without the records of input, as it is where only sealed chunks are left. Precision: how many rows
stand for a command that was run. Recall: how many commands have their row, in order, with their text (equal but for
spaces, line ends and semicolons). A notice is a row that tells of a forged mark; unsure rows say that they may not have
been run. `--old` adds shells without bracketed paste (before readline 8.1, zsh 5.1) and zsh without Debian's hooks.
`--far 3` reads each journal as well as if somebody slower had typed it, 40, 150 and 300 ms away, so that keys are on
their way while others are shown: the lowest of so many draws of pauses and pieces each. Takes some 20 s for each shell.

`--echo 10` measures instead what the command log costs a terminal: the echo of one while ten others print some 100 kB a
second each, all of which is emulated, with the process `commandlog` halted, as it runs (it has then to catch up with
what came meanwhile, too), and at the terminals' own priority, in turns. It takes a minute, and root for the last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.live import NODES, drained, typed
from benchmarks.terminal import FleetOps, cpu_seconds, settle
from sessions_app.commandlog.priority import NICE
from sessions_app.commandlog.reader import SessionReader
from tests.support.stack import running_stack
from tests.support.torture import ALL, OLD_SHELLS, SHELLS, forged_marks, play, read_back, score
from tests.support.typist import NONCE, over

FLOOD_BYTES = 64 << 20
FAR_MS = (40, 150, 300)


def measure(shell: str, *, marks: bool, seeds: int = 0) -> list[dict]:
    home = Path(tempfile.mkdtemp(prefix="fo-torture-"))
    try:
        events, expected = play(shell, home / "home", marks=marks)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    shown = sum(len(data) for kind, _, data in events if kind == "o")
    forged = sum(map(len, forged_marks(NONCE).values()))
    results = []
    for has_input in (True, False):
        began = time.process_time()
        found = read_back(events, nonce=NONCE if marks else "", has_input=has_input)
        seconds = time.process_time() - began
        result = score(found, expected, marks=marks)
        results.append(
            {
                "shell": shell,
                "marks": marks,
                "from": "journal" if has_input else "chunks",
                "commands": len(result.expected),
                "precision": round(result.precision, 4),
                "recall": round(result.recall, 4),
                "disputed": sum(row.is_disputed for row in found.commands),
                "unsure": sum(bool(row.dispute) and not row.is_disputed for row in found.commands),
                "forged": forged,
                "notices": len(found.notices),
                "bytes": shown,
                "cpu_ms": round(seconds * 1000),
                "missing": result.missing,
                "wrong": result.wrong,
                "far": far(events, expected, marks=marks, has_input=has_input, seeds=seeds),
            }
        )
    return results


def far(events: list, expected: list, *, marks: bool, has_input: bool, seeds: int) -> dict[int, tuple[float, float]]:
    """For each latency the lowest precision and the lowest recall of so many draws."""
    lowest = {}
    for latency_ms in FAR_MS if seeds else ():
        results = [
            score(
                read_back(over(events, seed, latency_ms=latency_ms), nonce=NONCE if marks else "", has_input=has_input),
                expected,
                marks=marks,
            )
            for seed in range(seeds)
        ]
        lowest[latency_ms] = min(each.precision for each in results), min(each.recall for each in results)
    return lowest


def flood() -> float:
    """MB of `yes` that are read in a second of CPU."""
    reader = SessionReader(NONCE)
    piece = b"y\r\n" * 10_000
    pieces = [(piece, number * 1000, number * len(piece)) for number in range((8 << 20) // len(piece))]
    began, size = time.process_time(), 0
    while size < FLOOD_BYTES:
        reader.flood([(data, time_us, offset + size) for data, time_us, offset in pieces])
        size += len(piece) * len(pieces)
    return size / 1e6 / (time.process_time() - began)


# Lines in portions too small to be a flood, so that each byte is emulated.
BUSY = (
    b"exec 9<> <(:); while :; do for i in {1..60}; do "
    b'echo "$i $RANDOM a line of a log that is followed, $SECONDS"; done; read -rt .04 -u 9; done\r'
)


def beside(sessions: int, keys: int, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Of each arrangement and round the echo's p50 and p99 in ms, and the share of a core that the command log took."""
    arrangements = {"halted": None, "running": 0, "running, not niced": -10}
    figures: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="fo-cmdlog-") as home, running_stack(Path(home)) as stack:
        person = stack.log_in()
        others = [FleetOps(stack, person, NODES[number % len(NODES)]) for number in range(sessions)]
        for other in others:
            settle(other)
            other.type(BUSY)
        pid = stack.pid("commandlog")
        with drained(others):
            shell = FleetOps(stack, person, NODES[0])
            for number in range(rounds):
                # What else the machine does changes meanwhile.
                for name in random.Random(number).sample(list(arrangements), len(arrangements)):
                    less = arrangements[name]
                    os.kill(pid, signal.SIGSTOP if less is None else signal.SIGCONT)
                    with contextlib.suppress(OSError):
                        os.setpriority(os.PRIO_PROCESS, pid, NICE + (less or 0))
                        Path(f"/proc/{pid}/autogroup").write_text(str(NICE + (less or 0)))
                    cpu, began = cpu_seconds(pid), time.monotonic()
                    p50, p99 = typed(shell, keys)
                    share = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
                    figures.setdefault(name, []).append((p50, p99, share))
            os.kill(pid, signal.SIGCONT)
            shell.close()
        for other in others:
            other.close()
    return {name: figures[name] for name in arrangements}


def show_beside(sessions: int, keys: int, rounds: int) -> None:
    """Medians of the rounds; the ratios are medians of what each round gave against its own without the command log."""
    figures = beside(sessions, keys, rounds)
    print(f"| command log, {sessions} busy sessions | echo p50 ms | p99 ms | of a core | p50 | p99 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, each in figures.items():
        p50, p99, share = (statistics.median(column) for column in zip(*each, strict=True))
        pairs = list(zip(each, figures["halted"], strict=True))
        ratios = [statistics.median(mine[which] / alone[which] for mine, alone in pairs) for which in (0, 1)]
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {share:.0%} | × {ratios[0]:.2f} | × {ratios[1]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", action="store_true", help="also shells without bracketed paste")
    parser.add_argument("--far", type=int, default=0, metavar="SEEDS", help="also from afar, so many draws each")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--echo", type=int, metavar="SESSIONS", help="measure a terminal's echo beside so many busy ones"
    )
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.echo:
        show_beside(options.echo, options.keys, options.rounds)
        return
    print(f"{len(ALL)} interactions in each shell")
    heads = "commands precision  recall disputed unsure forged, told"
    print(f"{'shell':<12} {'marks':<6} {'from':<8} {heads}")
    results = []
    for shell in (*SHELLS, *(OLD_SHELLS if options.old else ())):
        for marks in (False, True) if shell in SHELLS else (False,):
            for each in measure(shell, marks=marks, seeds=options.far):
                results.append(each)
                print(
                    f"{shell:<12} {'yes' if marks else 'no':<6} {each['from']:<8} {each['commands']:>8} "
                    f"{each['precision']:>9.1%} {each['recall']:>7.1%} {each['disputed']:>8} {each['unsure']:>6} "
                    f"{each['forged']:>6}, {each['notices']:>4}"
                )
                for latency_ms, (precision, recall) in each["far"].items():
                    print(f"{f'{latency_ms} ms away, lowest':>37} {precision:>9.1%} {recall:>7.1%}")
                for name in ("missing", "wrong"):
                    for text in each[name]:
                        print(f"    {name}: {text!r}")
    print(f"a flood of `yes` is read at {flood():.0f} MB a second of CPU")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
