"""How well the command log reads what was typed: somebody types into real shells, and its rows are compared.

    python benchmarks/commandlog.py [--old] [--far SEEDS] [--json FILE]

At least 60 interactions (tests/support/torture.py) in bash and in zsh, with and without the shell's integration, key by
key on a pty; in each nine forged marks are shown. What the log makes of it is read from the journal as a terminal
writes it, and again without the records of input, as it is where only sealed chunks are left. Precision: how many rows
stand for a command that was run. Recall: how many commands have their row, in order, with their text (equal but for
spaces, line ends and semicolons). A notice is a row that tells of a forged mark; unsure rows say that they may not have
been run. `--old` adds shells without bracketed paste (before readline 8.1, zsh 5.1) and zsh without Debian's hooks.
`--far 3` reads each journal as well as if somebody slower had typed it, 40, 150 and 300 ms away, so that keys are on
their way while others are shown: the lowest of so many draws of pauses and pieces each. Takes some 20 s for each shell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sessions_app.commandlog.reader import SessionReader
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", action="store_true", help="also shells without bracketed paste")
    parser.add_argument("--far", type=int, default=0, metavar="SEEDS", help="also from afar, so many draws each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
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
