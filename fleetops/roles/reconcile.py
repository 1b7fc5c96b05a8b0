"""Bring AWS to where the rows say it should be, however often, from wherever a crash has left it.

For each instance: write down what is about to be done (`intent`), do it by AWS's own compare-and-set (an association's
id, which changes with each replacement), and believe it once AWS shows it. What AWS shows that we neither left nor
meant is somebody else's: it is reported, and not touched.

Many holdings of one account and region are looked at by one call; no transaction is open while AWS is asked.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q

from fleetops.audit.record import record
from fleetops.aws import ec2, profiles
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.profiles import Association
from fleetops.clock import during, monotonic, now
from fleetops.notify.services import notify, resolve
from fleetops.transitions import LostRace, move

from . import decide, services
from .decide import Step, Want
from .models import Holding, Kind, RoleAttachment, RoleChange, RoleFinding
from .services import SESSION_NAME
from .states import ATTACHMENT_MOVES, FINDING_MOVES, HOLDS, AttachmentState, FindingState

logger = logging.getLogger(__name__)

TOPIC_FOUND: Final = "roles.found"
MOST_AT_ONCE: Final = 100  # holdings that one task takes: at 5 calls a second it is done within 20 s
CLAIM: Final = timedelta(seconds=120)  # real seconds; the task that holds it is killed before
LONGEST_SECONDS: Final = 60.0  # after which a task begins no further change; who is left is due again
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)  # between two tries
# AWS's codes for: somebody was quicker, or is just at it. It is read again.
_RACES: Final = frozenset(
    {"IncorrectState", "IncorrectInstanceState", "InvalidAssociationID.NotFound", "InvalidAssociationId.NotFound"}
)
_NO_INSTANCE: Final = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
_NO_PROFILE: Final = frozenset({"InvalidParameterValue", "NoSuchEntity", "InvalidInstanceProfile.NotFound"})
_OVER: Final = frozenset({"terminated", "shutting-down"})

S = AttachmentState


# --- what is due -----------------------------------------------------------------------------------------------------


def claim_due(*, at: datetime, most: int = 2000) -> list[tuple[str, str, list[str]]]:
    """Take what is due: (account key, region key, keys of instances) for each task, at most MOST_AT_ONCE to each.

    Whoever dies with a claim is followed by another once it has run out.
    """
    free = Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))
    due = Holding.objects.filter(free, due_at__lte=at).order_by("due_at")
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for instance, account, region in due.values_list("instance", "account", "region")[:most]:
        places[str(account), str(region)].append(str(instance))
    taken = []
    for (account, region), keys in places.items():
        for start in range(0, len(keys), MOST_AT_ONCE):
            chunk = keys[start : start + MOST_AT_ONCE]
            until = at + during(CLAIM)
            if Holding.objects.filter(free, pk__in=chunk).update(claimed_until=until):
                taken.append((account, region, chunk))
    return taken


def note_ends(*, at: datetime) -> int:
    """Have leases whose end has come end; how many there were. Their instances are due at once."""
    over = RoleAttachment.objects.filter(ends_at__lte=at, state__in=list(HOLDS)).select_related(
        "instance", "account", "region"
    )
    ended = 0
    for each in over.order_by("ends_at")[:1000]:
        try:
            with transaction.atomic():
                held = services.hold(each.instance)
                each.refresh_from_db()
                if each.state not in HOLDS or each.ends_at is None or each.ends_at > at:
                    continue  # extended just now
                due = at if each.kind == Kind.PRIVILEGE else None
                move(each, S.ENDING, ATTACHMENT_MOVES, due_at=due, words="Its time is over.")
                Holding.objects.filter(pk=held.pk).update(due_at=at)
                _record("roles.end", each, reason="its time is over")
            ended += 1
        except LostRace:
            continue
    return ended


def note_drift(*, at: datetime, most: int = 500) -> int:
    """Have those looked at of which the inventory tells something else than we believe; it costs no call.

    Only what EC2 told after our own look counts: what was read before may be what we have changed since.
    """
    idle = Q(due_at=None) | Q(due_at__gt=at)
    other = Holding.objects.filter(
        idle,
        believed__isnull=False,
        intent=None,
        failures=0,
        instance__gone_at=None,
        instance__ec2_read_at__gt=F("looked_at"),
    ).exclude(instance__profile_arn=F("believed"))
    reported = RoleFinding.objects.filter(state=FindingState.OPEN, rule=None)
    # Reported ones: looked at again when EC2 tells that what was found is there no more.
    found = list(other.exclude(instance__in=reported.values("instance")).values_list("pk", flat=True)[:most])
    found += list(
        other.filter(instance__in=reported.exclude(found=F("instance__profile_arn")).values("instance")).values_list(
            "pk", flat=True
        )[:most]
    )
    # A reported change that was undone: the inventory tells what we believe again.
    found += list(
        Holding.objects.filter(idle, instance__profile_arn=F("believed"), instance__ec2_read_at__gt=F("looked_at"))
        .filter(instance__in=reported.values("instance"))
        .values_list("pk", flat=True)[:most]
    )
    gone = Holding.objects.filter(
        instance__gone_at__isnull=False, instance__role_attachments__state__in=list(HOLDS | {S.ENDING})
    )
    found += list(gone.filter(idle).values_list("pk", flat=True)[:most])
    if not found:
        return 0
    return Holding.objects.filter(idle, pk__in=set(found)).update(due_at=at)


# --- one task --------------------------------------------------------------------------------------------------------


def bring(keys: Sequence[Any]) -> None:
    """Look at claimed holdings of one account and region, and take each as far as it goes now."""
    began = monotonic()
    rows = list(
        Holding.objects.filter(pk__in=list(keys))
        .select_related("instance__account", "instance__region", "account", "region")
        .order_by("due_at")
    )
    try:
        _bring(rows, began)
    finally:
        Holding.objects.filter(pk__in=[row.pk for row in rows]).update(claimed_until=None)


def _bring(rows: list[Holding], began: float) -> None:
    for row in [row for row in rows if _is_gone(row)]:
        _gone(row, "The instance is gone.")
    rows = [row for row in rows if not _is_gone(row)]
    if not rows:
        return
    found = _look(rows)
    if found is None:
        return
    changed = []
    terminated = _terminated(rows, found)
    for row in rows:
        if row.instance.instance_id in terminated:
            _gone(row, "The instance was terminated.")
            continue
        if monotonic() - began > LONGEST_SECONDS:
            break  # due as they are; the next task goes on
        if _step(row, found) is Step.CHANGE and _change(row, found):
            changed.append(row)
    if changed and (found := _look(changed)) is not None:
        for row in changed:
            _step(row, found)


def _is_gone(row: Holding) -> bool:
    return row.instance.gone_at is not None or row.instance.ec2_state in _OVER


def _look(rows: Sequence[Holding]) -> dict[str, Association] | None:
    """What AWS holds of each; None, with the reason in their rows, if it does not tell."""
    first = rows[0]
    try:
        return profiles.associations(
            first.account.access(),
            first.region.name,
            [row.instance.instance_id for row in rows],
            session_name=SESSION_NAME,
        )
    except AwsError as error:
        for row in rows:
            _later(row, str(error))
        return None


def _step(row: Holding, found: dict[str, Association]) -> Step:
    """Write down what AWS's answer means for one holding; what is left to do with it."""
    association = found.get(row.instance.instance_id)
    arn = association.profile_arn if association is not None else ""
    moment = now()
    with transaction.atomic():
        held = services.hold(row.instance)
        finding = RoleFinding.objects.filter(instance=held.pk, rule=None, state=FindingState.OPEN).first()
        if held.believed is None:  # the first look: what is there is what was there before us
            held.believed = arn
        if held.base is None:
            held.base = arn
        want = wanted(held, at=moment)
        step = decide.step(
            believed=held.believed, wanted=want, intent=held.intent, found=arn, is_reported=finding is not None
        )
        held.looked_at = moment
        if step is Step.CONFIRMED:
            _note_change(held, held.believed, arn, is_ours=True)
            held.believed, held.intent, held.failures, held.words = arn, None, 0, ""
            step = Step.SETTLED if arn == want else Step.CHANGE
        elif step is Step.ADOPTED:
            _note_change(held, held.believed, arn, is_ours=False)
            held.believed, held.intent = arn, None
            step = Step.SETTLED
        elif step is Step.FOREIGN:
            _report(held, arn, want, at=moment)
        elif step is Step.RETURNED and finding is not None:
            move(finding, FindingState.GONE, FINDING_MOVES, decided_at=moment, decided_by_name="AWS")
            resolve(TOPIC_FOUND, dedup_key=str(finding.pk))
            finding.found = arn
            services.settle_finding(held, finding, accepted=False, at=moment)
            step = Step.SETTLED if arn == want else Step.CHANGE
        elif step is Step.WAIT and finding is not None:
            _hold_up(held, finding, want, at=moment)
        if step is Step.SETTLED:
            held.intent, held.failures, held.words = None, 0, ""
            _settle(held, arn, at=moment)
        held.due_at = _next_due(held, at=moment) if step in {Step.SETTLED, Step.WAIT, Step.FOREIGN} else moment
        held.save()
    row.believed, row.intent, row.base, row.failures = held.believed, held.intent, held.base, held.failures
    return step


def wanted(held: Holding, *, at: datetime) -> str:
    """The profile that the instance should have now."""
    leases = RoleAttachment.objects.holding(at).filter(
        instance=held.pk, kind=Kind.PROFILE, minutes__isnull=False, ends_at__isnull=False
    )
    return decide.wanted(
        held.base or "",
        [Want(*facts) for facts in leases.values_list("profile_arn", "asked_at", "ends_at")],
        at=at,
    )


def _next_due(held: Holding, *, at: datetime) -> datetime | None:
    """The next end of a lease, at which something is to be done."""
    ends = RoleAttachment.objects.holding(at).filter(instance=held.pk, kind=Kind.PROFILE, ends_at__isnull=False)
    return ends.order_by("ends_at").values_list("ends_at", flat=True).first()


def _settle(held: Holding, arn: str, *, at: datetime) -> None:
    """AWS holds what it should: say so of the attachments."""
    rows = RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE, state__in=[S.PENDING, S.ENDING])
    for each in rows.select_related("instance", "account", "region", "asked_by"):
        if each.state == S.ENDING:
            move(each, S.ENDED, ATTACHMENT_MOVES, ended_at=at)
            _record("roles.ended", each, now_there=arn.rpartition("/")[2])
        elif each.profile_arn != arn:  # permanent, and a lease stands over it
            RoleAttachment.objects.filter(pk=each.pk).update(words="Put there when the lease that stands has ended.")
        elif each.minutes is None and not arn:  # a detachment is done
            move(each, S.ENDED, ATTACHMENT_MOVES, applied_at=at, ended_at=at, words="")
            _record("roles.ended", each, now_there="")
        else:
            move(each, S.ACTIVE, ATTACHMENT_MOVES, applied_at=at, words="")
            _record("roles.applied", each)


# --- changing --------------------------------------------------------------------------------------------------------


def _change(row: Holding, found: dict[str, Association]) -> bool:
    """Bring one instance to what is wanted now; whether AWS took it. The intent is written down first."""
    association = found.get(row.instance.instance_id)
    moment = now()
    with transaction.atomic():
        held = services.hold(row.instance)
        target = wanted(held, at=moment)
        held.intent, held.intent_at = target, moment
        held.save(update_fields=["intent", "intent_at"])
    row.intent = target
    access, region = row.account.access(), row.region.name
    asked = {"session_name": SESSION_NAME}
    try:
        if association is None and target:
            profiles.associate(access, region, instance_id=row.instance.instance_id, profile_arn=target, **asked)
        elif association is not None and target:
            if association.profile_arn != target:
                profiles.replace(access, region, association_id=association.association_id, profile_arn=target, **asked)
        elif association is not None:
            profiles.disassociate(access, region, association_id=association.association_id, **asked)
    except AwsError as error:
        _not_changed(row, target, error)
        return False
    logger.info(
        "profile changed instance=%s before=%s after=%s",
        row.instance.instance_id,
        association.profile_arn if association else "",
        target,
    )
    return True


def _not_changed(row: Holding, target: str, error: AwsError) -> None:
    logger.warning("profile not changed instance=%s code=%s", row.instance.instance_id, error.code)
    if error.code in _NO_INSTANCE:
        _gone(row, "The instance is gone.")
    elif error.code in _RACES:
        _later(row, "Somebody else is changing it; it is read again.", counts=False)
    elif error.code in _NO_PROFILE and not isinstance(error, Unavailable | AccessDenied):
        _impossible(row, target, str(error))
    else:
        # Not carried out, or it is not known: the intent stays, and the next look tells.
        _later(row, str(error))


def _impossible(row: Holding, target: str, why: str) -> None:
    """AWS will never take it: there is no such profile. Who wanted it is told; what should be put back cannot be."""
    moment = now()
    with transaction.atomic():
        held = services.hold(row.instance)
        waiting = RoleAttachment.objects.filter(
            instance=held.pk, kind=Kind.PROFILE, profile_arn=target, state__in=[S.PENDING, S.ACTIVE]
        )
        for each in waiting.select_related("instance", "account", "region"):
            move(
                each,
                S.FAILED if each.state == S.PENDING else S.ENDED,
                ATTACHMENT_MOVES,
                ended_at=moment,
                words=why[:512],
            )
            _record("roles.ended", each, reason=why)
        if held.base == target:
            # The lease ends all the same: better no role than one whose time is over.
            held.base = held.believed if not _has_ending(held) else ""
        held.intent, held.words = None, why[:512]
        held.failures += 1
        held.due_at = moment + _pause(held.failures)
        held.save()


def _has_ending(held: Holding) -> bool:
    return RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE, state=S.ENDING).exists()


def _later(row: Holding, why: str, *, counts: bool = True) -> None:
    """Try again, later each time."""
    moment = now()
    with transaction.atomic():
        held = services.hold(row.instance)
        held.failures += counts
        held.words = why[:512]
        held.due_at = moment + (_pause(held.failures) if counts else FIRST_PAUSE)
        held.save(update_fields=["failures", "words", "due_at"])
        RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE, state__in=[S.PENDING, S.ENDING]).update(
            words=why[:512]
        )


def _pause(failures: int) -> timedelta:
    """In moments of the clock: 5, 10, 20 … seconds, at most five minutes."""
    return min(FIRST_PAUSE * 2 ** max(0, min(failures, 8) - 1), LONGEST_PAUSE)


def _terminated(rows: Sequence[Holding], found: dict[str, Association]) -> set[str]:
    """Ids of those that suddenly have no profile since they are being terminated; none if EC2 does not tell."""
    bare = [row for row in rows if row.believed and row.instance.instance_id not in found and row.intent != ""]
    if not bare:
        return set()
    ids = [row.instance.instance_id for row in bare]
    try:
        told = ec2.instances(bare[0].account.access(), bare[0].region.name, ids, session_name=SESSION_NAME)
    except AwsError:
        return set()
    return set(ids) - {each.instance_id for each in told if each.state not in _OVER}


def _gone(row: Holding, why: str) -> None:
    """Nothing is left to do on an instance that is no more."""
    moment = now()
    with transaction.atomic():
        held = services.hold(row.instance)
        open_rows = RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE).open()
        for each in open_rows.select_related("instance", "account", "region"):
            to = {S.PENDING: S.FAILED, S.ASKED: S.CANCELLED}.get(S(each.state), S.ENDED)
            move(each, to, ATTACHMENT_MOVES, ended_at=moment, due_at=None, words=why)
            _record("roles.ended", each, reason=why)
        for finding in RoleFinding.objects.filter(instance=held.pk, state=FindingState.OPEN):
            move(finding, FindingState.GONE, FINDING_MOVES, decided_at=moment, decided_by_name="AWS")
            resolve(TOPIC_FOUND, dedup_key=str(finding.pk))
        held.intent, held.due_at, held.words = None, None, why
        held.save(update_fields=["intent", "due_at", "words"])


# --- what was changed outside ----------------------------------------------------------------------------------------


def _report(held: Holding, arn: str, want: str, *, at: datetime) -> None:
    """Somebody else has changed it: a person says what becomes of it."""
    finding = RoleFinding.objects.create(
        instance=held.instance, account=held.account, region=held.region, expected=want, found=arn, found_at=at
    )
    _note_change(held, held.believed or "", arn, is_ours=False)
    held.intent, held.words = None, f"{finding.found_name} was put there outside FleetOps."
    _hold_up(held, finding, want, at=at)
    record(
        "roles.finding.open",
        actor="worker",
        target=held.instance,
        finding=str(finding.pk),
        expected=finding.expected_name,
        found=finding.found_name,
    )
    notify(
        TOPIC_FOUND,
        dedup_key=str(finding.pk),
        title=f"{finding.found_name} instead of {finding.expected_name} on {held.instance}, not by FleetOps",
        url="/roles/",
        account_id=held.account.account_id,
        region=held.region.name,
    )


def _hold_up(held: Holding, finding: RoleFinding, want: str, *, at: datetime) -> None:
    """What a reported change means for attachments: those that end have ended, the others wait for a person."""
    rows = RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE, state__in=[S.PENDING, S.ACTIVE, S.ENDING])
    for each in rows.select_related("instance", "account", "region"):
        if each.state == S.ENDING:
            words = f"AWS held {finding.found_name} by then, put there by somebody else; it was left there."
            move(each, S.ENDED, ATTACHMENT_MOVES, ended_at=at, words=words)
            _record("roles.ended", each, reason=words)
        else:
            words = f"AWS holds {finding.found_name}, put there by somebody else: say what becomes of it."
            move(each, S.CONFLICT, ATTACHMENT_MOVES, words=words)
    if finding.expected != want:
        finding.expected = want
        finding.save(update_fields=["expected"])


def _note_change(held: Holding, before: str, after: str, *, is_ours: bool) -> None:
    attachment = None
    if is_ours:
        mine = RoleAttachment.objects.filter(instance=held.pk, kind=Kind.PROFILE)
        putting = mine.filter(profile_arn=after, state=S.PENDING).order_by("asked_at").first()
        attachment = putting or mine.filter(state=S.ENDING).order_by("-ends_at").first()
    by = (attachment.asked_by_name if attachment.state == S.PENDING else "FleetOps") if attachment else ""
    RoleChange.objects.create(
        instance=held.instance,
        before=before,
        after=after,
        is_ours=is_ours,
        by=by or ("FleetOps" if is_ours else ""),
        attachment=attachment,
    )


def _record(action: str, attachment: RoleAttachment, *, reason: str = "", **details: Any) -> None:
    record(
        action,
        actor="worker",
        target=attachment.instance,  # where a person looks for it
        reason=reason,
        attachment=str(attachment.pk),
        what=attachment.what,
        role=attachment.profile_name,
        **details,
    )


def each(rows: Iterable[Any], deed: Callable[[Any], None]) -> None:
    """Do it to each; one that fails by a bug holds up no other."""
    for row in rows:
        try:
            deed(row)
        except Exception:  # the outermost loop of a task; without it one row would hold up all that come after
            logger.exception("not settled row=%s", row.pk)
