"""The mirror of IAM: what is due is claimed, read, and asked about what SSM needs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from fleetops.aws import iam, role_list
from fleetops.aws.errors import AwsError
from fleetops.aws.regions import home_of
from fleetops.aws.role_list import ProfileRecord, RoleRecord
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Account

from . import words
from .models import Profile, Reading, Role

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-roles"
CLAIM: Final = timedelta(seconds=150)  # real seconds; the task that holds it is killed before
TEXT_AGE: Final = timedelta(days=1)  # after which AWS's own policies are read again
MOST_SIMULATED: Final = 100  # roles that one reading asks IAM about; the next goes on
_FACTS: Final = ("name", "trust", "policies", "boundary_arn", "tags", "digest", "read_at")


def region_of(account: Account) -> str:
    """Where IAM of the account is called: it is the same in all its regions."""
    first = account.regions.order_by("pk").values_list("name", flat=True).first()
    return home_of(first or "us-east-1")


# --- reading ---------------------------------------------------------------------------------------------------------


def claim_due(*, at: datetime) -> list[int]:
    """Take the accounts whose IAM is due, for a worker each; another call does not take them again."""
    on = Account.objects.filter(enabled=True)
    Reading.objects.bulk_create([Reading(account=each) for each in on.filter(role_reading=None)], ignore_conflicts=True)
    due = (
        Q(read_at=None) | Q(read_at__lte=at - timedelta(seconds=settings.ROLES_SECONDS)) | Q(asked_at__gt=F("read_at"))
    )
    free = Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))
    taken = []
    for pk in Reading.objects.filter(due, free, account__in=on).values_list("pk", flat=True):
        if Reading.objects.filter(free, pk=pk).update(claimed_until=at + during(CLAIM)):
            taken.append(pk)
    return taken


def ask_again(account: Account, *, at: datetime) -> None:
    """Have the account read at once: something was changed, or somebody wants to see it."""
    Reading.objects.get_or_create(account=account)
    Reading.objects.filter(account=account).update(asked_at=at)


def read(reading_id: int, *, at: datetime) -> None:
    """Read IAM of one claimed account into our rows; what is there no more goes."""
    reading = Reading.objects.select_related("account").get(pk=reading_id)
    account = reading.account
    access, region = account.access(), region_of(account)
    try:
        found = role_list.roles(access, region, session_name=SESSION_NAME)
        held = role_list.profiles(access, region, session_name=SESSION_NAME)
        in_profiles = {each.role_arn for each in held}
        found = [each for each in found if each.arn in in_profiles or words.trusts_ec2(each.trust)]
        texts = _aws_texts(reading, found, region, at=at)
    except AwsError as error:
        fail(reading_id, str(error))
        return
    with transaction.atomic():
        _write(account, found, held, texts, at=at)
        Reading.objects.filter(pk=reading_id).update(read_at=at, error="", texts=texts)
    _simulate(account, region)
    Reading.objects.filter(pk=reading_id).update(claimed_until=None)
    logger.info("roles read account=%s roles=%d profiles=%d", account.account_id, len(found), len(held))


def fail(reading_id: int, error: str) -> None:
    """Write down why a reading failed. It is tried again after a minute."""
    later = clock_now() + timedelta(seconds=60)
    Reading.objects.filter(pk=reading_id).update(claimed_until=later, error=error[:512])
    logger.warning("roles not read reading=%s error=%s", reading_id, error)


def _aws_texts(
    reading: Reading, found: Sequence[RoleRecord], region: str, *, at: datetime
) -> dict[str, dict[str, str]]:
    """The texts of AWS's own policies that are in use; IAM is asked for each once a day. Raises AwsError."""
    texts = {}
    for arn in sorted({each.arn for role in found for each in role.policies if each.arn and not each.text}):
        known = reading.texts.get(arn)
        if known is None or not timedelta() <= at - datetime.fromisoformat(known["read_at"]) < TEXT_AGE:
            text = role_list.policy_text(reading.account.access(), region, arn, session_name=SESSION_NAME)
            known = {"text": text, "read_at": at.isoformat()}
        texts[arn] = known
    return texts


def _write(
    account: Account,
    found: Sequence[RoleRecord],
    held: Sequence[ProfileRecord],
    texts: Mapping[str, Mapping[str, str]],
    *,
    at: datetime,
) -> None:
    rows = {row.arn: row for row in Role.objects.filter(account=account)}
    for each in found:
        row = rows.get(each.arn) or Role(account=account, arn=each.arn)
        row.name, row.trust, row.boundary_arn, row.tags = each.name, each.trust, each.boundary_arn, dict(each.tags)
        row.policies = [
            {"name": one.name, "arn": one.arn, "text": one.text or texts.get(one.arn, {}).get("text", "")}
            for one in each.policies
        ]
        row.digest, row.read_at = digest(row.policies, each.boundary_arn), at
        row.allows = _allows(row)
        rows[each.arn] = row
    fresh = {each.arn for each in found}
    Role.objects.filter(account=account).exclude(arn__in=fresh).delete()
    Role.objects.bulk_create([rows[arn] for arn in fresh if rows[arn]._state.adding], batch_size=200)
    Role.objects.bulk_update([rows[arn] for arn in fresh], [*_FACTS, "allows"], batch_size=200)
    of = dict(Role.objects.filter(account=account).values_list("arn", "pk"))
    Profile.objects.filter(account=account).exclude(arn__in=[each.arn for each in held]).delete()
    Profile.objects.bulk_create(
        [
            Profile(account=account, arn=each.arn, name=each.name, role_id=of.get(each.role_arn), read_at=at)
            for each in held
        ],
        update_conflicts=True,
        unique_fields=["account", "arn"],
        update_fields=["name", "role", "read_at"],
        batch_size=200,
    )


def digest(policies: Sequence[Mapping[str, str]], boundary_arn: str) -> str:
    """Of what a role may do: IAM is asked again once this is another."""
    return hashlib.sha256(json.dumps([list(policies), boundary_arn], sort_keys=True).encode()).hexdigest()


def _allows(row: Role) -> str:
    return words.allows(row.policies, row.lacks if row.is_simulated else None)[:256]


# --- what SSM needs --------------------------------------------------------------------------------------------------


def _simulate(account: Account, region: str) -> None:
    """Ask IAM what roles with new policies allow of what SSM needs; one call a role, and none for the others."""
    due = (
        Role.objects.filter(account=account)
        .exclude(simulated=F("digest"))
        .order_by(Coalesce("simulated_at", "read_at"))
    )
    for row in due[:MOST_SIMULATED]:
        try:
            verdicts = iam.simulate(
                account.access(),
                region,
                principal_arn=row.arn,
                actions=words.CORE_ACTIONS,
                resources=["*"],
                session_name=SESSION_NAME,
            )
        except AwsError as error:
            Role.objects.filter(pk=row.pk).update(simulation_error=str(error)[:512], simulated_at=clock_now())
            logger.warning("role not simulated role=%s code=%s", row.arn, error.code)
            if not error.code.startswith("NoSuch"):
                return  # the others would be refused, or held up, as well; the next reading asks again
            continue
        row.lacks = sorted({each.action for each in verdicts if not each.is_allowed})
        row.simulated, row.simulated_at, row.simulation_error = row.digest, clock_now(), ""
        row.allows = _allows(row)
        row.save(update_fields=["lacks", "simulated", "simulated_at", "simulation_error", "allows"])


# --- the standard role as it was read --------------------------------------------------------------------------------


def differences(row: Role) -> list[words.Difference]:
    """How a role of the standard's name differs from it, as it was last read; nothing for another role."""
    if row.name != words.STANDARD:
        return []
    return words.differences(row.trust, row.policies, row.boundary_arn, row.arn.split(":")[1])


def standing(account_ids: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """Of each enabled account how its standard role stands. Four queries."""
    accounts = Account.objects.filter(enabled=True)
    if account_ids is not None:
        accounts = accounts.filter(pk__in=account_ids)
    accounts = accounts.select_related("role_reading", "standard_role")
    roles = {row.account_id: row for row in Role.objects.filter(name=words.STANDARD).prefetch_related("profiles")}
    profiles = {row.account_id: row for row in Profile.objects.filter(name=words.STANDARD).select_related("role")}
    told = []
    for account in accounts:
        role, profile = roles.get(account.pk), profiles.get(account.pk)
        reading, making = getattr(account, "role_reading", None), getattr(account, "standard_role", None)
        found = differences(role) if role is not None else []
        told.append(
            {
                "account": account,
                "reading": reading,
                "making": making,
                "is_making": making is not None and making.is_open,
                "role": role,
                "profile": profile,
                "differences": found,
                **_word(role, profile, found, reading),
            }
        )
    return told


def _word(
    role: Role | None, profile: Profile | None, found: Sequence[words.Difference], reading: Reading | None
) -> dict:
    if reading is None or reading.read_at is None:
        return {"kind": "bad" if reading and reading.error else "wait", "word": "not read yet", "is_there": False}
    if role is None and profile is None:
        return {"kind": "wait", "word": "not there", "is_there": False}
    if role is None or profile is None or profile.role_id != role.pk:
        return {"kind": "warn", "word": "half made", "is_there": False}
    if found:
        return {"kind": "warn", "word": "differs", "is_there": True}
    return {"kind": "ok", "word": "there", "is_there": True}
