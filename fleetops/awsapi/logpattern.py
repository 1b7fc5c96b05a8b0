"""CloudWatch Logs' filter patterns, for FilterLogEvents.

Terms (`ERROR "not found"`, all of them; `?A ?B`, any of them; `-C`, none of them), `%expressions%`, and conditions on
events in JSON: `{ $.level = "ERROR" && $.code >= 500 }`. Terms are parts of the text, in the case that they have.
Patterns of fields, `[ip, user, ...]`, are not written here. Source: the CloudWatch Logs user guide, "Filter pattern
syntax".
"""

import json
import operator
from collections.abc import Callable
from typing import Any

import regex

from fleetops.awsapi.errors import ApiError, not_implemented

Predicate = Callable[[str], bool]

_TERM = regex.compile(
    r'\s*(?P<sign>[?-]?)(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|%(?P<expression>[^%]+)%|(?P<plain>[^\s"%]+))'
)
_PLAIN = regex.compile(r"[\w*]+")
# What AWS's expressions may hold; groups and references back are not among it.
_EXPRESSION = regex.compile(r"(?:[\w \-#=@/;,^$.?*+{}\[\]|:'<>!&~`]|\\.)+")
_EXPRESSION_SECONDS = 0.2  # for one event; AWS allows no more than a few characters to repeat

_TOKEN = regex.compile(
    r"""\s*(?:
      (?P<selector>\$(?:\.[\w-]+|\[\d+\]|\['[^']+'\])*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | %(?P<expression>[^%]+)%
    | (?P<mark>&&|\|\||<=|>=|!=|=|<|>|\(|\))
    | (?P<word>[\w.*+-]+)
    )""",
    regex.VERBOSE,
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_STEP = regex.compile(r"\.([\w-]+)|\[(\d+)\]|\['([^']+)'\]")
_DEEPEST = 20  # parentheses within each other
_MISSING = object()


def compile_pattern(pattern: str) -> Predicate:
    """Read a filter pattern: a function that tells whether a message matches.

    Raises ApiError: InvalidParameterException for what AWS refuses, NotImplemented for what it knows and we do not.
    """
    text = pattern.strip()
    if not text:
        return lambda message: True
    if text.startswith("{"):
        if not text.endswith("}"):
            raise _invalid("Invalid filter pattern")
        return _Conditions(text[1:-1]).read()
    if text.startswith("["):
        raise not_implemented("a filter pattern of fields in brackets")
    return _terms(text)


def _terms(text: str) -> Predicate:
    wanted: list[Predicate] = []
    optional: list[Predicate] = []
    unwanted: list[Predicate] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            raise _invalid("Invalid filter pattern")
        at = match.end()
        if match["expression"] is not None:
            made = _expression(match["expression"])
        elif match["quoted"] is not None:
            made = _contains(_unescaped(match["quoted"]))
        else:
            if not _PLAIN.fullmatch(match["plain"]):
                raise _invalid(f"Invalid character(s) in term '{match['plain']}'")
            made = _contains(match["plain"])
        {"": wanted, "?": optional, "-": unwanted}[match["sign"]].append(made)
    if optional and not wanted and not unwanted:
        return lambda message: any(matches(message) for matches in optional)
    # Beside others, AWS ignores the terms with a question mark.
    return lambda message: (
        all(matches(message) for matches in wanted) and not any(matches(message) for matches in unwanted)
    )


def _contains(term: str) -> Predicate:
    return lambda message: term in message


def _unescaped(text: str) -> str:
    return str(regex.sub(r"\\(.)", r"\1", text))


def _expression(text: str) -> Predicate:
    if not _EXPRESSION.fullmatch(text):
        raise _invalid(f"Invalid character(s) in regular expression '{text}'")
    try:
        compiled = regex.compile(text)
    except regex.error:
        raise _invalid(f"Invalid regular expression '{text}'") from None

    def matches(message: str) -> bool:
        try:
            return compiled.search(message, timeout=_EXPRESSION_SECONDS) is not None
        except TimeoutError:
            raise _invalid(f"The regular expression '{text}' takes too long") from None

    return matches


class _Conditions:
    """Reads the conditions between the braces: || of && of comparisons, with parentheses."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        text = text.strip()
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise _invalid("Invalid filter pattern")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
            while at < len(text) and text[at].isspace():
                at += 1
        self._next = 0
        self._depth = 0

    def read(self) -> Predicate:
        holds = self._either()
        if self._next != len(self._tokens):
            raise _invalid("Invalid filter pattern")

        def matches(message: str) -> bool:
            try:
                event = json.loads(message)
            except (ValueError, RecursionError):
                return False
            return isinstance(event, dict | list) and holds(event)

        return matches

    def _either(self) -> Callable[[Any], bool]:
        parts = [self._both()]
        while self._take("mark", "||"):
            parts.append(self._both())
        return lambda event: any(holds(event) for holds in parts)

    def _both(self) -> Callable[[Any], bool]:
        parts = [self._one()]
        while self._take("mark", "&&"):
            parts.append(self._one())
        return lambda event: all(holds(event) for holds in parts)

    def _one(self) -> Callable[[Any], bool]:
        if self._take("mark", "("):
            self._depth += 1
            if self._depth > _DEEPEST:
                raise _invalid("Invalid filter pattern")
            inner = self._either()
            if not self._take("mark", ")"):
                raise _invalid("Invalid filter pattern")
            self._depth -= 1
            return inner
        kind, selector = self._any()
        if kind != "selector":
            raise _invalid("Invalid filter pattern")
        steps = [
            int(match[2]) if match[2] is not None else str(match[1] or match[3]) for match in _STEP.finditer(selector)
        ]
        kind, text = self._any()
        if kind == "word" and text.upper() in {"IS", "NOT"}:
            last = self._any()[1].upper()
            if text.upper() == "NOT" and last == "EXISTS":
                return lambda event: _at(event, steps) is _MISSING
            constants = {"NULL": None, "TRUE": True, "FALSE": False}
            if text.upper() == "IS" and last in constants:
                return lambda event: _at(event, steps) is constants[last]
            raise _invalid("Invalid filter pattern")
        if kind != "mark" or text not in {"=", "!=", *_ORDER}:
            raise _invalid("Invalid filter pattern")
        return _comparison(steps, text, *self._any())

    def _any(self) -> tuple[str, str]:
        if self._next == len(self._tokens):
            raise _invalid("Invalid filter pattern")
        self._next += 1
        return self._tokens[self._next - 1]

    def _take(self, kind: str, text: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next] == (kind, text):
            self._next += 1
            return True
        return False


def _comparison(steps: list[str | int], sign: str, kind: str, text: str) -> Callable[[Any], bool]:
    if kind == "expression":
        same = _expression(text)
    elif kind in {"string", "word"}:
        plain = _unescaped(text[1:-1]) if kind == "string" else text
        shape = regex.compile(".*".join(regex.escape(part) for part in plain.split("*")), regex.DOTALL)
        same = lambda value: shape.fullmatch(value) is not None  # noqa: E731
    else:
        raise _invalid("Invalid filter pattern")
    number = _number(text) if kind == "word" else None
    if sign in _ORDER:
        if number is None:
            raise _invalid("Invalid filter pattern")
        compare = _ORDER[sign]
        return lambda event: _is_number(value := _at(event, steps)) and compare(value, number)

    def equal(event: Any) -> bool | None:
        value = _at(event, steps)
        if value is _MISSING or isinstance(value, dict | list) or value is None:
            return None
        if _is_number(value):
            return value == number if number is not None else same(json.dumps(value))
        if isinstance(value, bool):
            return same("true" if value else "false")
        return same(value)

    return (lambda event: equal(event) is True) if sign == "=" else (lambda event: equal(event) is False)


def _at(event: Any, steps: list[str | int]) -> Any:
    for step in steps:
        if isinstance(step, int):
            if not isinstance(event, list) or step >= len(event):
                return _MISSING
        elif not isinstance(event, dict) or step not in event:
            return _MISSING
        event = event[step]
    return event


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)
