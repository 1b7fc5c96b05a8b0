"""What prompts look like, and which lines a shell would ask for more of. No I/O."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

# How prompts of shells end. Those of other programs end so as well: they are told apart by what stands before.
_PROMPT_END: Final = re.compile(r"[$#%❯➜»λ▶⟩] {0,2}\Z")
_ARROW_END: Final = re.compile(r"(?:\APS .*|\A[A-Za-z]:\\.*|.*@.*|.*~)> ?\Z")  # PowerShell, cmd, fish
OTHERS: Final = re.compile(
    r"""\s*(?:>>>|\.\.\.|In\s\[\d+\]:|\(gdb\)|\(Pdb\)|\(ipdb\)|irb\(.*|\[\d+\]\spry.*|mysql>|MariaDB\s\[.*|sqlite>|sftp>|ftp>
    |[\w.-]*[=\-*!^'"(~][>#]|[\w.]+>|[\d.:]+>|>|\d+:\d+>|jshell>|scala>|php\s>|SQL>)\s*\Z""",
    re.VERBOSE,
)
MORE: Final = re.compile(
    r"""(?:>\x20|(?:(?:for|foreach|while|until|repeat|if|then|elif|else|case|select|function|always|cursh|subsh|quote
    |dquote|bquote|cmdsubst|mathsubst|math|cond|braceparam|array|heredocd?|(?:err)?pipe|cmdand|cmdor)\x20?)+>\x20?)""",
    re.VERBOSE,
)


def looks_like_prompt(text: str, *, is_first: bool = False) -> bool:
    """Whether a row that a cursor rests on reads like a shell's prompt. The first of a session may end in ">"."""
    if OTHERS.match(text) and not (is_first and len(text.strip()) > 1):
        return False
    return bool(_PROMPT_END.search(text) or _ARROW_END.match(text)) or (is_first and text.rstrip().endswith(">"))


@lru_cache(maxsize=256)
def pattern(prompt: str) -> str:
    """What prompts look like that differ from this one in what stands in the middle: mostly the directory."""
    bare = prompt.rstrip()
    tail = re.escape(bare[-1:] + prompt[len(bare) :])
    if len(bare) > 1 and bare[-2] in "])}":
        tail = re.escape(bare[-2]) + tail
    head = re.match(r"[^\s:~/]*", bare)
    front = head[0] if head is not None else ""
    if not front or front == bare:
        front = bare[:1] if len(bare) > 3 else ""
        if not front:
            return re.escape(prompt)
    return rf"{re.escape(front)}[^\n]{{0,200}}?{tail}"


_WORD: Final = re.compile(r"[A-Za-z_]+|[(){}]")
_OPENS: Final = {"for", "while", "until", "if", "case", "select", "{", "("}
_CLOSES: Final = {"done", "fi", "esac", "}", ")"}


def is_unfinished(text: str) -> bool:
    """Whether a shell would ask for more: an open quote, a backslash or an operator at the end, an open construct."""
    depth = 0
    quote = ""
    plain: list[str] = []
    index = 0
    while index < len(text):
        character = text[index]
        if quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            if index == len(text) - 1:
                return True
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        else:
            plain.append(character)
        index += 1
    if quote:
        return True
    rest = "".join(plain)
    if re.search(r"(?:\||&&|\{|\()\s*\Z", rest) or re.search(r"<<-?\s*\w*", rest):
        here = re.search(r"<<-?\s*[\\'\"]?(\w+)", text)
        return here is None or not re.search(rf"\n\s*{re.escape(here[1])}\s*\Z", text)
    for word in _WORD.findall(rest):
        depth += (word in _OPENS) - (word in _CLOSES)
    return depth > 0 or bool(re.match(r"\s*(?:function\s+\w+|\w+\s*\(\))\s*\Z", rest))


_AT_ITS_END: Final = re.compile(r"(?:\\|[|<>]|&&)\s*\Z")
_BEGINS: Final = re.compile(r"(?:for|while|until|if|case|select|repeat)\s")
_HARD_TO_READ: Final = re.compile(r"\$\(|`|<<|\\.|(?:\A|\s)#")


def cannot_run(text: str) -> bool:
    """Whether no shell would have run it: it is not at its end. False for all that takes more to be sure of.

    A row is left out because of this, so that what is hard to read (nested quotes, comments, here-documents) counts
    as run.
    """
    bare = re.sub(r"'[^']*'|\"[^\"$`\\]*\"", "x", text)
    if "$'" in text or '$"' in text or _HARD_TO_READ.search(bare):
        return False
    if "'" in bare or '"' in bare or _AT_ITS_END.search(bare):
        return True
    return "\n" in bare and bool(_BEGINS.match(bare.lstrip())) and not re.search(r"\b(?:done|fi|esac|end)\b|}", bare)
