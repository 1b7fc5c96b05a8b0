"""Output of a terminal as text: without what it obeys, and what was overwritten."""

import re

# What a terminal obeys and does not show: CSI; OSC, DCS, SOS, PM, APC to their end; other escapes; control characters.
# 65,600 characters: the longest mark of a shell, sessions_app/commandlog/marks.py.
_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]{0,65600}(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
    r"|[\x00-\x07\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,65600}\x1b?|[ -/]*)?\Z")


class PlainText:
    """Takes the escape sequences out of text that comes in pieces."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> str:
        text = self._rest + text
        if unfinished := _UNFINISHED.search(text):
            self._rest = text[unfinished.start() :]
            text = text[: unfinished.start()]
        else:
            self._rest = ""
        return _UNSEEN.sub("", text)


def is_cut_off(text: str) -> bool:
    """Whether an escape sequence has begun in it that does not end."""
    return bool(_UNFINISHED.search(text))


def without_overwritten(line: str) -> str:
    """What is left of a line once backspaces and carriage returns did their work, about as a terminal shows it."""
    line = line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line
    if "\b" not in line:
        return line
    shown: list[str] = []
    for character in line:
        if character != "\b":
            shown.append(character)
        elif shown:
            shown.pop()
    return "".join(shown)
