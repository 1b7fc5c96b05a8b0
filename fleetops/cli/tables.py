"""Rows as text, no wider than the terminal. What a server sends is shown, and cannot steer the terminal."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

GAP = "  "
LEAST_WIDTH = 6  # a column is not cut below this


def safe(value: object) -> str:
    """One line without control characters: an escape sequence in a name stays a name."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = " ".join(f"{key}={inner}" for key, inner in value.items())
    elif isinstance(value, list):
        value = ", ".join(str(each) for each in value)
    return "".join(each if unicodedata.category(each)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for each in str(value))


def width_of(text: str) -> int:
    """Columns that the terminal needs for `text`."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, with "…" where something is missing."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return text + "…"


def columns_of(out: TextIO) -> int | None:
    """How wide the terminal is; None where `out` goes to no terminal, and nothing is cut."""
    if not out.isatty():
        return None
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


def lines(heads: Sequence[str], rows: Iterable[Sequence[object]], *, columns: int | None) -> list[str]:
    """A table: heads, then rows; the widest columns give way first."""
    cells = [[safe(each) for each in row] for row in rows]
    widths = [max([width_of(head), *(width_of(row[at]) for row in cells)]) for at, head in enumerate(heads)]
    if columns is not None:
        room = columns - len(GAP) * (len(heads) - 1)
        while sum(widths) > room and max(widths) > LEAST_WIDTH:
            widths[widths.index(max(widths))] -= 1
    return [_line(row, widths) for row in [list(heads), *cells]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    shown = [cut(text, width) for text, width in zip(row, widths, strict=True)]
    padded = [text + " " * (width - width_of(text)) for text, width in zip(shown, widths, strict=True)]
    return GAP.join(padded).rstrip()


def show(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    for line in lines(heads, rows, columns=columns_of(sys.stdout)):
        print(line)
