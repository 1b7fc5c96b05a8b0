"""Can a shell be opened on it, and if not, why not? Decided from the facts of one instance; no database, no AWS."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from fleetops.clock import during

# A region is read every 20 s, one of 10,000 instances every two minutes; SSM itself calls an agent lost after about 5
# minutes without a ping. What is older than that says nothing of now.
STALE_AFTER = timedelta(minutes=5)


class Status(StrEnum):
    """In the order of how much they need a person."""

    NO_PROFILE = "no-profile"
    LOST = "connection-lost"
    NEVER = "never-connected"
    STARTING = "starting"
    STOPPED = "stopped"
    ONLINE = "online"
    GONE = "gone"


NEEDS_A_FIX = frozenset({Status.NO_PROFILE, Status.LOST, Status.NEVER})

# Status → (kind of glyph and colour, the word)
WORDS = {
    Status.ONLINE: ("ok", "Online"),
    Status.LOST: ("bad", "Connection lost"),
    Status.NO_PROFILE: ("bad", "No instance profile"),
    Status.NEVER: ("bad", "Never connected"),
    Status.STARTING: ("run", "Starting"),
    Status.STOPPED: ("off", "Stopped"),
    Status.GONE: ("off", "Gone"),
}


class Facts(Protocol):
    """What is read of an instance here; a row of Instance is one."""

    instance_id: str
    ec2_state: str
    profile_arn: str
    launched_at: datetime | None
    ec2_read_at: datetime | None
    ping_status: str
    last_ping_at: datetime | None
    agent_version: str
    platform_type: str
    ssm_read_at: datetime | None
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class Check:
    """One condition, in the order in which they depend on each other."""

    state: str  # passed; cause: it fails, and the rest waits for it; after: not reached yet; warn: works all the same
    text: str
    detail: str = ""
    at: datetime | None = None  # the moment that `detail` speaks of
    source: str = ""  # the AWS call that told
    read_at: datetime | None = None

    @property
    def glyph(self) -> tuple[str, str]:
        """Kind and icon."""
        return {
            "passed": ("ok", "circle-check"),
            "cause": ("bad", "circle-x"),
            "after": ("wait", "circle-dashed"),
            "warn": ("warn", "alert-triangle"),
        }[self.state]


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer: a word for lists, the reason and the way out for people, the checks behind it."""

    status: Status
    kind: str
    word: str
    reason: str
    mend: str
    checks: tuple[Check, ...]
    is_stale: bool

    @property
    def can_connect(self) -> bool:
        return self.status is Status.ONLINE

    @property
    def passed(self) -> int:
        return sum(check.state in {"passed", "warn"} for check in self.checks)


def status_of(facts: Facts) -> Status:
    """The status; `models.STATUS_CONDITIONS` says the same to the database."""
    if facts.gone_at is not None:
        return Status.GONE
    if facts.ec2_state in {"stopped", "stopping"}:
        return Status.STOPPED
    if facts.ec2_state == "pending":
        return Status.STARTING
    if facts.ping_status == "Online":
        return Status.ONLINE
    if facts.ec2_state == "running" and not facts.profile_arn:
        return Status.NO_PROFILE
    return Status.LOST if facts.last_ping_at is not None else Status.NEVER


def status_words(facts: Facts, *, now: datetime) -> tuple[str, str]:
    """Kind and word for a row of a list; a state that is too old to be believed says so."""
    status = status_of(facts)
    kind, word = WORDS[status]
    if facts.ec2_state == "stopping" and status is Status.STOPPED:
        return "run", "Stopping"
    if kind == "ok" and _is_stale(facts, now):
        return "warn", f"{word} {_minutes(now - facts.ssm_read_at)} ago" if facts.ssm_read_at else word
    return kind, word


def readiness_of(facts: Facts, *, now: datetime) -> Readiness:
    status = status_of(facts)
    kind, word = status_words(facts, now=now)
    reason, mend = _why(facts, status)
    checks = _hybrid_checks(facts, status) if _is_hybrid(facts) else _ec2_checks(facts, status)
    return Readiness(status, kind, word, reason, mend, checks, is_stale=_is_stale(facts, now))


def _why(facts: Facts, status: Status) -> tuple[str, str]:
    hybrid = _is_hybrid(facts)
    match status:
        case Status.GONE:
            return (
                "AWS lists this instance no more.",
                "It was terminated or deregistered. Its sessions and recordings stay.",
            )
        case Status.STOPPED:
            if facts.ec2_state == "stopping":
                return "EC2 is stopping this instance.", "Start it in EC2 when it has stopped."
            return "EC2 says that this instance is stopped.", "Start it in EC2; its agent answers about a minute later."
        case Status.STARTING:
            return "EC2 is starting this instance.", "Wait for its agent: it answers about a minute after the start."
        case Status.NO_PROFILE:
            return (
                "It runs without an instance profile, so its agent has no credentials.",
                "Attach an instance profile whose role has AmazonSSMManagedInstanceCore. The agent asks again within "
                "30 minutes, or at once when it is restarted.",
            )
        case Status.LOST:
            return (
                "Its agent was here and answers no more.",
                f"Check that it is up, that {_restart(facts)} and that it reaches ssm, ssmmessages and "
                "ec2messages of its region on port 443.",
            )
        case Status.NEVER if hybrid:
            return (
                "It is registered, and its agent has never answered.",
                f"Check that {_restart(facts)} and that it reaches ssm, ssmmessages and ec2messages on port 443.",
            )
        case Status.NEVER:
            return (
                "It runs with an instance profile, and no agent has ever answered from it.",
                "Check that SSM Agent is installed, that the profile's role has AmazonSSMManagedInstanceCore, and that "
                "it reaches ssm, ssmmessages and ec2messages of its region on port 443.",
            )
    return "Its agent answers: a shell can be opened.", ""


def _ec2_checks(facts: Facts, status: Status) -> tuple[Check, ...]:
    ec2 = {"source": "DescribeInstances", "read_at": facts.ec2_read_at}
    ssm = {"source": "DescribeInstanceInformation", "read_at": facts.ssm_read_at}
    checks = []
    if status in {Status.GONE, Status.STOPPED, Status.STARTING}:
        words = {Status.GONE: "is gone", Status.STARTING: "is starting"}.get(status, f"is {facts.ec2_state}")
        checks.append(Check("cause", f"Instance {words}", **ec2))
    elif facts.ec2_state:
        checks.append(Check("passed", "Instance is running", "since", facts.launched_at, **ec2))
    else:
        checks.append(Check("after", "Instance is running", "EC2 has not told us of it yet"))
    if facts.profile_arn:
        checks.append(Check("passed", "An instance profile is attached", _name(facts.profile_arn), **ec2))
    elif status is Status.ONLINE:
        text = "the agent lives on credentials that it still holds, or on the account's Default Host Management"
        checks.append(Check("warn", "No instance profile is attached", text, **ec2))
    else:
        checks.append(_after(checks, Check("cause", "No instance profile is attached", **ec2)))
    return tuple(checks + _agent_checks(facts, status, checks, ssm))


def _hybrid_checks(facts: Facts, status: Status) -> tuple[Check, ...]:
    ssm = {"source": "DescribeInstanceInformation", "read_at": facts.ssm_read_at}
    if status is Status.GONE:
        first = Check("cause", "Node is registered no more", **ssm)
    else:
        first = Check("passed", "Node is registered by an activation", **ssm)
    return (first, *_agent_checks(facts, status, [first], ssm))


def _agent_checks(facts: Facts, status: Status, before: list[Check], ssm: dict) -> list[Check]:
    if facts.last_ping_at is not None or facts.agent_version:
        seen = Check("passed", "SSM Agent has reported", facts.agent_version, **ssm)
    elif status is Status.NEVER:
        seen = Check("cause", "SSM Agent has never reported", **ssm)
    else:
        seen = Check("after", "SSM Agent has reported", "never yet")
    if status is Status.ONLINE:
        answers = Check("passed", "Agent answers", "last ping", facts.last_ping_at, **ssm)
    elif status is Status.LOST:
        answers = Check("cause", "Agent answers no more", "last ping", facts.last_ping_at, **ssm)
    else:
        answers = Check("after", "Agent answers", "last ping" if facts.last_ping_at else "", facts.last_ping_at)
    return [_after(before, seen), answers]


def _after(before: list[Check], check: Check) -> Check:
    """`check`, or its waiting form if one before it is the cause."""
    if any(each.state == "cause" for each in before) and check.state == "cause":
        return Check("after", check.text, check.detail, check.at)
    return check


def _is_hybrid(facts: Facts) -> bool:
    return facts.instance_id.startswith("mi-")


def _is_stale(facts: Facts, now: datetime) -> bool:
    reads = [moment for moment in (facts.ec2_read_at, facts.ssm_read_at) if moment is not None]
    return facts.gone_at is None and bool(reads) and now - max(reads) > during(STALE_AFTER)


def _name(arn: str) -> str:
    return arn.rpartition("/")[2]


def _restart(facts: Facts) -> str:
    return "the service AmazonSSMAgent runs" if facts.platform_type == "Windows" else "amazon-ssm-agent runs"


def _minutes(length: timedelta) -> str:
    minutes = int(length.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
