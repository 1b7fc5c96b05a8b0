"""Target expressions: `env=prod and not cluster=db`. Everything that selects instances reads them here.

Pure: text in, an Expression out, which answers for the facts of one instance. `inventory/selection.py` says the same to
the database. The grammar, for people, is in docs/using.md:

    expression  = condition { "and" condition } | condition { "or" condition }    (both in one: with parentheses)
    condition   = "not" condition | "(" expression ")" | "all" | comparison | id
    comparison  = key ( "=" | "!=" ) value | key [ "not" ] "in" "(" value { "," value } ")" | "tag:" KEY
    key         = one of KEYS, or "tag:" KEY, or KEY where no key has that name
    value       = text, `*` for any run of characters, `\\*` for a star; in double quotes if it bears spaces or signs

Tags compare as AWS compares them, upper and lower case apart; of everything else case does not matter (ASCII's alone,
so that all databases and this module agree).
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .errors import UserError

MOST_CHARACTERS: Final = 4000  # room for 150 instance ids
MOST_CONDITIONS: Final = 200  # values of lists counted one by one: each is a piece of one database query
MOST_DEPTH: Final = 20  # of parentheses
MOST_STARS: Final = 8  # in one value
# An expression of so many different conditions is looked through whole for one that holds always or never.
_MOST_WEIGHED: Final = 10

# Key → how `key:value` of the filter box is meant: it has the value in it, begins with it, or is it.
_HAS, _BEGINS, _IS = "has", "begins", "is"
KEYS: Final[Mapping[str, str]] = {
    "id": _BEGINS,
    "name": _HAS,
    "account": _HAS,  # its number or its name
    "region": _BEGINS,
    "zone": _BEGINS,
    "platform": _HAS,  # "Debian GNU/Linux 12", or its type: "Linux"
    "type": _BEGINS,
    "status": _IS,
    "agent": _BEGINS,
    "profile": _HAS,
    "hybrid": _IS,
}
# The words of inventory/readiness.py; what is gone is no target.
STATUSES: Final = ("online", "connection-lost", "no-profile", "never-connected", "starting", "stopped")
STATUS_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "needs-a-fix": ("no-profile", "connection-lost", "never-connected")
}
_YES_NO: Final = {"yes": True, "true": True, "no": False, "false": False}
_JOINERS: Final = frozenset({"and", "or", "not"})
_KEYWORDS: Final = _JOINERS | {"in", "all"}
_ID: Final = re.compile(r"m?i-[A-Za-z0-9_*-]+")
_BARE: Final = re.compile(r"[^\s()=,\"*\\'!]+")
_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
# What people write in other languages → what is meant.
_FOREIGN: Final = {"&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "==": "=", "<>": "!="}


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What an expression is asked about."""

    instance_id: str
    name: str = ""
    account_id: str = ""
    account_name: str = ""
    region: str = ""
    zone: str = ""
    platform: str = ""  # "Debian GNU/Linux 12"
    platform_type: str = ""  # Linux, Windows, MacOS
    instance_type: str = ""
    status: str = ""  # of STATUSES
    agent_version: str = ""
    is_hybrid: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""  # name of the instance profile
    computer_name: str = ""
    private_ip: str = ""
    tags_known: bool = True  # False: they have not been read yet, so that `tags` says nothing


class ExpressionError(UserError):
    """The text is no expression; says why, and what to write. `position` counts characters of the text from 0."""

    def __init__(self, text: str, position: int) -> None:
        super().__init__(text)
        self.position = position


# --- what an expression consists of ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pattern:
    """A value: the texts between its stars, so one text if it has none."""

    parts: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        return len(self.parts) == 1

    @property
    def is_anything(self) -> bool:
        return self.parts == ("", "")

    def matches(self, value: str) -> bool:
        if len(self.parts) == 1:
            return value == self.parts[0]
        first, *middle, last = self.parts
        position, end = len(first), len(value) - len(last)
        if end < position or not value.startswith(first) or not value.endswith(last):
            return False
        for part in middle:
            found = value.find(part, position, end)
            if found < 0:
                return False
            position = found + len(part)
        return True

    def folded(self) -> "Pattern":
        return Pattern(tuple(map(fold, self.parts)))

    def __str__(self) -> str:
        return "*".join(re.sub(r"[\\*]", r"\\\g<0>", part) for part in self.parts)


def fold(text: str) -> str:
    """`text` with ASCII's capitals made small, and no others: databases do not agree on those."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


@dataclass(frozen=True, slots=True)
class All:
    """Every instance."""

    def matches(self, facts: TargetFacts) -> bool:
        return True

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One fact is one of the values; without any such tag it is none of them."""

    key: str  # of KEYS, or "tag"
    tag: str
    patterns: tuple[Pattern, ...]  # as typed
    meant: tuple[Pattern, ...] = field(compare=False, repr=False)  # as compared: folded, groups of statuses spelt out

    def matches(self, facts: TargetFacts) -> bool:
        if self.key == "tag":
            value = facts.tags.get(self.tag)
            return value is not None and any(each.matches(value) for each in self.meant)
        values = [fold(value) for value in _VALUES[self.key](facts)]
        return any(pattern.matches(value) for pattern in self.meant for value in values)

    @property
    def name(self) -> str:
        """The key, as it is typed."""
        if self.key != "tag":
            return self.key
        return self.tag if _is_plain_tag(self.tag) else f"tag:{_quoted(self.tag)}"

    def __str__(self) -> str:
        return self.text(negated=False)

    def text(self, *, negated: bool) -> str:
        values = [_shown(each) for each in self.patterns]
        if len(values) == 1:
            return f"{self.name}{'!=' if negated else '='}{values[0]}"
        return f"{self.name} {'not in' if negated else 'in'} ({', '.join(values)})"


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the filter box: stands somewhere in a name or id, or begins an address."""

    pattern: Pattern

    def matches(self, facts: TargetFacts) -> bool:
        return any(self.inside.matches(fold(value)) for value in _word_values(facts)) or self.beginning.matches(
            fold(facts.private_ip)
        )

    @property
    def inside(self) -> Pattern:
        return _around(self.pattern.folded(), _HAS)

    @property
    def beginning(self) -> Pattern:
        return _around(self.pattern.folded(), _BEGINS)

    def __str__(self) -> str:
        return _in_quotes(self.pattern) if ":" in str(self.pattern) else _shown(self.pattern)


@dataclass(frozen=True, slots=True)
class Not:
    part: "Node"

    def matches(self, facts: TargetFacts) -> bool:
        return not self.part.matches(facts)

    def __str__(self) -> str:
        if isinstance(self.part, Comparison):
            return self.part.text(negated=True)
        return f"not ({self.part})" if isinstance(self.part, And | Or) else f"not {self.part}"


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple["Node", ...]

    def matches(self, facts: TargetFacts) -> bool:
        return all(part.matches(facts) for part in self.parts)

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple["Node", ...]

    def matches(self, facts: TargetFacts) -> bool:
        return any(part.matches(facts) for part in self.parts)

    def __str__(self) -> str:
        return " or ".join(f"({part})" if isinstance(part, And) else str(part) for part in self.parts)


Node = All | Comparison | Word | Not | And | Or


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. Its text is canonical: it parses to an equal one, with `words` where that was needed."""

    root: Node

    def matches(self, facts: TargetFacts) -> bool:
        return self.root.matches(facts)

    def tells(self, facts: TargetFacts) -> bool | None:
        """The same; None where it hangs on tags that have not been read yet."""
        return self.matches(facts) if facts.tags_known else _tell(self.root, facts)

    def __str__(self) -> str:
        return str(self.root)

    @property
    def conditions(self) -> tuple[Node, ...]:
        """What all has to hold, each for itself."""
        return self.root.parts if isinstance(self.root, And) else (self.root,)

    @property
    def matches_everything(self) -> bool:
        """It holds for every instance there could be, as far as its text shows: `all`, `name=*`, `not a=1 or a=1`."""
        return _weigh(self.root) is True

    @property
    def matches_nothing(self) -> bool:
        """It holds for no instance there could be, as far as that shows in the text."""
        return _weigh(self.root) is False

    def keys(self) -> frozenset[str]:
        """The keys that it asks for: of KEYS, "tag:KEY" for a tag, "words" for words of the filter box."""
        found = set()
        for leaf in _leaves(self.root):
            if isinstance(leaf, Comparison):
                found.add(f"tag:{leaf.tag}" if leaf.key == "tag" else leaf.key)
            elif isinstance(leaf, Word):
                found.add("words")
        return frozenset(found)


_VALUES: Final[Mapping[str, Callable[[TargetFacts], tuple[str, ...]]]] = {
    "id": lambda facts: (facts.instance_id,),
    "name": lambda facts: (facts.name,),
    "account": lambda facts: (facts.account_id, facts.account_name),
    "region": lambda facts: (facts.region,),
    "zone": lambda facts: (facts.zone,),
    "platform": lambda facts: (facts.platform, facts.platform_type),
    "type": lambda facts: (facts.instance_type,),
    "status": lambda facts: (facts.status,),
    "agent": lambda facts: (facts.agent_version,),
    "profile": lambda facts: (facts.profile,),
    "hybrid": lambda facts: ("yes" if facts.is_hybrid else "no",),
}


def _tell(node: Node, facts: TargetFacts) -> bool | None:
    """Whether `node` holds, of an instance whose tags are not known; None if they decide."""
    if isinstance(node, Not):
        told = _tell(node.part, facts)
        return None if told is None else not told
    if isinstance(node, And | Or):
        each = [_tell(part, facts) for part in node.parts]
        decides = isinstance(node, Or)  # one of these is enough
        if decides in each:
            return decides
        return None if None in each else not decides
    if isinstance(node, Comparison) and node.key == "tag":
        return None
    return node.matches(facts)


def _word_values(facts: TargetFacts) -> tuple[str, ...]:
    return (facts.name, facts.instance_id, facts.computer_name)


def all_of(*expressions: Expression) -> Expression:
    """One that holds where all of `expressions` hold; every instance if there are none."""
    roots = [each.root for each in expressions if not isinstance(each.root, All)]
    return Expression(_joined(And, roots) if roots else All())


def parse(text: str, *, words: bool = False) -> Expression:
    """Read an expression.

    With `words`, as in the filter box of the fleet: bare words are searched for in names and ids; `platform:debian`
    means "has debian in it"; what stands side by side must all hold, but of several values of one key any will do.

    Raises ExpressionError, and nothing else, for whatever cannot be read in exactly one way.
    """
    return _Parser(text, words).expression()


def comparison(key: str, *values: str, tag: str = "") -> Expression:
    """`key` is exactly one of `values`, as if typed in quotes; for `tag`, key is "tag"."""
    made = _compare(key, tag, [Pattern((value,)) for value in values], 0)
    return Expression(made)


def side_by_side(*expressions: Expression) -> Expression:
    """One for expressions that stand side by side in the filter box: all must hold, of one key's values any will do."""
    conditions = [part for each in expressions for part in each.conditions if not isinstance(part, All)]
    return Expression(_joined(And, _alternatives(conditions)) if conditions else All())


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    """A sign, or a text: characters, each with whether it stood outside quotes and was not escaped."""

    kind: str  # "(", ")", ",", "=", "!=", "text", "end"
    position: int
    raw: str = ""
    chars: tuple[tuple[str, bool], ...] = ()

    @property
    def text(self) -> str:
        return "".join(char for char, _ in self.chars)

    @property
    def keyword(self) -> str:
        """The keyword that it is, if it is one."""
        lower = fold(self.raw)
        return lower if self.kind == "text" and lower in _KEYWORDS else ""

    def colon(self) -> int:
        """Where the first colon outside quotes stands; -1 without."""
        return next((index for index, (char, is_bare) in enumerate(self.chars) if char == ":" and is_bare), -1)

    def after(self, index: int) -> "_Token":
        return _Token("text", self.position + index, self.raw, self.chars[index:])

    def pattern(self) -> Pattern:
        parts = [""]
        for char, is_bare in self.chars:
            if char == "*" and is_bare:
                parts.append("")
            else:
                parts[-1] += char
        if len(parts) - 1 > MOST_STARS:
            raise ExpressionError(f"{_named(self.raw)} has more than {MOST_STARS} stars.", self.position)
        if len(parts) > 2:  # ** is *
            parts = [parts[0], *(part for part in parts[1:-1] if part), parts[-1]]
        return Pattern(tuple(parts))


def _tokens(text: str) -> list[_Token]:
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(
            f"The expression is longer than {MOST_CHARACTERS:,} characters. "
            "Name what the instances share, such as a tag.",
            MOST_CHARACTERS,
        )
    bad = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)
    if bad:
        raise ExpressionError("Here stands a character that cannot be read. Remove it.", bad.start())
    found: list[_Token] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char.isspace():
            position += 1
        elif char in "(),":
            found.append(_Token(char, position, char))
            position += 1
        elif text.startswith("==", position) or text.startswith("!==", position):
            raise ExpressionError("Write = for “is” and != for “is not”.", position)
        elif char == "=":
            found.append(_Token("=", position, "="))
            position += 1
        elif text.startswith("!=", position):
            found.append(_Token("!=", position, "!="))
            position += 2
        else:
            token = _read_text(text, position)
            found.append(token)
            position += len(token.raw)
    return [*found, _Token("end", len(text))]


def _read_text(text: str, start: int) -> _Token:
    """The text that begins at `start`: up to a space or sign outside quotes."""
    chars: list[tuple[str, bool]] = []
    position, opened = start, -1
    while position < len(text):
        char = text[position]
        if char == "\\":
            escaped = text[position + 1 : position + 2]
            if not escaped or escaped not in '*\\"':
                raise ExpressionError(
                    r"A \ stands before *, \ or a quote alone. Write \\ for the sign itself.", position
                )
            chars.append((escaped, False))
            position += 2
            continue
        if char == '"':
            opened = position if opened < 0 else -1
        elif opened >= 0:
            # A star is a wildcard in quotes too: quotes are for spaces and signs.
            chars.append((char, char == "*"))
        elif char.isspace() or char in "(),=" or text.startswith("!=", position):
            break
        else:
            chars.append((char, True))
        position += 1
    if opened >= 0:
        raise ExpressionError('Here a quote opens and does not close. Put a " behind the text.', opened)
    return _Token("text", start, text[start:position], tuple(chars))


class _Parser:
    """Recursive descent over the tokens; as deep as the parentheses."""

    def __init__(self, text: str, words: bool) -> None:
        self.words = words
        self.tokens = _tokens(text)
        self.index = 0
        self.conditions = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def ahead(self, count: int) -> _Token:
        return self.tokens[min(self.index + count, len(self.tokens) - 1)]

    def take(self) -> _Token:
        token = self.token
        self.index += 1
        return token

    def expression(self) -> Expression:
        if self.token.kind == "end":
            raise ExpressionError("The expression is empty. Write all if you mean every instance.", 0)
        root = self.chain(0)
        if self.token.kind == ")":
            raise ExpressionError("This parenthesis closes and none is open. Remove it.", self.token.position)
        if self.token.kind != "end":
            raise self.unexpected()
        return Expression(root)

    def chain(self, depth: int) -> Node:
        """Conditions up to a closing parenthesis or the end, joined by one kind of joiner."""
        runs: list[list[Node]] = [[self.condition(depth)]]  # what stands side by side is one run
        joiner = ""
        while self.token.kind not in {"end", ")"}:
            token, word = self.token, self.token.keyword
            if word in {"and", "or"}:
                self.take()
            elif not self.words or token.kind not in {"text", "("}:
                raise self.unexpected()
            else:
                word = ""
            before, joiner = joiner, "or" if word == "or" else "and"
            if before not in {"", joiner}:
                raise ExpressionError(
                    "“and” and “or” stand side by side here. Say with parentheses what belongs together: "
                    "(a=1 and b=2) or c=3, or a=1 and (b=2 or c=3).",
                    token.position,
                )
            condition = self.condition(depth)
            if word:
                runs.append([condition])
            else:
                runs[-1].append(condition)
        if joiner == "or":
            return _joined(Or, [run[0] for run in runs])
        return _joined(And, [part for run in runs for part in _alternatives(run)])

    def condition(self, depth: int) -> Node:
        negated = False
        while self.token.keyword == "not" and self.ahead(1).kind not in {"=", "!="}:
            self.take()
            negated = not negated
        if self.token.kind == "(":
            opening = self.take()
            if depth >= MOST_DEPTH:
                raise ExpressionError(f"Parentheses are more than {MOST_DEPTH} deep here.", opening.position)
            if self.token.kind == ")":
                raise ExpressionError("Nothing stands between these parentheses.", opening.position)
            found = self.chain(depth + 1)
            if self.token.kind != ")":
                raise ExpressionError("This parenthesis is not closed. Put a ) where it ends.", opening.position)
            self.take()
        else:
            found = self.term()
        if not negated:
            return found
        return found.part if isinstance(found, Not) else Not(found)

    def term(self) -> Node:
        token = self.token
        if token.kind == "end":
            before = self.tokens[self.index - 1]
            raise ExpressionError(f"Something has to follow {_named(before.raw)}.", token.position)
        if token.kind != "text":
            raise self.unexpected()
        self.take()
        operator = self.token
        if operator.kind in {"=", "!="}:
            return self.compared(token, operator)
        is_negated = operator.keyword == "not" and self.ahead(1).keyword == "in"
        if is_negated or operator.keyword == "in":
            opening = self.ahead(1 + is_negated)
            if opening.kind == "(" and (not token.keyword):
                return self.listed(token, is_negated)
            if not self.words:
                raise ExpressionError(
                    "After in comes a list in parentheses, as in env in (prod, staging).", operator.position
                )
        return self.alone(token)

    def compared(self, token: _Token, operator: _Token) -> Node:
        key, tag = self.key(token)
        self.take()
        value = self.token
        if value.kind == "=":
            raise ExpressionError("Write = for “is” and != for “is not”.", operator.position)
        if value.kind != "text":
            raise ExpressionError(
                f'{_named(token.raw + operator.raw)} has no value. Write {token.raw}{operator.raw}"" for an empty one.',
                value.position,
            )
        self.take()
        if self.token.kind in {"=", "!="}:
            raise ExpressionError('Put a value with = in it in quotes, as in key="a=b".', self.token.position)
        made = _compare(key, tag, [self.value(value)], value.position)
        if operator.kind == "=":
            return made
        return made.part if isinstance(made, Not) else Not(made)

    def listed(self, token: _Token, is_negated: bool) -> Node:
        key, tag = self.key(token)
        for _ in range(2 + is_negated):  # not in (
            opening = self.take()
        patterns: list[Pattern] = []
        while True:
            value = self.take() if self.token.kind == "text" else self.token
            if value.kind != "text":
                raise ExpressionError("In a list, values stand between commas, as in (prod, staging).", value.position)
            patterns.append(self.value(value))
            if self.token.kind == ")":
                self.take()
                break
            if self.token.kind == "end":
                raise ExpressionError("This parenthesis is not closed. Put a ) where it ends.", opening.position)
            if self.token.kind != ",":
                raise ExpressionError(
                    'Put a comma between two values, and quotes around one with spaces or signs: (a, "b c").',
                    self.token.position,
                )
            self.take()
        made = _compare(key, tag, patterns, token.position)
        if not is_negated:
            return made
        return made.part if isinstance(made, Not) else Not(made)

    def value(self, token: _Token) -> Pattern:
        self.count(token)
        if token.keyword in _JOINERS:
            raise ExpressionError(
                f'A value is missing before {token.raw}, or write it as "{token.raw}".', token.position
            )
        if token.raw.startswith("'"):
            raise ExpressionError("Quotes are double here. Write \" instead of '.", token.position)
        return token.pattern()

    def key(self, token: _Token) -> tuple[str, str]:
        """The key that a token before an operator names, and the tag's own key if that is "tag"."""
        name, colon = token.text, token.colon()
        lower = fold(name)
        if any(char == "*" and is_bare for char, is_bare in token.chars):
            raise ExpressionError("A * stands in values alone, not in keys.", token.position)
        if colon >= 0 and fold(name[:colon]) == "tag":
            if not name[colon + 1 :]:
                raise ExpressionError("tag: has no key. Write tag:env=prod.", token.position)
            return "tag", name[colon + 1 :]
        if not name:
            raise ExpressionError("The key is empty. Write a key before the sign, as in env=prod.", token.position)
        if '"' in token.raw:
            return "tag", name
        if lower in KEYS:
            # Name is the tag from which every name comes.
            if name not in {lower, "Name"}:
                raise ExpressionError(
                    f"{_named(name)} can be read in two ways. Write {lower}=… for that of the instance, "
                    f"or tag:{name}=… for the tag.",
                    token.position,
                )
            return lower, ""
        if token.keyword:
            raise ExpressionError(
                f"{_named(name)} stands where a key belongs. A tag of this name is written tag:{name}=….",
                token.position,
            )
        if re.search(r"[<>!~&|']", name):
            raise ExpressionError(
                f"{_named(name)} is no key. There are =, != and in (…), with * for any characters: agent=3.3.*. "
                "Join conditions by and, or, not.",
                token.position,
            )
        alike = _alike(name)
        if alike:
            raise ExpressionError(
                f"{_named(name)} is no key. Did you mean {alike}=…? A tag of that name is written tag:{name}=….",
                token.position,
            )
        return "tag", name

    def alone(self, token: _Token) -> Node:
        """A text with no operator behind it."""
        self.count(token)
        raw, colon = token.raw, token.colon()
        if token.keyword == "all":
            return All()
        if token.keyword:
            before = "before" if token.keyword != "not" else "after"
            raise ExpressionError(
                f'A condition is missing {before} {raw}. The word itself is written "{raw}".', token.position
            )
        if raw in _FOREIGN:
            raise ExpressionError(f"Write {_FOREIGN[raw]} instead of {raw}.", token.position)
        prefix = token.text[:colon] if colon > 0 else ""
        if fold(prefix) == "tag":
            tag = token.text[colon + 1 :]
            if not tag:
                raise ExpressionError("tag: has no key. Write tag:env=prod, or tag:env for any value.", token.position)
            if any(char == "*" and is_bare for char, is_bare in token.chars):
                raise ExpressionError("A * stands in values alone, not in keys.", token.position)
            return _compare("tag", tag, [Pattern(("", ""))], token.position)
        if re.fullmatch("[A-Za-z]+", prefix):
            return self.with_colon(token, prefix, token.after(colon + 1))
        if self.words:
            pattern = token.pattern()
            if pattern.parts == ("",):
                raise ExpressionError("These quotes are empty. Write a word between them.", token.position)
            return Word(pattern)
        if '"' not in raw and _ID.fullmatch(raw):
            return _compare("id", "", [token.pattern()], token.position)
        raise ExpressionError(
            f"{_named(raw)} is neither an instance id nor a comparison. "
            f"Write name={_shown(token.pattern())}, or a tag as KEY=VALUE.",
            token.position,
        )

    def with_colon(self, token: _Token, prefix: str, value: _Token) -> Node:
        key = fold(prefix)
        if key not in KEYS:
            known = ", ".join(f"{each}:" for each in ("tag", *KEYS))
            raise ExpressionError(
                f"“{prefix}:” is nothing to filter by. Use {known}, or {prefix}=… for a tag"
                + (", or a plain word." if self.words else "."),
                token.position,
            )
        if not value.chars:
            raise ExpressionError(f"“{prefix}:” has no value.", token.position)
        pattern = value.pattern()
        if not self.words:
            wide = "" if KEYS[key] is _IS or not pattern.is_exact else f", or {key}={_shown(_around(pattern, _HAS))}"
            raise ExpressionError(f"Write {key}={_shown(pattern)}{wide}.", token.position)
        if pattern.is_exact:
            pattern = _around(pattern, KEYS[key])
        return _compare(key, "", [pattern], value.position)

    def count(self, token: _Token) -> None:
        self.conditions += 1
        if self.conditions > MOST_CONDITIONS:
            raise ExpressionError(
                f"The expression has more than {MOST_CONDITIONS} conditions. "
                "Name what the instances share, such as a tag.",
                token.position,
            )

    def unexpected(self) -> ExpressionError:
        token = self.token
        if token.kind == "(" or (token.kind == "text" and token.keyword not in {"and", "or", "in"}):
            if token.raw in _FOREIGN:
                return ExpressionError(f"Write {_FOREIGN[token.raw]} instead of {token.raw}.", token.position)
            return ExpressionError(f"Put and or or before {_named(token.raw)}.", token.position)
        if token.kind == ",":
            return ExpressionError("A comma stands between values of a list alone: env in (a, b).", token.position)
        if token.kind in {"=", "!="}:
            return ExpressionError(f"Before {token.raw} belongs a key, as in env{token.raw}prod.", token.position)
        return ExpressionError(f"{_named(token.raw)} has no place here: a condition is missing.", token.position)


def _compare(key: str, tag: str, patterns: Sequence[Pattern], position: int) -> "Comparison | Not":
    """The comparison, its values read as its key takes them."""
    typed = tuple(dict.fromkeys(patterns))
    if key == "tag":
        return Comparison(key, tag, typed, typed)
    if key == "hybrid":
        answers = {_YES_NO.get(fold(str(each))) for each in typed}
        if len(answers) != 1 or None in answers:
            raise ExpressionError("hybrid is yes or no.", position)
        yes = Pattern(("yes",))
        made = Comparison(key, tag, (yes,), (yes,))
        return made if answers == {True} else Not(made)
    if key == "status":
        typed = tuple(
            dict.fromkeys(Pattern(tuple(re.sub(r"[\s_]", "-", part) for part in each.folded().parts)) for each in typed)
        )
        meant: list[Pattern] = []
        for each in typed:
            if each.is_exact and each.parts[0] not in STATUSES and each.parts[0] not in STATUS_GROUPS:
                known = ", ".join([*STATUS_GROUPS, *STATUSES])
                raise ExpressionError(f"{_named(each.parts[0])} is no status. Use one of {known}.", position)
            group = STATUS_GROUPS.get(each.parts[0], ()) if each.is_exact else ()
            meant += [Pattern((status,)) for status in group] or [each]
        return Comparison(key, tag, typed, tuple(meant))
    return Comparison(key, tag, typed, tuple(dict.fromkeys(each.folded() for each in typed)))


def _joined(kind: type[And] | type[Or], parts: Iterable[Node]) -> Node:
    """`parts` in one, without steps that say nothing: a chain in a chain of its kind, a chain of one, a part twice."""
    flat: dict[Node, None] = {}
    for part in parts:
        flat |= dict.fromkeys(part.parts if isinstance(part, kind) else (part,))
    only, *rest = flat
    return kind((only, *rest)) if rest else only


def _alternatives(run: Iterable[Node]) -> list[Node]:
    """What stands side by side in the filter box: of comparisons with one key any will do, the rest must all hold."""
    groups: dict[object, list[Node]] = {}
    for part in run:
        groups.setdefault(_fact_of(part) or part, []).append(part)
    return [_joined(Or, parts) for parts in groups.values()]


def _fact_of(node: Node) -> tuple[str, str] | None:
    """The one fact that `node` tells values of: of a comparison, or of several joined by or."""
    if isinstance(node, Comparison):
        return node.key, node.tag
    if isinstance(node, Or):
        facts = {_fact_of(part) for part in node.parts}
        return facts.pop() if len(facts) == 1 else None
    return None


def _around(pattern: Pattern, how: str) -> Pattern:
    """`pattern` with stars, so that it is found inside or at the beginning of a text."""
    if how is _IS:
        return pattern
    parts = [*(("",) if how is _HAS else ()), *pattern.parts, ""]
    return Pattern((parts[0], *(part for part in parts[1:-1] if part), parts[-1]))


def _alike(name: str) -> str:
    """The key that was meant, if `name` is one mistyped."""
    lower = fold(name)
    if len(lower) < 4:
        return ""
    return next(iter(difflib.get_close_matches(lower, [key for key in KEYS if len(key) > 3], n=1, cutoff=0.8)), "")


def _is_plain_tag(tag: str) -> bool:
    lower = fold(tag)
    return (
        _BARE.fullmatch(tag) is not None
        and lower not in KEYS
        and lower not in _KEYWORDS
        and not lower.startswith("tag:")
        and not re.search(r"[<>!~&|']", tag)
        and not _alike(tag)
    )


def _shown(pattern: Pattern) -> str:
    """A value as it is typed, in quotes where it needs them."""
    text = str(pattern)
    is_plain = text and all(not part or _BARE.fullmatch(part) for part in pattern.parts)
    return text if is_plain and fold(text) not in _KEYWORDS and text not in _FOREIGN else _in_quotes(pattern)


def _in_quotes(pattern: Pattern) -> str:
    return '"{}"'.format("*".join(re.sub(r'[\\*"]', r"\\\g<0>", part) for part in pattern.parts))


def _quoted(text: str) -> str:
    return _shown(Pattern((text,)))


def _named(raw: str) -> str:
    return f"“{raw if len(raw) <= 40 else raw[:40] + '…'}”"


# --- what is being typed --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fragment:
    """What somebody is typing: its place in the text, and whether it is a key, a value of one, or a joiner."""

    role: str  # "key", "value", "joiner", or "" where nothing can be told
    start: int
    end: int
    typed: str  # without quotes
    key: str = ""  # for a value: of KEYS, or "tag"
    tag: str = ""
    may_join: bool = False  # a key, where a joiner may stand as well


def fragment(text: str, at: int, *, words: bool = False) -> Fragment:
    """What is being typed at character `at` of an unfinished text; never fails."""
    at = max(0, min(at, len(text), MOST_CHARACTERS))
    try:
        try:
            tokens = _tokens(text[:at])[:-1]
        except ExpressionError:
            tokens = _tokens(text[:at] + '"')[:-1]  # a quote that is being typed is as good as closed
    except ExpressionError:
        return Fragment("", at, at, "")
    last = (
        tokens[-1] if tokens and tokens[-1].kind == "text" and tokens[-1].position + len(tokens[-1].raw) >= at else None
    )
    if last is not None:
        tokens = tokens[:-1]
    start, typed = (last.position, last.text) if last is not None else (at, "")
    previous = tokens[-1] if tokens else None
    owner = _owner(tokens)
    if owner is None and words and last is not None and (colon := last.colon()) > 0:
        key = fold(last.text[:colon])
        if key in KEYS:
            return Fragment("value", last.position + colon + 1, at, last.text[colon + 1 :], key)
    if owner is not None:
        name, colon = owner.text, owner.colon()
        if colon >= 0 and fold(name[:colon]) == "tag":
            return Fragment("value", start, at, typed, "tag", name[colon + 1 :])
        key = fold(name)
        is_key = key in KEYS and '"' not in owner.raw
        return Fragment("value", start, at, typed, key if is_key else "tag", "" if is_key else name)
    opens = previous is None or previous.kind == "(" or previous.keyword in _JOINERS
    return Fragment("key" if opens or words else "joiner", start, at, typed, may_join=not opens)


def _owner(tokens: Sequence[_Token]) -> _Token | None:
    """The token that names the key, if what comes behind `tokens` is a value of it."""
    if not tokens:
        return None
    if tokens[-1].kind in {"=", "!="}:
        return tokens[-2] if len(tokens) > 1 and tokens[-2].kind == "text" else None
    index = len(tokens) - 1
    if tokens[index].kind not in {"(", ","}:
        return None
    while index > 0 and tokens[index].kind in {",", "text"}:
        index -= 1
    if tokens[index].kind != "(" or index < 2 or tokens[index - 1].keyword != "in":
        return None
    index -= 3 if tokens[index - 2].keyword == "not" else 2
    return tokens[index] if index >= 0 and tokens[index].kind == "text" else None


# --- weighing --------------------------------------------------------------------------------------------------------


def _leaves(node: Node) -> Iterable[Node]:
    if isinstance(node, And | Or):
        for part in node.parts:
            yield from _leaves(part)
    elif isinstance(node, Not):
        yield from _leaves(node.part)
    else:
        yield node


Atom = tuple[str, str, Pattern]


def _weigh(root: Node) -> bool | None:
    """What `root` is whatever the facts, by trying all answers of its conditions; None if it depends or is too long."""
    atoms = sorted({atom for leaf in _leaves(root) for atom in _atoms(leaf)}, key=str)
    if len(atoms) > _MOST_WEIGHED:
        return None if not _is_open(root) else True
    answers = set()
    for truth in itertools.product((False, True), repeat=len(atoms)):
        answers.add(_truth(root, dict(zip(atoms, truth, strict=True))))
        if len(answers) > 1:
            return None
    return answers.pop()


def _is_open(node: Node) -> bool:
    """Holds for everything because of a part that does; for expressions too long to try all answers."""
    if isinstance(node, And):
        return all(map(_is_open, node.parts))
    if isinstance(node, Or):
        return any(map(_is_open, node.parts))
    return not isinstance(node, Not) and _truth(node, {}) is True


def _atoms(leaf: Node) -> Iterable[Atom]:
    if isinstance(leaf, Comparison) and not _is_constant(leaf):
        return [(leaf.key, leaf.tag, pattern) for pattern in leaf.meant]
    return [("words", "", leaf.pattern)] if isinstance(leaf, Word) and not leaf.pattern.is_anything else []


def _is_constant(leaf: Comparison) -> bool:
    """An instance has every fact, if perhaps an empty one; only tags may be missing."""
    return leaf.key != "tag" and any(pattern.is_anything for pattern in leaf.meant)


def _truth(node: Node, answers: Mapping[Atom, bool]) -> bool:
    if isinstance(node, And):
        return all(_truth(part, answers) for part in node.parts)
    if isinstance(node, Or):
        return any(_truth(part, answers) for part in node.parts)
    if isinstance(node, Not):
        return not _truth(node.part, answers)
    atoms = _atoms(node)
    return any(answers.get(atom, False) for atom in atoms) if atoms else True
