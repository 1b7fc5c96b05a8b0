"""What a person may ask of a run: its waves, limits, gates and documents, read, checked and said in words.

A rule of `run.wave_rules` (JSON) is {by, value, name, concurrency, budget, soak_minutes, gates}; see waves.py for what
`by` and `value` mean. A gate is {kind, …}:

    approval    quorum, approvers [role]
    document    document, version, parameters, targets (an expression; empty: those of the wave that are well)
    alarm       names [CloudWatch alarm], account_id, region, minutes
    probe       url, minutes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.contrib.auth.models import Group

from fleetops.approvals import services as approvals
from fleetops.errors import FieldError, UserError
from fleetops.identity.models import User
from fleetops.targets import ExpressionError, parse

from . import limits
from . import waves as splitting
from .models import Run
from .waves import Rule, Waves

GATES: Final = {"approval": "Approval", "document": "Health document", "alarm": "CloudWatch alarms", "probe": "Address"}
LONGEST_SOAK: Final = 7 * 24 * 60  # minutes
LONGEST_CUTOFF: Final = 24 * 60
LONGEST_WAIT: Final = timedelta(days=366)  # until it starts
LONGEST_EVIDENCE: Final = 24 * 60
MOST_GATES: Final = 5  # of a wave
MOST_DOCUMENTS: Final = 5  # of steps before, of steps after, of probes
MOST_ALARMS: Final = 20
MOST_URL: Final = 2000
GATE_MINUTES: Final = 10


# --- reading ---------------------------------------------------------------------------------------------------------


def cleaned(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rules as they are kept. Raises UserError."""
    found = []
    for number, each in enumerate(asked, 1):
        soak = _whole(each.get("soak_minutes", 0), f"The soak of wave {number}", LONGEST_SOAK)
        gates = [_gate(gate, number) for gate in each.get("gates", ())]
        if len(gates) > MOST_GATES:
            raise UserError(f"Wave {number} has {len(gates)} gates; a wave has at most {MOST_GATES}.")
        row = {
            "by": str(each.get("by", "")).strip(),
            "value": str(each.get("value", "") or "").strip()[:4000],
            "name": " ".join(str(each.get("name", "") or "").split())[:64],
            "concurrency": _limit(each.get("concurrency"), f"The concurrency of wave {number}"),
            "budget": _limit(each.get("budget"), f"The error budget of wave {number}"),
            "soak_minutes": soak,
            "gates": gates,
        }
        found.append(row)
    splitting.check(waves(found))
    return found


def documents(asked: Sequence[Mapping[str, Any]], what: str) -> list[dict[str, Any]]:
    """Documents besides the run's own, as they are kept. Raises UserError."""
    if len(asked) > MOST_DOCUMENTS:
        raise UserError(f"{what}: at most {MOST_DOCUMENTS} documents.")
    return [_document(each, what) for each in asked]


def _document(asked: Mapping[str, Any], what: str) -> dict[str, Any]:
    name, version = str(asked.get("document", "")).strip(), str(asked.get("version", "") or "").strip()
    if not name:
        raise UserError(f"{what} needs the name of a document.")
    if version and not (version.isascii() and version.isdigit() and len(version) <= 8):
        raise UserError(f"{what}: a version is a number, not “{version[:20]}”; leave it empty for the default.")
    kept = parameters(asked.get("parameters") or {}, what)
    found: dict[str, Any] = {"document": name[:256], "version": version, "parameters": kept}
    if "on_failure" in asked:
        found["on_failure"] = bool(asked["on_failure"])  # of a step after: whether it brings back what failed, too
    return found


def parameters(asked: Any, what: str) -> dict[str, list[str]]:
    """Parameters of a document, as they are kept. Raises UserError."""
    if not isinstance(asked, Mapping):
        raise UserError(f"{what}: parameters are names with lists of texts.")
    return {str(key): _texts(texts, f"{what}, its parameter {str(key)[:64]},") for key, texts in asked.items()}


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list | tuple) or any(isinstance(each, list | dict) for each in value):
        raise UserError(f"{what} is a list of texts.")
    return [str(each) for each in value]


def _gate(asked: Mapping[str, Any], number: int) -> dict[str, Any]:
    what = f"A gate of wave {number}"
    match kind := str(asked.get("kind", "")):
        case "approval":
            quorum = _whole(asked.get("quorum", 1), f"{what} (approvals)", approvals.MOST_APPROVALS)
            if not quorum:
                raise UserError(f"{what} asks for no approval; leave it out.")
            roles = _texts(asked.get("approvers") or approvals.DEFAULT_APPROVERS, f"{what}, who approves,")
            return {"kind": kind, "quorum": quorum, "approvers": roles}
        case "document":
            targets = str(asked.get("targets", "") or "").strip()[:4000]
            if targets:
                try:
                    parse(targets, words=True)
                except ExpressionError as error:
                    raise UserError(f"{what}, its targets: {error}") from None
            return {"kind": kind, **_document(asked, what), "targets": targets}
        case "alarm":
            named = _texts(asked.get("names") or [], f"{what}, its alarms,")
            names = [each.strip() for each in named if each.strip()]
            if not names or len(names) > MOST_ALARMS:
                raise UserError(f"{what} needs the names of 1 to {MOST_ALARMS} CloudWatch alarms.")
            place = {key: str(asked.get(key, "")).strip() for key in ("account_id", "region")}
            if not all(place.values()):
                raise UserError(f"{what}: say in which account and region the alarms are.")
            return {"kind": kind, "names": names, **place, "minutes": _minutes(asked, what)}
        case "probe":
            url = str(asked.get("url", "") or "").strip()
            if (
                not url.startswith(("https://", "http://"))
                or len(url) > MOST_URL
                or any(each.isspace() for each in url)
            ):
                raise UserError(f"{what} needs the address that it asks: https://…")
            return {"kind": kind, "url": url, "minutes": _minutes(asked, what)}
    raise UserError(f"{what} is of no kind that there is; use one of {', '.join(GATES)}.")


def _minutes(asked: Mapping[str, Any], what: str) -> int:
    """How long what does not answer is waited for."""
    return _whole(asked.get("minutes") or GATE_MINUTES, f"{what}, its minutes,", LONGEST_SOAK)


def _limit(value: Any, what: str) -> str:
    text = str(value or "").strip()
    return str(limits.parse(text, what=what)) if text else ""


def _whole(value: Any, what: str, most: int) -> int:
    text = str(value if value not in (None, "") else 0).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 9) or int(text) > most:
        raise UserError(f"{what} is a whole number, at most {most:,}.")
    return int(text)


# --- checking --------------------------------------------------------------------------------------------------------


def check(run: Run, *, actor: User, now: datetime) -> None:
    """What can be said of a run before its targets are known. Raises UserError."""
    for name, what in (
        ("concurrency", "The concurrency"),
        ("budget", "The error budget"),
        ("tolerance", "The tolerance"),
    ):
        setattr(run, name, str(limits.parse(getattr(run, name), what=what)))
    if not limits.parse(run.concurrency).number:
        raise FieldError("concurrency", "A concurrency of 0 would send it to nobody; let at least 1 go at once.")
    for number, rule in enumerate(run.wave_rules, 1):
        if rule["concurrency"] and not limits.parse(rule["concurrency"]).number:
            raise UserError(f"A concurrency of 0 would send wave {number} to nobody.")
        for gate in rule["gates"]:
            if gate["kind"] == "approval":
                _enough_people(gate, number, actor)
    if run.cutoff_minutes > LONGEST_CUTOFF:
        raise FieldError("cutoff_minutes", f"The cut-off is at most {LONGEST_CUTOFF:,} minutes.")
    if run.starts_at is not None and run.starts_at > now + LONGEST_WAIT:
        raise FieldError("starts_at", f"That is more than {LONGEST_WAIT.days} days from now; choose an earlier moment.")
    if run.ends_by is not None:
        if run.ends_by <= now:
            raise FieldError("ends_by", "It would have to end before now; choose a later moment.")
        if run.starts_at is not None and run.ends_by <= run.starts_at:
            raise FieldError("ends_by", "It would have to end before it starts.")
        start = max(now, run.starts_at) if run.starts_at else now
        if run.ends_by - start <= timedelta(minutes=run.cutoff_minutes):
            raise FieldError("cutoff_minutes", "The cut-off leaves no time between its start and its end.")
    if not 1 <= run.evidence_minutes <= LONGEST_EVIDENCE:
        raise FieldError("evidence_minutes", f"A proof is awaited for 1 to {LONGEST_EVIDENCE:,} minutes.")


def _enough_people(gate: Mapping[str, Any], number: int, actor: User) -> None:
    groups = list(Group.objects.filter(name__in=gate["approvers"]))
    if missing := set(gate["approvers"]) - {group.name for group in groups}:
        raise UserError(f"A gate of wave {number}: there is no role {', '.join(sorted(missing))}.")
    others = approvals.possible_approvers(groups).exclude(pk=actor.pk).count()
    if others < gate["quorum"]:
        raise UserError(
            f"A gate of wave {number} could never open: it wants {gate['quorum']} approvals, and "
            f"{others or 'nobody'} besides you could give one. Name other roles, or give more people one of them."
        )


def check_waves(run: Run, made: Waves, total: int) -> None:
    """Limits of waves that contradict those of the run. Raises UserError."""
    most = limits.budget(run.budget, total)
    for number, each in enumerate(made.splits, 1):
        rule = of(run.wave_rules, each.rule)
        if rule.get("budget"):
            mine = limits.budget(rule["budget"], len(each.keys))
            if mine > most:
                raise UserError(
                    f"The limits contradict each other: wave {number}, {each.name}, may bear {mine} failures and the "
                    f"whole run {most}. Give the run more, or the wave less."
                )


# --- asking ----------------------------------------------------------------------------------------------------------


def waves(kept: Sequence[Mapping[str, Any]]) -> list[Rule]:
    return [Rule(each["by"], each["value"], each["name"]) for each in kept]


def of(kept: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
    """The rule that made a wave; none for what was left."""
    return kept[number] if number < len(kept) else {}


def at_once(run: Run, rule: Mapping[str, Any], here: int, total: int) -> int:
    """How many of a wave's targets may be out of service at once, by its own limit and the run's."""
    most = limits.concurrency(run.concurrency, total)
    if rule.get("concurrency"):
        most = min(most, limits.concurrency(rule["concurrency"], here))
    if run.is_strict:
        bears = limits.budget(run.budget, total)
        if rule.get("budget"):
            bears = min(bears, limits.budget(rule["budget"], here))
        most = min(most, bears + 1)
    return max(1, min(most, here))


def gate_words(gate: Mapping[str, Any]) -> str:
    """ "approval by 2 of administrator", "AWS-RunShellScript on its own targets", "alarm api-5xx"."""
    match gate["kind"]:
        case "approval":
            by = " or ".join(gate.get("approvers") or approvals.DEFAULT_APPROVERS).replace("_", " ")
            quorum = int(gate.get("quorum") or 1)
            return f"approval by {by}" if quorum == 1 else f"{quorum} approvals by {by}"
        case "document":
            return f"{gate['document']} on {gate.get('targets') or 'its own targets'}"
        case "probe":
            return f"{gate['url']} answers"
        case "alarm":
            return f"alarm{'s' if len(gate['names']) > 1 else ''} {', '.join(gate['names'])}"
    return str(gate["kind"])
