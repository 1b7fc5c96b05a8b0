"""The kind `document`: any Command document that a person may run.

A target is done when its command has ended well; and, if that is wanted, when its agent has been heard of since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fleetops.errors import FieldError, UserError, in_field
from fleetops.inventory.readiness import Status, status_of
from fleetops.library.models import Document
from fleetops.policy.decide import Deed
from fleetops.runcommand.services import LONGEST_TIMEOUT, MOST_PARAMETER_BYTES, SHORTEST_TIMEOUT

from . import rules
from .kinds import Call, Fitness, Preparation, Proof, Verdict
from .states import Readiness

if TYPE_CHECKING:
    from fleetops.inventory.models import Instance, InstanceQuerySet

    from .models import Run, RunTarget, Wave

NAME: Final = "document"
MINUTES: Final = 2.0  # that a document is expected to take
MOST_MINUTES: Final = 48 * 60.0  # that AWS lets one run


class DocumentKind:
    """See kinds.RunKind. The subject: {document, version, parameters, timeout_seconds, wants_agent, minutes}."""

    name = NAME
    label = "Run a document"
    deed = Deed.RUN_DOCUMENT.value
    url_name = "rollouts:new"
    needs_agent = True
    carries_out = False

    def check(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        name = str(subject.get("document") or "").strip()
        if not name:
            raise FieldError("document", "Name the document that is to be run.")
        if not Document.objects.runnable().filter(name=name).exists():
            raise FieldError("document", f"There is no Command document {name} in any account and region.")
        version = str(subject.get("version") or "").strip()
        if version and not (version.isascii() and version.isdigit() and len(version) <= 8):
            raise FieldError("version", "A version is a number; leave it empty for the default of each region.")
        with in_field("parameters"):
            kept = rules.parameters(subject.get("parameters") or {}, name)
        if sum(len(text.encode()) for texts in kept.values() for text in texts) > MOST_PARAMETER_BYTES:
            raise FieldError("parameters", "The parameters have more than 64 KB together; put it into the document.")
        if any("\x00" in text for texts in kept.values() for text in texts):
            raise FieldError("parameters", "A parameter has a NUL character in it, which no document can take.")
        try:
            timeout = int(subject.get("timeout_seconds") or 3600)
            minutes = min(MOST_MINUTES, max(0.1, float(subject.get("minutes") or MINUTES)))
        except (TypeError, ValueError, OverflowError):
            raise UserError("The time-out and the expected minutes are numbers.") from None
        if not SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
            words = f"The time-out has to be {SHORTEST_TIMEOUT:,} to {LONGEST_TIMEOUT:,} seconds."
            raise FieldError("timeout_seconds", words)
        return {
            "document": name,
            "version": version,
            "parameters": kept,
            "timeout_seconds": timeout,
            "wants_agent": bool(subject.get("wants_agent")),
            "minutes": minutes,
        }

    def narrow(self, subject: Mapping[str, Any], instances: InstanceQuerySet) -> InstanceQuerySet:
        return instances

    def fitness(self, run: Run, instances: Sequence[Instance]) -> list[Fitness]:
        name = run.subject["document"]
        found = Document.objects.runnable().filter(name=name).only("account", "region", "platform_types")
        platforms = {(each.account_id, each.region_id): list(each.platform_types) for each in found}
        minutes = float(run.subject.get("minutes", MINUTES))
        return [self._fitness(each, platforms, name, minutes) for each in instances]

    def _fitness(
        self, instance: Instance, platforms: Mapping[tuple[Any, Any], list[str]], name: str, minutes: float
    ) -> Fitness:
        there = platforms.get((instance.account_id, instance.region_id))
        if there is None:
            return Fitness(f"There is no document {name} in its account and region.")
        if there and instance.platform_type and instance.platform_type not in there:
            return Fitness(f"It runs {instance.platform_type}; the document is for {' and '.join(there)}.")
        return Fitness(minutes=minutes)

    def check_waves(self, run: Run, waves: Sequence[Sequence[Instance]]) -> list[str]:
        return []

    def prepares(self, run: Run, position: int) -> bool:
        return False

    def prepare(self, run: Run, wave: Wave) -> Preparation:
        return Preparation(Readiness.READY)

    def call_for(self, run: Run, target: RunTarget) -> Call:
        subject = run.subject
        return Call(
            document_name=subject["document"],
            document_version=subject.get("version", ""),
            parameters={name: tuple(texts) for name, texts in subject.get("parameters", {}).items()},
            timeout_seconds=int(subject.get("timeout_seconds", 3600)),
        )

    def carry_out(self, run: Run, targets: Sequence[RunTarget]) -> dict[Any, str]:
        raise NotImplementedError("it sends commands")

    def judge(self, run: Run, targets: Sequence[RunTarget]) -> list[Verdict]:
        return [self._judge(run, target) for target in targets]

    def _judge(self, run: Run, target: RunTarget) -> Verdict:
        invocation, instance = target.invocation, target.instance_row
        if invocation is None:
            return Verdict(Proof.BAD, "Its command is gone, and nobody can tell how it ended.")
        facts = {"exit_code": invocation.exit_code, "command": str(invocation.command_id)}
        if not run.subject.get("wants_agent"):
            return Verdict(Proof.GOOD, facts=facts)
        since = invocation.ended_at or target.ran_at
        if instance is None or since is None:
            return Verdict(Proof.WAITING, "Its agent has not been heard of since the command.", facts)
        heard = instance.last_ping_at
        if status_of(instance) is Status.ONLINE and heard is not None and heard > since:
            return Verdict(Proof.GOOD, facts={**facts, "agent_at": heard.isoformat()})
        return Verdict(Proof.WAITING, "Its agent has not been heard of since the command.", facts)

    def finished(self, run: Run) -> None:
        """Nothing is left to do."""
