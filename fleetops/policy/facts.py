"""What a rule, a question and an answer are. What they mean: decide.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time, tzinfo
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from fleetops.targets import Expression, TargetFacts


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

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
Network = IPv4Network | IPv6Network


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
