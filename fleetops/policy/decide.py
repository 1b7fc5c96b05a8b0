"""May this person do this deed, on this, now, and why? From facts alone: no database, no clock.

What the rules mean, all of it:

- A rule is *in force* if it is enabled and the moment lies within its validity.
- It *applies* if it is in force, names the deed, names the person (everybody, the user, or a group they are in), and
  holds what is acted on: its targets match the instance, its documents the document, its OS users the OS user, its
  destinations where a port is forwarded to, and the session is whose it says.
- Of documents that open shells an allow that names none holds for the plain shell and for those of AWS and FleetOps;
  the account's own may bring an OS user and commands of their own, so they have to be named. The plain shell's name
  is SSM-SessionManagerRunShell.
- An allow may give its shells an OS user. It then holds for who asks for that one, or for none.
- A **deny** applies within its hours and from its networks alone, if it has any. One that applies decides: denied. Deny
  wins over every allow, however narrow.
- An **allow** that applies grants if all its conditions are met: hours, network, second factor, reason, approvals. One
  that grants is enough. Of several that grant, the one that asks for least counts, then the first by name: its IAM role
  and its demands are the decision's.
- Where none grants, the answer is no, and says what each allow that applies still lacks. Where none applies, no rule
  allows it, and the answer is no.
- What is not known counts against the person: an allow holds for an unknown instance only if it is for `all`, and from
  an unknown address only if it names no network; a deny holds in both cases. So does one whose expression can no longer
  be read, or hangs on tags that have not been read yet; an allow of that kind does not hold.
- How old a second factor may be is asked when something begins: what was open by then goes on.
- A shell that is open goes on only by an allow that gives the IAM role which it is open under, and the OS user if it
  gives one; and, if the allow wants a moderator, only if it was opened with one.

Rules have no order: nothing here looks at where one stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, tzinfo
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from fleetops.targets import Expression, Pattern, TargetFacts


class Deed(StrEnum):
    """What may be allowed or denied. The values are stored in rules."""

    SHELL = "shell"
    RUN_AS = "run_as"
    FORWARD = "forward"
    TRANSFER = "transfer"
    RUN_DOCUMENT = "run_document"
    PATCH = "patch"
    ASSOCIATE = "associate"
    ATTACH_ROLE = "attach_role"
    READ_RECORDING = "read_recording"
    WATCH_SESSION = "watch_session"
    END_SESSION = "end_session"


# How a deed reads after "may" and "to".
DEED_WORDS: Final[dict[Deed, str]] = {
    Deed.SHELL: "open a shell",
    Deed.RUN_AS: "run a shell as a named OS user",
    Deed.FORWARD: "forward a port",
    Deed.TRANSFER: "transfer files",
    Deed.RUN_DOCUMENT: "run a document",
    Deed.PATCH: "patch",
    Deed.ASSOCIATE: "create an association",
    Deed.ATTACH_ROLE: "attach an IAM role",
    Deed.READ_RECORDING: "read a recording",
    Deed.WATCH_SESSION: "watch a session",
    Deed.END_SESSION: "end a session",
}
DEED_NAMES: Final = tuple(str(deed) for deed in Deed)
# Deeds on a session that somebody owns.
OF_SESSIONS: Final = frozenset({Deed.READ_RECORDING, Deed.WATCH_SESSION, Deed.END_SESSION})
# Deeds that take a document, or an OS user.
WITH_DOCUMENT: Final = frozenset({Deed.RUN_DOCUMENT, Deed.ASSOCIATE})
WITH_USER: Final = frozenset({Deed.RUN_AS})
PLAIN_SHELL: Final = "SSM-SessionManagerRunShell"
# Nobody in an account can make one that is called like AWS's; FleetOps's are named by what is in them.
_KNOWN_DOCUMENTS: Final = (PLAIN_SHELL, "AWS-*", "FleetOps-*")

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
Network = IPv4Network | IPv6Network
# Letters and signs that count as printable and show nothing.
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")


@dataclass(frozen=True, slots=True)
class Hours:
    """Times of the week by the clock on a wall: `days` (0 is Monday) are those on which a span begins.

    It ends before `end`, on the next day if that is not later than `start`; both midnight is the whole day. An hour
    that a clock skips is in no span, and one that it shows twice is in the span both times.
    """

    days: frozenset[int]
    start: time
    end: time
    zone: tzinfo | None  # None: the stored name is none that this machine knows

    def hold(self, at: datetime) -> bool | None:
        """Whether `at` is within; None if that cannot be told."""
        if self.zone is None:
            return None
        local = at.astimezone(self.zone)
        clock, day = local.time().replace(tzinfo=None, fold=0), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        return (day in self.days and clock >= self.start) or ((day - 1) % 7 in self.days and clock < self.end)

    def __str__(self) -> str:
        span = "" if self.start == self.end == time() else f" {self.start:%H:%M}–{self.end:%H:%M}"
        return f"{_days(self.days)}{span} {self.zone if self.zone is not None else 'in an unknown time zone'}"


def _days(days: frozenset[int]) -> str:
    """ "Mon–Fri", "Mon, Wed", "every day"."""
    if len(days) == 7:
        return "every day"
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(
        f"{_DAYS[run[0]]}–{_DAYS[run[-1]]}" if len(run) > 2 else ", ".join(_DAYS[day] for day in run) for run in runs
    )


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """A rule, as it decides."""

    id: str
    name: str
    effect: str  # allow or deny
    deeds: frozenset[str]
    targets: Expression | None  # None: the stored expression can no longer be read
    everybody: bool = False
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    whose: str = "any"  # of sessions: any, own, others
    documents: tuple[str, ...] = ()  # with * for any run of characters
    run_as: tuple[str, ...] = ()
    shell_user: str = ""  # OS user that its shells run as
    session_documents: tuple[str, ...] = ()  # that open shells; with *
    destinations: tuple[str, ...] = ()  # of forwarded ports, host:port; with *
    hours: Hours | None = None
    networks: tuple[Network, ...] = ()
    needs_mfa: bool = False
    mfa_minutes: int = 0  # how old the second factor may be; 0: of any age
    needs_reason: bool = False
    needs_moderator: bool = False
    approvals: int = 0
    approvers: tuple[str, ...] = ()  # roles whose members may approve; none: administrators
    grant_minutes: int = 0  # longest grant; 0: as the installation has it
    role_arn: str = ""
    enabled: bool = True
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    note: str = ""  # why the rule is there; a denial shows it

    @property
    def is_deny(self) -> bool:
        return self.effect == "deny"

    @property
    def demands(self) -> int:
        """How many conditions an allow sets."""
        conditions = (
            self.hours is not None,
            bool(self.networks),
            self.needs_mfa,
            bool(self.mfa_minutes),
            self.needs_reason,
            self.needs_moderator,
            bool(self.shell_user),
        )
        return sum(conditions) + self.approvals


@dataclass(frozen=True, slots=True)
class ActorFacts:
    """Who asks. Ids of user and groups as text."""

    id: str
    name: str
    groups: frozenset[str] = frozenset()
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Context:
    """When, whence and with what it is asked."""

    at: datetime
    source_address: str = ""
    mfa_at: float | None = None  # Unix seconds of the second factor in this log-in; None without one
    reason: str = ""
    approvals: int = 0  # people who approved this very deed
    began_at: datetime | None = None  # of what goes on: when it began. The second factor's age is judged there


@dataclass(frozen=True, slots=True)
class DeedRequest:
    """One question. `target` is None for a deed on no instance, or on one that is no longer known."""

    actor: ActorFacts
    deed: str
    context: Context
    target: TargetFacts | None = None
    document: str = ""
    run_as: str = ""
    owner: str = ""  # id of the user whose session it is
    under: str | None = None  # of a shell that is open: ARN of its IAM role, empty for the account's own
    destination: str = ""  # of a forwarded port, as destination_of writes it
    is_moderated: bool = False  # of a shell that is open: its input waits for a moderator


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of an answer.

    `kind`: denied, allowed, lacks (an allow's conditions are not met), none, role (none that gives it), inactive.
    """

    kind: str
    text: str
    rule_id: str = ""
    rule_name: str = ""


@dataclass(frozen=True, slots=True)
class Obligations:
    """What the rule that grants demands; of a denial, what the nearest allow would."""

    needs_reason: bool = False
    needs_mfa: bool = False
    approvals: int = 0
    role_arn: str = ""
    run_as: tuple[str, ...] = ()
    shell_user: str = ""
    mfa_minutes: int = 0
    needs_moderator: bool = False
    approvers: tuple[str, ...] = ()
    grant_minutes: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, with its reasons. `unmet`: what the nearest allow lacks, of hours, network, mfa, reason, approval."""

    allowed: bool
    reasons: tuple[Reason, ...]
    obligations: Obligations = field(default=Obligations())
    unmet: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(reason.text for reason in self.reasons)

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the rules that the reasons speak of."""
        return tuple(reason.rule_name for reason in self.reasons if reason.rule_name)

    @property
    def rule_ids(self) -> tuple[str, ...]:
        return tuple(reason.rule_id for reason in self.reasons if reason.rule_id)

    @property
    def may_try(self) -> bool:
        """Worth a button: it is allowed, or will be once the person has said why."""
        return self.allowed or self.wants_only_a_reason

    @property
    def may_ask(self) -> bool:
        """It would be allowed once others have approved it, and the person brings what they can bring alone."""
        return not self.allowed and "approval" in self.unmet and {*self.unmet} <= {"approval", "reason", "mfa"}

    @property
    def wants_second_factor(self) -> bool:
        """A second factor, or a new one, is among what lacks, and the rest can be had."""
        return not self.allowed and "mfa" in self.unmet and {*self.unmet} <= {"approval", "reason", "mfa"}

    @property
    def wants_only_a_reason(self) -> bool:
        """It would be allowed if the person said why."""
        return not self.allowed and self.unmet == ("reason",)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one rule says to one question. `verdict`: denies, allows, lacks, silent."""

    rule: RuleFacts
    verdict: str
    text: str


def decide(request: DeedRequest, rules: Sequence[RuleFacts]) -> Decision:
    """Deny wins; then an allow whose conditions are all met; else no."""
    if not request.actor.is_active:
        return Decision(False, (Reason("inactive", f"The account of {request.actor.name} may no longer log in."),))
    denying: list[RuleFacts] = []
    allowing: list[tuple[RuleFacts, tuple[str, ...]]] = []
    others: list[RuleFacts] = []  # that allow it in another way than it is open
    for rule in rules:
        if miss := _miss(rule, request):
            others += [rule] if miss == "under" else []
            continue
        if rule.is_deny:
            denying.append(rule)
        else:
            allowing.append((rule, _unmet(rule, request.context)))
    if denying:
        return Decision(False, tuple(_denial(rule, request) for rule in sorted(denying, key=_order)))
    granting = sorted((rule for rule, unmet in allowing if not unmet), key=lambda rule: _nearest(rule, request))
    if granting:
        rule = granting[0]
        return Decision(True, (Reason("allowed", f"Rule “{rule.name}” allows it.", rule.id, rule.name),), _asks(rule))
    if allowing:
        # Nearest is what a person can mend by a word.
        allowing.sort(key=lambda pair: (pair[1] != ("reason",), len(pair[1]), pair[1], _nearest(pair[0], request)))
        nearest, unmet = allowing[0]
        reasons = tuple(
            Reason(
                "lacks",
                f"Rule “{rule.name}” would allow it, but {_lacks(rule, request.context, each)}.",
                rule.id,
                rule.name,
            )
            for rule, each in allowing
        )
        return Decision(False, reasons, _asks(nearest), unmet)
    text = f"No rule allows {request.actor.name} to {deed_on(request)}"
    if others:
        is_other_role = all(rule.role_arn != request.under for rule in others)
        way = f"under {_role(request.under)}" if is_other_role else "as it was opened"
        return Decision(False, (Reason("role", f"{text} {way} any more. Open it anew."),))
    doubt = "" if request.target is None or request.target.tags_known else " Its tags have not been read yet."
    return Decision(False, (Reason("none", f"{text}.{doubt}"),))


def decide_session(request: DeedRequest, rules: Sequence[RuleFacts]) -> Decision:
    """Decide on a session, to be opened or open: on its deed and, if it is a shell, on its OS user.

    Who asks for an OS user needs RUN_AS besides, unless the rule that lets them have the shell gives just that one.
    """
    shell = decide(request, rules)
    if request.deed != Deed.SHELL or not request.run_as:
        return shell
    if shell.allowed and shell.obligations.shell_user == request.run_as:
        return shell
    if not shell.allowed and not shell.unmet:
        return shell
    user = decide(replace(request, deed=Deed.RUN_AS, under=None), rules)
    if shell.allowed and user.allowed:
        return Decision(True, shell.reasons + user.reasons, _both(shell.obligations, user.obligations))
    if not user.allowed and not user.unmet:
        return user
    lacking = [answer for answer in (shell, user) if not answer.allowed]
    unmet = tuple(each for each in UNMET if any(each in answer.unmet for answer in lacking))
    reasons = tuple(reason for answer in lacking for reason in answer.reasons)
    return Decision(False, reasons, _both(shell.obligations, user.obligations), unmet)


def destination_of(host: str, port: str) -> str:
    """Where a port is forwarded to, as rules are compared with it: "db.internal:5432". This instance is localhost."""
    name = host.strip().rstrip(".").lower() or "localhost"
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return f"{name}:{port}"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # On Linux the unspecified address connects to the machine itself, as loopback does.
    if address.is_loopback or address.is_unspecified:
        return f"localhost:{port}"
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"


def explain(request: DeedRequest, rules: Iterable[RuleFacts]) -> list[Contribution]:
    """What each rule says to the question, those that decide first; `decide` answers from the same."""
    found = []
    for rule in rules:
        if miss := _miss(rule, request):
            found.append(Contribution(rule, "silent", _miss_text(rule, request, miss)))
        elif rule.is_deny:
            found.append(
                Contribution(rule, "denies", f"D{_denial(rule, request).text.removeprefix(_says(rule) + ' d')}")
            )
        elif unmet := _unmet(rule, request.context):
            found.append(Contribution(rule, "lacks", f"Would allow it, but {_lacks(rule, request.context, unmet)}."))
        else:
            found.append(Contribution(rule, "allows", "Allows it: all its conditions are met."))
    ranks = {"denies": 0, "allows": 1, "lacks": 2, "silent": 3}
    return sorted(found, key=lambda each: (ranks[each.verdict], _order(each.rule)))


def concerns(rule: RuleFacts, actor: ActorFacts) -> bool:
    """Whether the rule names this person."""
    return rule.everybody or actor.id in rule.users or not rule.groups.isdisjoint(actor.groups)


def in_force(rule: RuleFacts, at: datetime) -> bool:
    return (
        rule.enabled
        and (rule.valid_from is None or rule.valid_from <= at)
        and (rule.valid_until is None or at < rule.valid_until)
    )


def deed_on(request: DeedRequest) -> str:
    """ "open a shell on web-1"."""
    words = DEED_WORDS[Deed(request.deed)] if request.deed in DEED_WORDS else request.deed
    if request.run_as:
        words += f" ({request.run_as})"
    if request.document:
        words += f" ({request.document})"
    if request.destination:
        words += f" to {request.destination}"
    return words if request.target is None else f"{words} on {_named(request.target)}"


# --- does a rule apply -----------------------------------------------------------------------------------------------


def _miss(rule: RuleFacts, request: DeedRequest) -> str:
    """Why the rule does not apply, as a word; empty if it does."""
    deny = rule.is_deny
    if not in_force(rule, request.context.at):
        return "force"
    if request.deed not in rule.deeds:
        return "deed"
    if not concerns(rule, request.actor):
        return "who"
    if rule.whose != "any" and (rule.whose == "own") != (request.owner == request.actor.id != ""):
        return "whose"
    if not _holds_target(rule, request.target):
        return "target"
    if request.deed in WITH_DOCUMENT and not _holds_text(rule.documents, request.document, deny):
        return "document"
    if request.deed in WITH_USER and not _holds_text(rule.run_as, request.run_as, deny):
        return "run_as"
    if request.deed == Deed.SHELL and (miss := _shell_miss(rule, request)):
        return miss
    if request.deed == Deed.FORWARD and not _holds_text(rule.destinations, request.destination, deny):
        return "destination"
    if deny and rule.hours is not None and rule.hours.hold(request.context.at) is False:
        return "hours"
    if deny and rule.networks and _is_from(rule.networks, request.context.source_address) is False:
        return "network"
    if not deny and request.under is not None and not _goes_on(rule, request):
        return "under"
    return ""


def _shell_miss(rule: RuleFacts, request: DeedRequest) -> str:
    documents = rule.session_documents or (() if rule.is_deny else _KNOWN_DOCUMENTS)
    if not _holds_text(documents, request.document or PLAIN_SHELL, rule.is_deny):
        return "session_document"
    if rule.shell_user and request.run_as and rule.shell_user != request.run_as:
        return "shell_user"
    return ""


def _goes_on(rule: RuleFacts, request: DeedRequest) -> bool:
    """Whether a session that is open is as this allow would open it."""
    return (
        rule.role_arn == request.under
        and (not rule.shell_user or rule.shell_user == request.run_as or request.deed != Deed.SHELL)
        and (not rule.needs_moderator or request.is_moderated or request.deed != Deed.SHELL)
    )


def _holds_target(rule: RuleFacts, target: TargetFacts | None) -> bool:
    if rule.targets is None:
        return rule.is_deny
    if target is None:
        return rule.is_deny or rule.targets.matches_everything
    told = rule.targets.tells(target)
    return rule.is_deny if told is None else told


def _holds_text(globs: tuple[str, ...], text: str, deny: bool) -> bool:
    """An allow has to name what it allows, with * for anything; a deny that names nothing denies all of it."""
    if not globs:
        return deny
    return any(Pattern(tuple(glob.split("*"))).matches(text) for glob in globs)


def _is_from(networks: tuple[Network, ...], address: str) -> bool | None:
    """Whether the address lies in one of the networks; None if there is none that can be read."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def says_something(reason: str) -> bool:
    """Whether there is a character in it that shows."""
    return any(each.isprintable() and not each.isspace() and each not in _BLANKS for each in reason)


# --- what an allow lacks ---------------------------------------------------------------------------------------------

UNMET: Final = ("hours", "network", "mfa", "approval", "reason")


def _unmet(rule: RuleFacts, context: Context) -> tuple[str, ...]:
    found = []
    if rule.hours is not None and not rule.hours.hold(context.at):
        found.append("hours")
    if rule.networks and not _is_from(rule.networks, context.source_address):
        found.append("network")
    if rule.needs_mfa and not _has_factor(rule, context):
        found.append("mfa")
    if rule.approvals > context.approvals:
        found.append("approval")
    if rule.needs_reason and not says_something(context.reason):
        found.append("reason")
    return tuple(found)


def _has_factor(rule: RuleFacts, context: Context) -> bool:
    if context.mfa_at is None:
        return False
    age = (context.began_at or context.at).timestamp() - context.mfa_at
    return not rule.mfa_minutes or age <= rule.mfa_minutes * 60


def _lacks(rule: RuleFacts, context: Context, unmet: tuple[str, ...]) -> str:
    parts = []
    for each in unmet:
        match each:
            case "hours":
                parts.append(f"holds only {rule.hours}")
            case "network":
                whence = f" (this comes from {context.source_address})" if context.source_address else ""
                parts.append(f"holds only from {', '.join(map(str, rule.networks))}{whence}")
            case "mfa":
                fresh = f" of the last {rule.mfa_minutes} minutes" if rule.mfa_minutes else ""
                parts.append(f"needs a log-in with a second factor{fresh}")
            case "approval":
                people = "1 other person" if rule.approvals == 1 else f"{rule.approvals} other people"
                parts.append(f"needs a request that {people} approved")
            case "reason":
                parts.append("needs a reason")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _asks(rule: RuleFacts) -> Obligations:
    return Obligations(
        needs_reason=rule.needs_reason,
        needs_mfa=rule.needs_mfa,
        approvals=rule.approvals,
        role_arn=rule.role_arn,
        run_as=rule.run_as,
        shell_user=rule.shell_user,
        mfa_minutes=rule.mfa_minutes,
        needs_moderator=rule.needs_moderator,
        approvers=rule.approvers,
        grant_minutes=rule.grant_minutes,
    )


def _both(shell: Obligations, user: Obligations) -> Obligations:
    """What two rules demand together; who may approve is said by the one that wants more approvals."""
    asking = shell if shell.approvals >= user.approvals else user
    limits = [each.grant_minutes for each in (shell, user) if each.grant_minutes and each.approvals]
    return replace(
        shell,
        needs_reason=shell.needs_reason or user.needs_reason,
        needs_mfa=shell.needs_mfa or user.needs_mfa,
        mfa_minutes=min(filter(None, (shell.mfa_minutes, user.mfa_minutes)), default=0),
        needs_moderator=shell.needs_moderator or user.needs_moderator,
        approvals=asking.approvals,
        approvers=asking.approvers,
        grant_minutes=min(limits, default=0),
        run_as=user.run_as,
    )


def _order(rule: RuleFacts) -> tuple[str, str]:
    return rule.name, rule.id


def _nearest(rule: RuleFacts, request: DeedRequest) -> tuple[bool, int, str, str]:
    """Sorts first what gives the OS user that is asked for, then what asks for least."""
    gives_another = request.deed == Deed.SHELL and bool(request.run_as) and rule.shell_user != request.run_as
    return gives_another, rule.demands, rule.name, rule.id


# --- words -----------------------------------------------------------------------------------------------------------


def _denial(rule: RuleFacts, request: DeedRequest) -> Reason:
    if rule.targets is None:
        doubt = ", since its expression can no longer be read"
    elif request.target is None and not rule.targets.matches_everything:
        doubt = ", since it is not known on which instance"
    elif request.target is not None and rule.targets.tells(request.target) is None:
        doubt = ", since the tags of the instance have not been read yet"
    else:
        doubt = ""
    note = f": {rule.note.rstrip('.')}" if rule.note and not doubt else ""
    return Reason("denied", f"{_says(rule)} denies it{doubt}{note}.", rule.id, rule.name)


def _says(rule: RuleFacts) -> str:
    return f"Rule “{rule.name}”"


def _named(target: TargetFacts | None) -> str:
    return "an instance that is not known" if target is None else target.name or target.instance_id


def _role(arn: str | None) -> str:
    return f"the IAM role {arn}" if arn else "the account's own role"


def _miss_text(rule: RuleFacts, request: DeedRequest, miss: str) -> str:
    name = request.actor.name
    match miss:
        case "force":
            if not rule.enabled:
                return "Is switched off."
            is_early = rule.valid_from is not None and request.context.at < rule.valid_from
            moment = rule.valid_from if is_early else rule.valid_until
            return f"{'Holds from' if is_early else 'Held until'} {moment:%d %b %Y, %H:%M} UTC."
        case "deed":
            return "Is not about this deed."
        case "who":
            return f"Does not name {name}, nor a group of theirs."
        case "whose":
            return f"Is only about {'one’s own sessions' if rule.whose == 'own' else 'sessions of others'}."
        case "target":
            if rule.targets is None:
                return "Its expression can no longer be read, so it allows nothing."
            if request.target is not None and rule.targets.tells(request.target) is None:
                return f"Its instances are {rule.targets}; the tags of {_named(request.target)} are not read yet."
            return f"Its instances, {rule.targets}, do not include {_named(request.target)}."
        case "document":
            return f"Is only about the documents {', '.join(rule.documents) or 'that it names: none'}."
        case "run_as":
            return f"Is only about the OS users {', '.join(rule.run_as) or 'that it names: none'}."
        case "session_document":
            return f"Is only about {_documents(rule)}."
        case "shell_user":
            return f"Opens shells as {rule.shell_user}."
        case "destination":
            return f"Is only about ports at {', '.join(rule.destinations) or 'the places that it names: none'}."
        case "hours":
            return f"Denies only {rule.hours}."
        case "under":
            return f"Opens shells {_ways(rule)}."
        case _:
            return f"Denies only from {', '.join(map(str, rule.networks))}."


def _documents(rule: RuleFacts) -> str:
    if not rule.session_documents:
        return "the plain shell and the session documents of AWS and FleetOps"
    return f"the session documents {', '.join(rule.session_documents)}"


def _ways(rule: RuleFacts) -> str:
    user = f" as {rule.shell_user}" if rule.shell_user else ""
    return f"under {_role(rule.role_arn)}{user}{' with a moderator' if rule.needs_moderator else ''}"
