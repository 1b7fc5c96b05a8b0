"""Target expressions on the rows of the inventory: which instances one selects, how many, and what it may hold next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import BooleanField, CharField, Count, Exists, F, Func, OuterRef, Q, Value
from django.db.models.functions import Concat

from fleetops.identity.models import User
from fleetops.targets import (
    KEYS,
    STATUS_GROUPS,
    STATUSES,
    All,
    And,
    Comparison,
    Expression,
    Node,
    Not,
    Or,
    Pattern,
    TargetFacts,
    Word,
    comparison,
    fold,
    fragment,
    parse,
)

from .models import Account, Instance, InstanceQuerySet, InstanceTag
from .readiness import status_of

FIRST: Final = 8  # instances that a preview names
MOST_OPTIONS: Final = 12  # that a completion offers


def select(expression: Expression, instances: InstanceQuerySet) -> InstanceQuerySet:
    """Those of `instances` for which the expression holds: in SQL what `Expression.matches` says of `facts_of`."""
    if isinstance(expression.root, All):
        return instances
    return instances.with_status().alias(**_DERIVED).filter(_condition(expression.root))


def facts_of(instance: Instance) -> TargetFacts:
    """What an expression is asked about `instance`, whose account and region should have been loaded with it."""
    return TargetFacts(
        instance_id=instance.instance_id,
        name=instance.name,
        account_id=instance.account.account_id,
        account_name=instance.account.name,
        region=instance.region.name,
        zone=instance.zone,
        platform=instance.platform,
        platform_type=instance.platform_type,
        instance_type=instance.instance_type,
        status=status_of(instance).value,
        agent_version=instance.agent_version,
        is_hybrid=instance.is_hybrid,
        tags=instance.tags,
        profile=instance.profile_name,
        computer_name=instance.computer_name,
        private_ip=instance.private_ip,
        # A hybrid node's are asked for one by one, after it has appeared; a machine's come with it, from EC2.
        tags_known=(instance.tags_read_at if instance.is_hybrid else instance.ec2_read_at) is not None,
    )


# --- an expression as SQL --------------------------------------------------------------------------------------------


class Folded(Func):
    """The text with ASCII's capitals made small, as `targets.fold` does it."""

    function = "LOWER"
    output_field = CharField()

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template='LOWER((%(expressions)s) COLLATE "C")', **extra)


class Glob(Func):
    """Does the text match the pattern whole, upper and lower case apart?"""

    output_field = BooleanField()
    conditional = True
    arity = 1

    def __init__(self, text: Any, pattern: Pattern) -> None:
        super().__init__(text)
        self.pattern = pattern

    def as_sqlite(self, compiler: Any, connection: Any) -> Any:
        text, parameters = compiler.compile(self.source_expressions[0])
        parts = ("".join(f"[{char}]" if char in "*?[" else char for char in part) for part in self.pattern.parts)
        return f"({text} GLOB %s)", (*parameters, "*".join(parts))

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        text, parameters = compiler.compile(self.source_expressions[0])
        escaped = str.maketrans({char: f"\\{char}" for char in "\\%_"})
        return f"({text} LIKE %s)", (*parameters, "%".join(part.translate(escaped) for part in self.pattern.parts))


class LastPart(Func):
    """What stands behind the last slash: of an ARN the name."""

    output_field = CharField()

    def as_sqlite(self, compiler: Any, connection: Any) -> Any:
        text, parameters = compiler.compile(self.source_expressions[0])
        before = f"RTRIM({text}, REPLACE({text}, '/', ''))"
        return f"SUBSTR({text}, LENGTH({before}) + 1)", (*parameters, *parameters, *parameters)

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        text, parameters = compiler.compile(self.source_expressions[0])
        return f"SUBSTRING({text} FROM '[^/]*$')", parameters


_PLATFORM: Final = Concat("platform_name", Value(" "), "platform_version")
# As Instance.platform has it: without the spaces that an empty part leaves.
_DERIVED: Final[Mapping[str, Any]] = {
    "platform_text": Func(_PLATFORM, function="TRIM", output_field=CharField()),
    "profile_text": LastPart("profile_arn"),
}
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("instance_id",),
    "name": ("name",),
    "account": ("account__account_id", "account__name"),
    "region": ("region__name",),
    "zone": ("zone",),
    "platform": ("platform_text", "platform_type"),
    "type": ("instance_type",),
    "agent": ("agent_version",),
    "profile": ("profile_text",),
}


def _condition(node: Node) -> Q:
    match node:
        case All():
            return ~Q(pk__in=[])
        case Not():
            return ~_condition(node.part)
        case And():
            condition = Q()
            for part in node.parts:
                condition &= _condition(part)
            return condition
        case Or():
            condition = Q()
            for part in node.parts:
                condition |= _condition(part)
            return condition
        case Word():
            condition = Q(Glob(Folded("private_ip"), node.beginning))
            for column in ("name", "instance_id", "computer_name"):
                condition |= Q(Glob(Folded(column), node.inside))
            return condition
    return _compared(node)


def _compared(node: Comparison) -> Q:
    if node.key == "tag":
        tags = InstanceTag.objects.filter(instance=OuterRef("pk"), key=node.tag)
        return Q(Exists(tags if _is_any(node) else tags.filter(_matching("value", node.meant))))
    if _is_any(node):
        return ~Q(pk__in=[])
    if node.key == "status":
        return Q(status_key__in=[status for status in STATUSES if any(each.matches(status) for each in node.meant)])
    if node.key == "hybrid":
        return Q(instance_id__startswith="mi-")
    condition = Q()
    for column in _COLUMNS[node.key]:
        condition |= _matching(Folded(column), node.meant)
    return condition


def _is_any(node: Comparison) -> bool:
    return any(each.is_anything for each in node.meant)


def _matching(text: Any, patterns: tuple[Pattern, ...]) -> Q:
    exact = [each.parts[0] for each in patterns if each.is_exact]
    condition = Q()
    if exact and isinstance(text, str):
        condition |= Q(**{f"{text}__in": exact})
    elif exact:
        condition |= Q(Among(text, exact))
    for each in patterns:
        if not each.is_exact:
            condition |= Q(Glob(text, each))
    return condition


class Among(Func):
    """Is the text one of these?"""

    output_field = BooleanField()
    conditional = True

    def __init__(self, text: Any, values: list[str]) -> None:
        super().__init__(text)
        self.values = values

    def as_sql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        text, parameters = compiler.compile(self.source_expressions[0])
        return f"({text} IN ({', '.join(['%s'] * len(self.values))}))", (*parameters, *self.values)


# --- how many ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preview:
    """What an expression selects at this moment."""

    text: str  # canonical
    count: int
    total: int
    first: tuple[Instance, ...]
    warning: str  # in words, what to look at twice; else empty


def preview(text: str, user: User, *, words: bool = False) -> Preview:
    """Of the instances that `user` may see, how many `text` selects, and the first few.

    Raises ExpressionError if it cannot be read.
    """
    expression = parse(text, words=words)
    visible = Instance.objects.visible_to(user).present()
    found = select(expression, visible)
    count, total = found.count(), visible.count()
    first = tuple(found.select_related("account", "region").order_by("name", "instance_id")[:FIRST]) if count else ()
    return Preview(str(expression), count, total, first, _warning(expression, count, total, visible))


def _warning(expression: Expression, count: int, total: int, visible: InstanceQuerySet) -> str:
    if expression.matches_everything:
        return "This matches every instance, also each that will be launched."
    if expression.matches_nothing:
        return "This can match no instance, whatever its facts."
    if count and count == total:
        return "At this moment this matches every instance."
    if count:
        return ""
    keys = expression.keys()
    asked = sorted(key.removeprefix("tag:") for key in keys if key.startswith("tag:"))
    known = set(
        InstanceTag.objects.filter(instance__in=visible, key__in=asked).values_list("key", flat=True).distinct()
    )
    unknown = [tag for tag in asked if tag not in known]
    if unknown:
        return f"No instance has a tag “{unknown[0]}”."
    return "At this moment this matches no instance."


# --- what may come next ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One thing to go on with: what it puts in the place of the fragment, and a word on it."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """Options for the fragment of the text from `start` to `end`; the most frequent first."""

    start: int
    end: int
    options: tuple[Option, ...]


def complete(text: str, at: int, user: User, *, words: bool = False) -> Completion:
    """What `user` may mean at character `at` of an unfinished expression: keys, tags, values, or the next joiner."""
    found = fragment(text, at, words=words)
    visible = Instance.objects.visible_to(user).present()
    options: list[Option] = []
    if found.role == "value":
        options = _values(found.key, found.tag, found.typed, visible)
    elif found.role == "key":
        options = _keys(found.typed, visible)
    if found.role == "joiner" or (found.role == "key" and found.may_join):
        joiners = [each for each in ("and", "or") if each.startswith(fold(found.typed))]
        options = [*(Option(f"{each} ") for each in joiners), *options]
    return Completion(found.start, found.end, tuple(options[:MOST_OPTIONS]))


def _keys(typed: str, visible: InstanceQuerySet) -> list[Option]:
    prefix = fold(typed)
    has_colon = prefix.startswith("tag:")
    prefix = prefix.removeprefix("tag:")
    tags = InstanceTag.objects.filter(instance__in=visible).values_list("key").annotate(count=Count("pk"))
    found = [] if has_colon else [Option(f"{key}=") for key in KEYS if key.startswith(prefix) and prefix]
    counted = tags.filter(Glob(Folded("key"), Pattern((prefix, "")))).order_by("-count", "key")[:MOST_OPTIONS]
    found += [
        Option(f"{comparison('tag', '', tag=key).root.name}=", f"tag of {count:,}")  # type: ignore[union-attr]
        for key, count in counted
        if key != "Name"
    ]
    if not prefix and not has_colon:
        found += [Option(f"{key}=") for key in KEYS]
    return found


def _values(key: str, tag: str, typed: str, visible: InstanceQuerySet) -> list[Option]:
    if key == "tag":
        rows = InstanceTag.objects.filter(instance__in=visible, key=tag)
        return _counted(rows, "value", typed)
    if key == "hybrid":
        return [Option(each) for each in ("yes", "no") if each.startswith(fold(typed))]
    if key == "status":
        return [Option(each) for each in (*STATUS_GROUPS, *STATUSES) if each.startswith(fold(typed))]
    if key == "account":
        wanted = fold(typed)
        accounts = Account.objects.filter(pk__in=visible.values("account")).order_by("name")
        return [
            Option(_value(account.name), account.account_id)
            for account in accounts
            if fold(account.name).startswith(wanted) or account.account_id.startswith(wanted)
        ]
    return _counted(visible.alias(**_DERIVED), _COLUMNS[key][0], typed)


def _counted(rows: Any, column: str, typed: str) -> list[Option]:
    """Values of `column` that begin with `typed`, or else have it in them; the most frequent first."""
    prefix = fold(typed)
    for parts in ((prefix, ""), ("", prefix, "")):
        matching = rows.annotate(found=F(column)).filter(Glob(Folded("found"), Pattern(parts))).exclude(found="")
        counted = matching.values_list("found").annotate(count=Count("pk")).order_by("-count", "found")[:MOST_OPTIONS]
        options = [Option(_value(value), f"{count:,}" if count > 1 else "") for value, count in counted]
        if options or not prefix:
            return options
    return []


def _value(text: str) -> str:
    """A value as it is typed, in quotes where it needs them."""
    return str(comparison("name", text)).removeprefix("name=")
