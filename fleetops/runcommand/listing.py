"""What the pages of commands show: words for states, the bar, the fields of a document's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .models import Command, Invocation
from .states import OPEN, UNWELL, CommandState, InvocationState

ROWS: Final = 100
# State → (kind of glyph and colour, the word)
INVOCATION_WORDS: Final = {
    InvocationState.FAILED: ("bad", "Failed"),
    InvocationState.TIMED_OUT: ("bad", "Timed out"),
    InvocationState.RUNNING: ("run", "Running"),
    InvocationState.CANCELLING: ("hold", "Cancelling"),
    InvocationState.PENDING: ("wait", "Sent"),
    InvocationState.PLANNED: ("wait", "Waiting"),
    InvocationState.SUCCEEDED: ("ok", "Succeeded"),
    InvocationState.CANCELLED: ("off", "Cancelled"),
    InvocationState.SKIPPED: ("off", "Left out"),
}
COMMAND_WORDS: Final = {
    CommandState.DRAFT: ("hold", "Not started"),
    CommandState.RUNNING: ("run", "Running"),
    CommandState.CANCELLING: ("hold", "Cancelling"),
    CommandState.SUCCEEDED: ("ok", "Succeeded"),
    CommandState.FAILED: ("bad", "Failed"),
    CommandState.CANCELLED: ("off", "Cancelled"),
}
# Filter in the URL → states.
FILTERS: Final = {
    "unwell": UNWELL,
    "open": OPEN,
    "succeeded": {InvocationState.SUCCEEDED},
    "cancelled": {InvocationState.CANCELLED},
    "skipped": {InvocationState.SKIPPED},
}
_TABS: Final = (
    ("", "All"),
    ("unwell", "Failed"),
    ("open", "Not ended"),
    ("succeeded", "Succeeded"),
    ("cancelled", "Cancelled"),
    ("skipped", "Left out"),
)
# Pieces of the bar, from left to right.
_BAR: Final = (
    (InvocationState.SUCCEEDED, "ok"),
    (InvocationState.FAILED, "bad"),
    (InvocationState.TIMED_OUT, "bad"),
    (InvocationState.CANCELLED, "off"),
    (InvocationState.CANCELLING, "hold"),
    (InvocationState.RUNNING, "run"),
    (InvocationState.PENDING, "sent"),
)
_BAR_WIDTH = 1000  # of the drawing; a piece of one instance is seen all the same
_LEAST_PIECE = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the bar."""

    css: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Tab:
    """A filter, with how many it lets through."""

    key: str
    label: str
    count: int
    is_active: bool


def bar(counts: Mapping[InvocationState, int]) -> list[Piece]:
    """The share of each state, of those that it is to run on."""
    total = sum(count for state, count in counts.items() if state != InvocationState.SKIPPED)
    pieces, x = [], 0.0
    for state, css in _BAR:
        if not counts[state]:
            continue
        width = max(_LEAST_PIECE, _BAR_WIDTH * counts[state] / total)
        width = min(width, _BAR_WIDTH - x)
        title = f"{INVOCATION_WORDS[state][1]}: {counts[state]:,} of {total:,}"
        pieces.append(Piece(css, round(x, 2), round(width, 2), title))
        x += width
    return pieces


def tabs(counts: Mapping[InvocationState, int], active: str) -> list[Tab]:
    made = [Tab("", "All", sum(counts.values()), not active)]
    for key, label in _TABS[1:]:
        count = sum(counts[state] for state in FILTERS[key])
        if count or key == active:
            made.append(Tab(key, label, count, key == active))
    return made


def figures(counts: Mapping[InvocationState, int]) -> dict[str, int]:
    """The numbers of the sentence below the title."""
    return {
        "total": sum(count for state, count in counts.items() if state != InvocationState.SKIPPED),
        "ended": sum(
            count for state, count in counts.items() if state not in OPEN and state != InvocationState.SKIPPED
        ),
        "succeeded": counts[InvocationState.SUCCEEDED],
        "unwell": sum(counts[state] for state in UNWELL),
        "open": sum(counts[state] for state in OPEN),
        "cancelled": counts[InvocationState.CANCELLED],
        "skipped": counts[InvocationState.SKIPPED],
        "planned": counts[InvocationState.PLANNED],
    }


def said(invocation: Invocation) -> str:
    """What the list shows behind the state: AWS's details where they say more than it, why it was left out."""
    plain = {"Success", "Failed", "Pending", "InProgress", "Cancelled", "Cancelling", "TimedOut"}
    if invocation.details in plain:
        return invocation.head.strip().rpartition("\n")[2][:200] if invocation.head else ""
    return invocation.details


def with_words(invocation: Invocation) -> Invocation:
    invocation.kind, invocation.word = INVOCATION_WORDS[InvocationState(invocation.state)]
    invocation.said = said(invocation)
    return invocation


def with_state_words(command: Command) -> Command:
    command.kind, command.word = COMMAND_WORDS[CommandState(command.state)]
    return command


def with_numbers(command: Command, counts: Mapping[str, int]) -> Command:
    """With its words, and how many of its instances ended how."""
    command.numbers = figures({state: counts.get(state.value, 0) for state in InvocationState})
    return with_state_words(command)
