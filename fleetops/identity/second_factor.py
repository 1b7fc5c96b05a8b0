"""The second factor: set up, asked for, taken away. Recovery codes stand in for it once each."""

import hashlib
import logging
import re
import secrets
from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, F, OuterRef

from fleetops import vault
from fleetops.audit.record import deny, record
from fleetops.clock import now
from fleetops.errors import UserError

from . import totp
from .models import RecoveryCode, RoleSetting, SecondFactor, User
from .roles import ROLE_TEXTS, ROLES

logger = logging.getLogger(__name__)

# Of a million codes three are right at a time: for who knows the password, the 480 guesses of a day find one with a
# chance of 0.15 %, from however many addresses, and each guess is audited.
MOST_FAILURES = 5
LOCKED_FOR = timedelta(minutes=15)
RECOVERY_CODES = 10
RECOVERY_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
RECOVERY_LENGTH = 16  # 80 bits: a plain digest keeps it


def is_set_up(user: User) -> bool:
    return SecondFactor.objects.filter(user_id=user.pk).exclude(confirmed_at=None).exists()


def codes_left(user: User) -> int:
    return RecoveryCode.objects.filter(user_id=user.pk, used_at=None).count()


def begin(user: User) -> bytes:
    """A new secret for the user to put into their app; it counts once `finish` has seen a code of it.

    Raises UserError if a second factor is set up already.
    """
    secret = totp.new_secret()
    with transaction.atomic():
        factor, _ = SecondFactor.objects.select_for_update().get_or_create(user=user)
        if factor.confirmed_at is not None:
            raise UserError("A second factor is set up already; remove it before you set up another.")
        factor.sealed_secret = vault.seal(secret, context=vault.context_of(factor, "sealed_secret"))
        factor.last_step, factor.failures, factor.locked_until = 0, 0, None
        factor.save()
    return secret


def pending_secret(user: User) -> bytes | None:
    """The secret that was begun with and is not confirmed yet."""
    factor = SecondFactor.objects.filter(user=user, confirmed_at=None).exclude(sealed_secret="").first()
    return _secret(factor) if factor else None


def finish(user: User, code: str) -> list[str]:
    """Take the first code of the new secret: from now on it is asked for. Returns the recovery codes, shown this once.

    Raises UserError if the code is not right.
    """
    moment = now()
    with transaction.atomic():
        factor = SecondFactor.objects.select_for_update().filter(user=user, confirmed_at=None).first()
        if factor is None:
            raise UserError("There is nothing to confirm; begin anew.")
        step = totp.matching_step(_secret(factor), _clean(code), at=moment.timestamp(), after=factor.last_step)
        if step is None:
            raise UserError(
                "That is not the code that the app shows now. Check the clock of the device, and try again."
            )
        factor.last_step, factor.confirmed_at = step, moment
        factor.save()
        codes = _renew(user)
        record("identity.second_factor.set_up", actor=user, target=user)
    logger.info("second factor set up user=%s", user.username)
    return codes


def renew_codes(user: User, *, actor: User) -> list[str]:
    """New recovery codes in place of all there were. Raises UserError without a second factor."""
    if not is_set_up(user):
        raise UserError("Recovery codes stand in for a second factor; set one up first.")
    with transaction.atomic():
        codes = _renew(user)
        record("identity.recovery_codes.renew", actor=actor, target=user)
    return codes


def check(user: User, code: str) -> str:
    """Take a code of the app, or a recovery code; returns "app", "recovery code", or "" if it is not right.

    Each counts once. A wrong one is audited and counted; after MOST_FAILURES none counts for a while, whoever asks.
    Raises UserError, audited, while that lasts.
    """
    moment = now()
    how, locked_until = "", None
    with transaction.atomic():
        factor = SecondFactor.objects.select_for_update().filter(user=user).exclude(confirmed_at=None).first()
        if factor is not None and factor.locked_until is not None and factor.locked_until > moment:
            locked_until = factor.locked_until
        elif factor is not None:
            how = _taken(factor, _clean(code), moment)
            if how:
                factor.failures, factor.locked_until = 0, None
            else:
                factor.failures += 1
                if factor.failures >= MOST_FAILURES:
                    factor.failures, factor.locked_until = 0, moment + LOCKED_FOR
            factor.save()
    if locked_until is not None:
        deny("identity.second_factor.refuse", actor=user, target=user, reason="too many wrong codes")
        minutes = -(-int((locked_until - moment).total_seconds()) // 60)
        raise UserError(f"Too many wrong codes. None is taken for {minutes} minutes; then try again.")
    if not how:
        deny("identity.second_factor.refuse", actor=user, target=user, reason="wrong code")
    return how


def _taken(factor: SecondFactor, code: str, moment) -> str:
    if re.fullmatch(rf"[0-9]{{{totp.DIGITS}}}", code):
        step = totp.matching_step(_secret(factor), code, at=moment.timestamp(), after=factor.last_step)
        if step is None:
            return ""
        factor.last_step = step
        return "app"
    digest = _digest(code)
    used = RecoveryCode.objects.filter(user_id=factor.user_id, digest=digest, used_at=None).update(used_at=moment)
    return "recovery code" if used else ""


def remove(user: User, *, actor: User) -> None:
    """Take the second factor and its recovery codes away; the caller has made sure that it is really them.

    An administrator who takes somebody else's away resets it. Raises UserError if a role of one's own asks for it.
    """
    if user == actor and user.needs_second_factor:
        raise UserError("A role of yours asks for a second factor, so it stays. An administrator can reset it.")
    with transaction.atomic():
        gone, _ = SecondFactor.objects.filter(user=user).delete()
        RecoveryCode.objects.filter(user=user).delete()
        if gone:
            deed = "identity.second_factor.remove" if user == actor else "identity.second_factor.reset"
            record(deed, actor=actor, target=user)
    logger.info("second factor removed user=%s actor=%s", user.username, actor.username)


# --- Roles that ask for it -------------------------------------------------------------------------------------------


def roles_that_ask() -> set[str]:
    return set(RoleSetting.objects.filter(requires_second_factor=True).values_list("group__name", flat=True))


def set_role(role: str, *, asks: bool, actor: User) -> None:
    """Have `role` ask its members for a second factor, or no longer. It holds from their next request on.

    Raises UserError for an unknown role, and if the actor would lock themselves out of what they are doing.
    """
    if role not in ROLES:
        raise UserError(f"There is no role {role}; choose among {', '.join(ROLES)}.")
    if asks and not is_set_up(actor) and actor.groups.filter(name=role).exists():
        raise UserError("You have this role yourself: set up your own second factor first, under “Your log-in”.")
    with transaction.atomic():
        group = actor.groups.model.objects.get(name=role)
        setting, _ = RoleSetting.objects.get_or_create(group=group)
        if setting.requires_second_factor == asks:
            return
        setting.requires_second_factor = asks
        setting.save(update_fields=["requires_second_factor"])
        refresh_needs()
        record(
            "identity.roles.set",
            actor=actor,
            target=group,
            role=ROLE_TEXTS[role][0],
            before={"asks_for_second_factor": not asks},
            after={"asks_for_second_factor": asks},
        )


def refresh_needs() -> None:
    """Write into each user's row whether one of their roles asks, so that no page has to look it up."""
    asking = RoleSetting.objects.filter(requires_second_factor=True, group__user=OuterRef("pk"))
    with_need = User.objects.annotate(asked=Exists(asking)).exclude(needs_second_factor=F("asked"))
    for user_id, asked in list(with_need.values_list("pk", "asked")):
        User.objects.filter(pk=user_id).update(needs_second_factor=asked)


def _secret(factor: SecondFactor) -> bytes:
    return vault.open_sealed(factor.sealed_secret, context=vault.context_of(factor, "sealed_secret"))


def _renew(user: User) -> list[str]:
    RecoveryCode.objects.filter(user=user).delete()
    codes = ["".join(secrets.choice(RECOVERY_LETTERS) for _ in range(RECOVERY_LENGTH)) for _ in range(RECOVERY_CODES)]
    RecoveryCode.objects.bulk_create(RecoveryCode(user=user, digest=_digest(code)) for code in codes)
    return ["-".join(code[at : at + 4] for at in range(0, RECOVERY_LENGTH, 4)) for code in codes]


def _clean(code: str) -> str:
    """As typed, without what people put between the letters, and with the letters that they read for digits."""
    text = re.sub(r"[\s-]", "", code[:64]).lower()
    return text.translate(str.maketrans("oil", "011"))


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
