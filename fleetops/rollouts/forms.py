"""A new run as people fill it in, step by step. The server keeps nothing between steps: a page holds all that was said.

Inputs of waves are named `w1_by`, `w1_soak`, …; of steps before, after and probes `before1_document`, …
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django import forms
from django.http import QueryDict

from fleetops.errors import FieldError, UserError

from .plan import Wanted

STEPS: Final = (("targets", "Targets"), ("waves", "Waves"), ("gates", "Gates and safety"), ("plan", "Plan"))
MOST_ROWS: Final = 30  # waves that the form takes; the API takes more
_MINUTES: Final = "%Y-%m-%dT%H:%M"
BY: Final = (
    ("canary", "Canary", "How many"),
    ("percent", "Percent", "Of all targets"),
    ("count", "Count", "How many"),
    ("zone", "Zone", "One; empty: a wave for each"),
    ("tag", "Tag", "role=web; role: a wave for each value"),
    ("list", "Expression", "name=db-* or id=…"),
    ("rest", "The rest", ""),
)
# Key → label and rows (by, value, soak in minutes).
PRESETS: Final = {
    "careful": (
        "Canary, 10 %, 50 %, the rest",
        (("canary", "1", 30), ("percent", "10", 30), ("percent", "50", 0), ("rest", "", 0)),
    ),
    "canary": ("Canary, then the rest", (("canary", "1", 15), ("rest", "", 0))),
    "zones": ("Zone by zone", (("zone", "", 0),)),
    "once": ("All in one wave", (("rest", "", 0),)),
}
# Which inputs a step shows; what is not shown is carried along.
_OF_TARGETS: Final = frozenset({"targets", "name", "reason"})  # and what the kind of the run asks
_OF_WAVES: Final = frozenset({"concurrency", "budget", "is_strict", "waves"})
_OF_GATES: Final = frozenset({"starts_at", "ends_by", "cutoff_minutes", "evidence_minutes", "tolerance"})
_WAVE_INPUTS: Final = frozenset({"by", "value", "name", "concurrency", "budget"})
_EXTRAS: Final = ("before", "after", "probe")
_NEVER: Final = frozenset({"csrfmiddlewaretoken", "go", "step"})
DEFAULTS: Final = {
    "concurrency": "10%",
    "budget": "0",
    "cutoff_minutes": "0",
    "evidence_minutes": "30",
    "tolerance": "0",
    "timeout_seconds": "3600",
    "minutes": "2",
}


@dataclass
class WaveRow:
    """One wave, as it stands in the form."""

    number: int
    by: str = "rest"
    value: str = ""
    name: str = ""
    concurrency: str = ""
    budget: str = ""
    soak: str = "0"
    quorum: str = ""
    approvers: list[str] = field(default_factory=list)
    health: str = ""
    health_targets: str = ""
    health_parameters: str = ""
    alarms: str = ""
    alarm_account: str = ""
    alarm_region: str = ""
    url: str = ""

    @property
    def title(self) -> str:
        shown = {by: label for by, label, _ in BY}.get(self.by, self.by)
        return self.name or " ".join(filter(None, (shown, self.value)))


@dataclass
class ExtraRow:
    """A document besides the run's own."""

    number: int
    document: str = ""
    parameters: str = ""
    on_failure: bool = True


class Asked:
    """All that was said so far. `own`: the inputs of the run's kind, in the first step."""

    def __init__(self, posted: QueryDict, own: frozenset[str] = frozenset()) -> None:
        self.posted = posted
        self.own = own
        count = _count(posted.get("waves", "0"))
        self.waves = [self._wave(number) for number in range(1, count + 1)]

    def text(self, name: str) -> str:
        return str(self.posted.get(name, DEFAULTS.get(name, ""))).replace("\r\n", "\n")

    def values(self) -> dict[str, str]:
        """What the plain inputs hold."""
        names = self.own | _OF_TARGETS | _OF_WAVES | _OF_GATES
        return {name: self.text(name) for name in names}

    def _wave(self, number: int) -> WaveRow:
        row = WaveRow(number)
        for name in vars(row):
            if name == "approvers":
                row.approvers = [each for each in self.posted.getlist(f"w{number}_approvers") if each]
            elif name != "number" and f"w{number}_{name}" in self.posted:
                setattr(row, name, self.text(f"w{number}_{name}"))
        return row

    def extras(self, what: str) -> list[ExtraRow]:
        """Documents of one sort: those that were filled in, and an empty one while there may be more."""
        found = []
        for number in range(1, 6):
            name = self.text(f"{what}{number}_document").strip()
            if name:
                on = f"{what}{number}_on_failure" in self.posted or what != "after"
                found.append(ExtraRow(len(found) + 1, name, self.text(f"{what}{number}_parameters"), on))
        return [*found, ExtraRow(len(found) + 1)] if len(found) < 5 else found

    def carried(self, step: str) -> list[tuple[str, str]]:
        """What other steps have said, for hidden inputs of the page of `step`."""
        shown = self._shown(step)
        return [
            (name, value)
            for name in self.posted
            if name not in _NEVER and not shown(name)
            for value in self.posted.getlist(name)
        ]

    def _shown(self, step: str) -> Any:
        if step == "targets":
            return lambda name: name in self.own or name in _OF_TARGETS or name.startswith("p_")
        if step == "waves":
            return lambda name: name in _OF_WAVES or (_part(name)[0] == "w" and _part(name)[1] in _WAVE_INPUTS)
        return lambda name: (
            name in _OF_GATES
            or (_part(name)[0] == "w" and _part(name)[1] not in _WAVE_INPUTS)
            or _part(name)[0] in _EXTRAS
        )

    def change_waves(self, go: str) -> bool:
        """A row more or fewer, or those of a preset; False if `go` asks for none of that."""
        if go == "add":
            if len(self.waves) < MOST_ROWS:
                self.waves.append(WaveRow(len(self.waves) + 1, by="percent"))
        elif go.startswith("remove-"):
            self.waves = [each for each in self.waves if str(each.number) != go.removeprefix("remove-")]
        elif go.removeprefix("preset-") in PRESETS:
            self.preset(go.removeprefix("preset-"))
        else:
            return False
        self._write_waves()
        return True

    def preset(self, key: str) -> None:
        rows = PRESETS[key][1]
        self.waves = [WaveRow(n, by=by, value=value, soak=str(soak)) for n, (by, value, soak) in enumerate(rows, 1)]
        self._write_waves()

    def _write_waves(self) -> None:
        """The rows as inputs again, numbered anew."""
        posted = self.posted.copy()
        for name in [name for name in posted if _part(name)[0] == "w"]:
            del posted[name]
        for number, row in enumerate(self.waves, 1):
            row.number = number
            for name, value in vars(row).items():
                if name == "approvers":
                    posted.setlist(f"w{number}_approvers", value)
                elif name != "number":
                    posted[f"w{number}_{name}"] = value
        posted["waves"] = str(len(self.waves))
        self.posted = posted

    # What the plan takes

    def rules(self) -> list[dict[str, Any]]:
        return [
            {
                "by": row.by,
                "value": row.value,
                "name": row.name,
                "concurrency": row.concurrency,
                "budget": row.budget,
                "soak_minutes": row.soak,
                "gates": self._gates(row),
            }
            for row in self.waves
        ]

    def _gates(self, row: WaveRow) -> list[dict[str, Any]]:
        gates: list[dict[str, Any]] = []
        if row.quorum.strip() not in {"", "0"}:
            gates.append({"kind": "approval", "quorum": row.quorum, "approvers": row.approvers})
        if row.health.strip():
            what = f"The health document of wave {row.number}"
            gates.append(
                {
                    "kind": "document",
                    "document": row.health,
                    "parameters": parameters_in(row.health_parameters, what),
                    "targets": row.health_targets,
                }
            )
        if row.alarms.strip():
            names = [name.strip() for line in row.alarms.splitlines() for name in line.split(",") if name.strip()]
            place = {"account_id": row.alarm_account, "region": row.alarm_region}
            gates.append({"kind": "alarm", "names": names, **place})
        if row.url.strip():
            gates.append({"kind": "probe", "url": row.url})
        return gates

    def documents(self, what: str) -> list[dict[str, Any]]:
        words = {"before": "The step before", "after": "The step after", "probe": "The probe"}[what]
        found = []
        for row in self.extras(what):
            if row.document:
                each: dict[str, Any] = {
                    "document": row.document,
                    "parameters": parameters_in(row.parameters, f"{words}, {row.document}"),
                }
                if what == "after":
                    each["on_failure"] = row.on_failure
                found.append(each)
        return found

    def wanted(self, kind: str, subject: Mapping[str, Any]) -> Wanted:
        """What is to be planned. Raises UserError."""
        return Wanted(
            kind=kind,
            subject=subject,
            targets=self.text("targets"),
            name=self.text("name"),
            waves=self.rules(),
            concurrency=self.text("concurrency"),
            budget=self.text("budget"),
            is_strict="is_strict" in self.posted,
            steps_before=self.documents("before"),
            steps_after=self.documents("after"),
            probes=self.documents("probe"),
            starts_at=self._moment("starts_at"),
            ends_by=self._moment("ends_by"),
            cutoff_minutes=self._minutes("cutoff_minutes"),
            evidence_minutes=self._minutes("evidence_minutes"),
            tolerance=self.text("tolerance"),
            reason=self.text("reason"),
        )

    def _moment(self, name: str) -> datetime | None:
        text = self.text(name).strip()
        if not text:
            return None
        try:
            return datetime.strptime(text[:16], _MINUTES).replace(tzinfo=UTC)
        except ValueError:
            raise FieldError(name, "Write a moment as 2026-11-30T18:00, in UTC.") from None

    def _minutes(self, name: str) -> int:
        text = self.text(name).strip() or DEFAULTS[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 6):
            raise FieldError(name, "Write a whole number of minutes.")
        return int(text)


def parameters_in(text: str, what: str) -> dict[str, list[str]]:
    """A document's parameters, written as `name: value` a line, or as JSON. Raises UserError."""
    text = text.strip()
    if not text:
        return {}
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"{what}: its parameters are no JSON.") from None
        return {
            str(name): [each if isinstance(each, str) else json.dumps(each) for each in _listed(value)]
            for name, value in found.items()
        }
    made: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, sign, value = line.partition(":")
        if not sign or not name.strip():
            raise UserError(f"{what}: write its parameters as name: value, one a line, or as JSON.")
        made.setdefault(name.strip(), []).append(value.strip())
    return made


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _count(text: str) -> int:
    return min(int(text), MOST_ROWS) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def _part(name: str) -> tuple[str, str]:
    """("w", "soak") of w3_soak; ("", "") of an input that has no number."""
    first, sign, rest = name.partition("_")
    stem = first.rstrip("0123456789")
    return (stem, rest) if sign and stem != first and stem in {"w", *_EXTRAS} else ("", "")


class ClusterRuleForm(forms.Form):
    """How many members of a cluster may be out of service at once."""

    tag = forms.CharField(max_length=128)
    values = forms.CharField(max_length=256, required=False)
    most_out = forms.IntegerField()
    enabled = forms.BooleanField(required=False)

    def clean_tag(self) -> str:
        return _one_line(self.cleaned_data["tag"])

    def clean_values(self) -> str:
        return _one_line(self.cleaned_data["values"]) or "*"

    def clean_most_out(self) -> int:
        found = self.cleaned_data["most_out"]
        if not 1 <= found <= 1000:
            raise forms.ValidationError("At least 1 member may be out, else nothing ever goes; at most 1,000.")
        return int(found)


def _one_line(text: str) -> str:
    if any(not each.isprintable() for each in text):
        raise forms.ValidationError("It has a character in it that does not show.")
    return text.strip()
