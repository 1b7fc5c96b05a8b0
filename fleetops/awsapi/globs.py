"""AWS's wildcards as regular expressions that take a time in proportion to pattern and text, whatever both hold."""

import re
from collections.abc import Sequence


def compile_parts(parts: Sequence[str | None], *, ignore_case: bool = False) -> re.Pattern[str]:
    """An expression of `parts` for `fullmatch`: regexes for one character each, and None for a run of any.

    Each run but the last takes the first place that fits, and never another (an atomic group): with plain `.*` a
    pattern such as *a*a*a*a*b would try every way to spread over the text, for hours.
    """
    runs: list[str] = [""]
    for part in parts:
        if part is None:
            runs.append("")
        else:
            runs[-1] += part
    head, *rest = runs
    text = head
    if rest:
        *middle, last = rest
        text += "".join(f"(?>.*?{run})" for run in middle if run) + f".*{last}"
    return re.compile(text, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
