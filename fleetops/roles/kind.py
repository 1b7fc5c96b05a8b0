"""The kind `roles`: an instance profile attached, replaced or detached on many instances, in waves.

Nothing is sent to an instance: its attachment is written down when it goes, and the loop of leases brings AWS there. A
target is done when AWS shows what was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from fleetops.audit.models import Outcome
from fleetops.audit.record import record
from fleetops.aws import profiles
from fleetops.aws.errors import AwsError
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.inventory.models import Account, Instance, InstanceQuerySet
from fleetops.policy.decide import Context, Deed
from fleetops.rollouts.kinds import Call, Fitness, Preparation, Proof, Verdict
from fleetops.rollouts.models import Run, RunTarget, Wave
from fleetops.rollouts.states import Readiness

from . import decide, rules, services
from .models import ATTACH_PERMISSION, EndsWith, RoleAttachment
from .services import LONGEST_MINUTES, SESSION_NAME, Wish
from .states import AttachmentState

logger = logging.getLogger(__name__)

NAME: Final = "roles"
ATTACH, DETACH = "attach", "detach"
MINUTES: Final = 0.5  # until AWS shows it
S = AttachmentState


class RolesKind:
    """See kinds.RunKind. The subject: {deed, profile_name, minutes}; minutes 0: for good."""

    name = NAME
    label = "Attach or detach a role"
    deed = Deed.ATTACH_ROLE.value
    url_name = "roles:new_run"
    needs_agent = False
    carries_out = True

    def check(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        deed = str(subject.get("deed") or ATTACH)
        if deed not in {ATTACH, DETACH}:
            raise FieldError("deed", "Choose attach or detach.")
        profile = str(subject.get("profile_name") or "").strip()
        if deed == ATTACH and not profile:
            raise FieldError("profile_name", "Name the instance profile that is to be attached.")
        if deed == ATTACH and (len(profile) > 128 or not profile.isascii() or "/" in profile or ":" in profile):
            raise FieldError("profile_name", "Give its name alone, the same in every account: fleetops-ssm-core.")
        try:
            minutes = int(subject.get("minutes") or 0)
        except (TypeError, ValueError, OverflowError):
            raise FieldError("minutes", "The minutes are a number; 0 attaches it for good.") from None
        if not 0 <= minutes <= LONGEST_MINUTES:
            raise FieldError("minutes", f"From 0, for good, to {LONGEST_MINUTES:,} minutes.")
        if deed == DETACH and (profile or minutes):
            profile, minutes = "", 0
        if deed == DETACH and subject.get("cut_off_accepted") not in (True, "1", "on", "true"):
            raise FieldError(
                "cut_off_accepted",
                "Instances without a role lose their agent's connection: it sleeps 25 to 30 minutes between two tries. "
                "Say that this is meant.",
            )
        named = f"{profile} attached" if deed == ATTACH else "Role detached"
        return {
            "document": f"{named} for {minutes} min" if minutes else named,
            "deed": deed,
            "profile_name": profile,
            "minutes": minutes,
            "cut_off_accepted": deed == DETACH,
        }

    def narrow(self, subject: Mapping[str, Any], instances: InstanceQuerySet) -> InstanceQuerySet:
        return instances

    def fitness(self, run: Run, instances: Sequence[Instance]) -> list[Fitness]:
        read = rules.enabled()
        return [self._fitness(run, each, read) for each in instances]

    def _fitness(self, run: Run, instance: Instance, read: rules.Read) -> Fitness:
        if instance.is_hybrid:
            return Fitness("A node outside EC2 has no instance profile.")
        subject, found = run.subject, rules.of(instance, read)
        if subject["deed"] == DETACH:
            if must := [rule for rule in found if rule.is_must]:
                return Fitness(f"Rule “{must[0].name}” says that it must have {must[0].profile}.")
            return Fitness("It has no role.") if not instance.profile_arn else Fitness(minutes=MINUTES)
        minutes = subject["minutes"] or None
        granting = decide.granting(found, subject["profile_name"], minutes=minutes)
        if granting is None:
            return Fitness(f"No rule lets it have {subject['profile_name']} for so long.")
        if granting.approvals:
            return Fitness(f"Rule “{granting.name}” wants approvals for each: ask for a lease of it alone.")
        if minutes is None and instance.profile_name == subject["profile_name"]:
            return Fitness("It has this role.")
        return Fitness(minutes=MINUTES)

    def check_waves(self, run: Run, waves: Sequence[Sequence[Instance]]) -> list[str]:
        if run.subject["deed"] != DETACH:
            return []
        online = sum(each.ping_status == "Online" for wave in waves for each in wave)
        return [f"{online:,} of them are online now and will lose their connection within six hours."] if online else []

    def prepares(self, run: Run, position: int) -> bool:
        return position == 1 and run.subject["deed"] == ATTACH

    def prepare(self, run: Run, wave: Wave) -> Preparation:
        """Find the profile in each account: a run that could not attach it anywhere does not begin."""
        found: dict[str, str] = {}
        for account in Account.objects.filter(pk__in=run.targets.values("account")).order_by("account_id"):
            region = account.regions.filter(pk__in=run.targets.values("region")).first()
            name, where = run.subject["profile_name"], account.account_id
            try:
                profile = profiles.profile(account.access(), region.name, name, session_name=SESSION_NAME)
            except AwsError as error:
                if error.code == "NoSuchEntity":
                    words = f"Account {where} has no instance profile {name}; create it under IAM roles, and retry."
                    return Preparation(Readiness.FAILED, words)
                return Preparation(Readiness.OPEN, f"AWS did not tell of {name} in {where}: {error}")
            if len(profile.role_names) != 1:
                return Preparation(
                    Readiness.FAILED, f"The instance profile {name} of {where} has not exactly one role."
                )
            found[where] = profile.arn
        return Preparation(Readiness.READY, facts={"profiles": found})

    def call_for(self, run: Run, target: RunTarget) -> Call:
        raise UserError("Roles are attached by AWS's API; nothing is sent to the instance.")

    def carry_out(self, run: Run, targets: Sequence[RunTarget]) -> dict[Any, str]:
        subject, read = run.subject, rules.enabled()
        minutes = subject["minutes"] or None
        actor = run.actor
        refused: dict[Any, str] = {}
        for target in targets:
            instance = target.instance_row
            if actor is None or instance is None:
                refused[target.pk] = "Who asked for it, or the instance, is gone."
                continue
            if not actor.has_perm(ATTACH_PERMISSION):
                why = "may not attach roles"
                record("roles.ask.refuse", actor=actor, target=instance, outcome=Outcome.DENIED, reason=why)
                refused[target.pk] = "Who asked for the run may not attach roles."
                continue
            arn = run.preparation.get("profiles", {}).get(instance.account.account_id, "")
            if subject["deed"] == ATTACH and not arn:
                refused[target.pk] = "Its account was not looked at when the run began."
                continue
            wish = Wish(arn, minutes, EndsWith.TIME)
            try:
                found = services.plan(
                    instance, wish, actor=actor, reason=run.reason, read=read, context=_context(run, now())
                )
                if found.approvals:
                    raise Denied(f"Rule “{found.rule.name if found.rule else ''}” wants approvals by now.")
                services.write(instance, wish, found, actor=actor, reason=run.reason, run=run)
            except Denied as denied:
                # A denial stands in the transaction in which the target fails.
                record(
                    "roles.ask.refuse", actor=actor, target=instance, outcome=Outcome.DENIED, reason=str(denied)[:1000]
                )
                refused[target.pk] = str(denied)
            except UserError as error:
                refused[target.pk] = str(error)
        return refused

    def judge(self, run: Run, targets: Sequence[RunTarget]) -> list[Verdict]:
        rows = RoleAttachment.objects.filter(run=run, instance__in=[each.instance_row_id for each in targets])
        latest = {row.instance_id: row for row in rows.order_by("id")}
        return [_verdict(latest.get(each.instance_row_id)) for each in targets]

    def finished(self, run: Run) -> None:
        """Nothing is left to do: leases end by themselves."""


def _verdict(attachment: RoleAttachment | None) -> Verdict:
    if attachment is None:
        return Verdict(Proof.BAD, "Its attachment is gone, and nobody can tell how it ended.")
    facts = {"attachment": str(attachment.pk), "state": attachment.state}
    if attachment.applied_at is not None:
        return Verdict(Proof.GOOD, facts=facts)
    if attachment.state in {S.PENDING, S.ASKED}:
        return Verdict(Proof.WAITING, attachment.words or "AWS does not show it yet.", facts)
    return Verdict(Proof.BAD, attachment.words or f"It is {attachment.get_state_display().lower()}.", facts)


def _context(run: Run, at: datetime) -> Context:
    """The circumstances in which the run was asked for, now."""
    return Context(at, run.source_address or "", run.mfa_at.timestamp() if run.mfa_at else None, run.reason)
