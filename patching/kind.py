"""The kind `patch`: AWS-RunPatchBaseline in waves, each node judged by its own report."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleetops.aws.errors import AwsError
from fleetops.aws.patch_reports import MOST_SUMMARIES, PatchSummary, summaries
from fleetops.errors import FieldError, UserError
from fleetops.inventory.models import Instance, InstanceQuerySet
from fleetops.inventory.readiness import Status, status_of
from fleetops.library.models import Document
from fleetops.policy.decide import Deed
from fleetops.rollouts.kinds import Call, Fitness, Preparation, Proof, Verdict
from fleetops.rollouts.models import Run, RunTarget, Wave

from . import pinning, verdict
from .compliance import reading
from .compliance.models import Standing
from .emergency.models import EmergencyTarget
from .verdict import IF_NEEDED, INSTALL, NO_REBOOT, SCAN, Asked, Told, Word

logger = logging.getLogger(__name__)

NAME: Final = "patch"
DOCUMENT: Final = "AWS-RunPatchBaseline"
UNKNOWN: Final = f"No document {DOCUMENT} is known in its account and region. A new one's are read within minutes."
# As whom a report is asked for; the command itself goes as the person.
SESSION_NAME: Final = "fleetops-patching"
# Expected minutes: of a scan, of an installation without and with a restart, of each missing patch.
SCAN_MINUTES, INSTALL_MINUTES, RESTART_MINUTES, PATCH_MINUTES = 1.5, 3.0, 3.0, 0.05
_PROOFS: Final = {
    Word.WAITING: Proof.WAITING,
    Word.BACK: Proof.REBOOTED,
    Word.GOOD: Proof.GOOD,
    Word.BAD: Proof.BAD,
}


class PatchKind:
    """See kinds.RunKind. The subject: {operation, reboot_option, snapshot_id, override_list, lists, pin, emergency,
    fix}.

    `lists` has the address of a list by account and region ("111122223333/eu-west-1"). A run that is a part of an
    emergency is about the nodes that were chosen there for one of its lists, `fix`. For `pin` see pinning.py.
    """

    name = NAME
    label = "Patch"
    deed = Deed.PATCH.value
    url_name = "patching:new_run"
    needs_agent = True
    carries_out = False

    def check(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        operation = str(subject.get("operation") or "")
        if operation not in {SCAN, INSTALL}:
            raise FieldError("operation", "Choose Scan, which changes nothing, or Install.")
        option = str(subject.get("reboot_option") or IF_NEEDED)
        if option not in {IF_NEEDED, NO_REBOOT}:
            raise FieldError("reboot_option", f"Choose {IF_NEEDED} or {NO_REBOOT}.")
        address = _address(subject.get("override_list"))
        if address and operation == SCAN:
            raise FieldError("override_list", "A scan takes no list: AWS ignores it. Leave it empty, or install.")
        listed = _lists(subject.get("lists") or {}, operation)
        pin = subject.get("pin") in (True, "1", "on", "true")
        if pin and operation == SCAN:
            raise FieldError("pin", "A scan installs nothing that could be pinned; leave it out, or install.")
        if pin and (address or listed):
            raise FieldError("pin", "All waves install the list that you name; there is nothing to pin. Choose one.")
        return {
            "document": DOCUMENT,
            "operation": operation,
            "reboot_option": option if operation == INSTALL else "",
            "override_list": address,
            "lists": listed,
            "pin": pin,
            **_emergency(subject),
            # Outside a maintenance window, or each node would have a snapshot of its own. Always a new one: what a run
            # that is planned again has reported would prove this one, too.
            "snapshot_id": str(uuid.uuid4()),
        }

    def narrow(self, subject: Mapping[str, Any], instances: InstanceQuerySet) -> InstanceQuerySet:
        if not subject.get("emergency"):
            return instances
        chosen = EmergencyTarget.objects.filter(emergency=subject["emergency"], fix=subject["fix"], is_chosen=True)
        return instances.filter(pk__in=chosen.values("instance"))

    def fitness(self, run: Run, instances: Sequence[Instance]) -> list[Fitness]:
        is_install = run.subject["operation"] == INSTALL
        reboots = is_install and run.subject["reboot_option"] != NO_REBOOT
        missing: dict[Any, int] = {}
        if is_install:
            rows = Standing.objects.filter(instance__in=[each.pk for each in instances]).order_by()
            missing = dict(rows.values_list("instance", "report__missing"))
        there = set(Document.objects.runnable().filter(name=DOCUMENT).values_list("account", "region"))
        found = []
        for each in instances:
            if (each.account_id, each.region_id) not in there:
                found.append(Fitness(UNKNOWN))
                continue
            minutes = SCAN_MINUTES
            if is_install:
                minutes = (
                    INSTALL_MINUTES + PATCH_MINUTES * missing.get(each.pk, 0) + (RESTART_MINUTES if reboots else 0)
                )
            found.append(Fitness(minutes=minutes, reboots=reboots))
        return found

    def check_waves(self, run: Run, waves: Sequence[Sequence[Instance]]) -> list[str]:
        return pinning.check_waves(run, waves) if pinning.is_wanted(run) else []

    def prepares(self, run: Run, position: int) -> bool:
        return pinning.is_wanted(run) and position > 1

    def prepare(self, run: Run, wave: Wave) -> Preparation:
        return pinning.prepare(run, wave)

    def call_for(self, run: Run, target: RunTarget) -> Call:
        subject = run.subject
        parameters: dict[str, tuple[str, ...]] = {
            "Operation": (subject["operation"],),
            "SnapshotId": (subject["snapshot_id"],),
        }
        if subject["operation"] == INSTALL:
            parameters["RebootOption"] = (subject["reboot_option"],)
            if pinning.is_wanted(run):
                if address := pinning.list_for(run, target):
                    parameters["InstallOverrideList"] = (address,)
            elif address := subject.get("lists", {}).get(_place(target)) or subject["override_list"]:
                parameters["InstallOverrideList"] = (address,)
            elif subject.get("lists"):
                raise UserError("No list of patches lies where this node could read it; it would install everything.")
        return Call(DOCUMENT, parameters)

    def carry_out(self, run: Run, targets: Sequence[RunTarget]) -> dict[Any, str]:
        raise NotImplementedError("it sends commands")

    def judge(self, run: Run, targets: Sequence[RunTarget]) -> list[Verdict]:
        """A call for each 50 targets of a region; what it tells is kept as any report that is read.

        A region that does not answer holds up its own targets alone.
        """
        places: dict[Any, list[RunTarget]] = defaultdict(list)
        for each in targets:
            places[each.account_id, each.region_id].append(each)
        verdicts: dict[Any, Verdict] = {}
        for rows in places.values():
            try:
                told = self._told(rows)
            except AwsError as error:
                logger.warning("region does not tell of patches run=%s code=%s", run.pk, error.code)
                verdicts |= {each.pk: Verdict(Proof.WAITING, f"AWS did not tell: {error}"[:512]) for each in rows}
            else:
                verdicts |= {each.pk: self._verdict(run, each, told.get(each.pk)) for each in rows}
        return [verdicts[each.pk] for each in targets]

    def _told(self, rows: Sequence[RunTarget]) -> dict[Any, PatchSummary]:
        """By target, of one region, what its node last reported. Raises AwsError."""
        account, region = rows[0].account, rows[0].region
        told: dict[Any, PatchSummary] = {}
        for start in range(0, len(rows), MOST_SUMMARIES):
            some = {each.instance_id: each for each in rows[start : start + MOST_SUMMARIES]}
            found = summaries(account.access(), region.name, instance_ids=list(some), session_name=SESSION_NAME)
            told |= {some[each.instance_id].pk: each for each in found if each.instance_id in some}
            known = [(some[each.instance_id].instance_row, each) for each in found if each.instance_id in some]
            reading.keep_summaries([(row, each) for row, each in known if row is not None])
        return told

    def _verdict(self, run: Run, target: RunTarget, summary: PatchSummary | None) -> Verdict:
        subject = run.subject
        sent_at = target.sent_at or target.went_at or run.started_at
        if sent_at is None:
            return Verdict(Proof.WAITING, "It is not known when it was sent.")
        asked = Asked(
            subject["operation"],
            subject["reboot_option"],
            subject["snapshot_id"],
            sent_at,
            is_again=target.attempt > 1,
            has_list=bool(subject["override_list"] or subject.get("lists") or _is_pinned(run, target)),
        )
        told = None
        facts: dict[str, Any] = {}
        if summary is not None and summary.ended_at is not None:
            told = Told(
                summary.operation,
                summary.snapshot_id,
                summary.ended_at,
                summary.missing,
                summary.failed,
                summary.pending_reboot,
            )
            facts = {
                "report": summary.operation,
                "reported_at": summary.ended_at.isoformat(),
                "baseline": summary.baseline_id,
                "installed": summary.installed,
                "missing": summary.missing,
                "failed": summary.failed,
                "pending_reboot": summary.pending_reboot,
            }
        instance = target.instance_row
        is_online = instance is not None and status_of(instance) is Status.ONLINE
        word, reason = verdict.prove(asked, told, is_online=is_online)
        return Verdict(_PROOFS[word], reason, facts)

    def finished(self, run: Run) -> None:
        """What its nodes report is read as everybody's is."""


def _is_pinned(run: Run, target: RunTarget) -> bool:
    try:
        return pinning.is_wanted(run) and bool(pinning.list_for(run, target))
    except UserError:
        return False


def _place(target: RunTarget) -> str:
    return f"{target.account.account_id}/{target.region.name}"


def _address(text: Any) -> str:
    address = str(text or "").strip()
    if address and not address.startswith(("https://", "s3://")):
        raise FieldError("override_list", "A list lies at an address that begins with s3:// or https://.")
    if len(address) > 256:
        raise FieldError("override_list", "The address of a list has at most 256 characters.")
    return address


def _lists(asked: Any, operation: str) -> dict[str, str]:
    if not isinstance(asked, Mapping):
        raise FieldError("lists", "Write the addresses of lists by account and region: 111122223333/eu-west-1.")
    if asked and operation == SCAN:
        raise FieldError("lists", "A scan takes no list: AWS ignores it. Leave it empty, or install.")
    return {str(place): _address(address) for place, address in asked.items()}


def _emergency(subject: Mapping[str, Any]) -> dict[str, str]:
    """Of which emergency a run is a part, and for which of its lists."""
    if not subject.get("emergency"):
        return {}
    try:
        emergency = str(uuid.UUID(str(subject["emergency"])))
    except ValueError:
        raise FieldError("emergency", "That is no emergency's id.") from None
    return {"emergency": emergency, "fix": str(subject.get("fix") or "")[:64]}
