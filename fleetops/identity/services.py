"""What is done to users and roles."""

import logging
from collections.abc import Iterable

from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.utils.module_loading import import_string

from fleetops.audit.record import record
from fleetops.errors import UserError

from . import second_factor
from .models import User
from .roles import AFTER_SYNC, ROLES

logger = logging.getLogger(__name__)


def sync_roles() -> dict[str, list[str]]:
    """Give each role exactly the permissions of ROLES; returns, for each role that was not so, what changed.

    Then what other rooms make of roles is made: see AFTER_SYNC.

    Recorded only when something did, since it runs at each start.
    """
    known = {f"{p.content_type.app_label}.{p.codename}": p for p in Permission.objects.select_related("content_type")}
    missing = sorted({name for names in ROLES.values() for name in names} - known.keys())
    if missing:
        raise LookupError(f"no such permission: {', '.join(missing)}; run `manage.py migrate` first")
    changes = {}
    with transaction.atomic():
        for role, names in ROLES.items():
            group, made = Group.objects.get_or_create(name=role)
            before = {
                f"{p.content_type.app_label}.{p.codename}" for p in group.permissions.select_related("content_type")
            }
            if made or before != set(names):
                group.permissions.set([known[name] for name in names])
                changes[role] = [f"+{n}" for n in sorted(set(names) - before)] + [
                    f"-{n}" for n in sorted(before - set(names))
                ]
        if changes:
            record("identity.roles.sync", actor="fleetops", changes=changes)
        for path in AFTER_SYNC:
            import_string(path)()
    return changes


def create_user(*, username: str, password: str, roles: Iterable[str], actor, **names: str) -> User:
    """Make a user in `roles`."""
    roles = sorted(roles)
    with transaction.atomic():
        user = User.objects.create_user(username, password=password, **names)
        user.groups.set(_groups(roles))
        second_factor.refresh_needs()
        record("identity.user.create", actor=actor, target=user, roles=roles)
    logger.info("user created user=%s roles=%s", user.username, ",".join(roles))
    return user


def change_user(user: User, *, actor, roles: Iterable[str], **names: str) -> None:
    """Set the user's names and roles.

    Raises UserError if nobody were left to administer.
    """
    roles = sorted(roles)
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        before = {"roles": sorted(group.name for group in user.groups.all())} | {n: getattr(user, n) for n in names}
        after = {"roles": roles} | names
        if before == after:
            return
        user.groups.set(_groups(roles))
        for name, value in names.items():
            setattr(user, name, value)
        user.save(update_fields=list(names) or None)
        second_factor.refresh_needs()
        _keep_an_administrator()
        changed = {name for name in after if before[name] != after[name]}
        record(
            "identity.user.update",
            actor=actor,
            target=user,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )
    logger.info("user changed user=%s changed=%s", user.username, ",".join(sorted(changed)))


def set_active(user: User, active: bool, *, actor) -> None:
    """Let the user in, or no longer. Django turns a deactivated user away at the next request.

    Raises UserError if they are the actor themselves, or nobody were left to administer.
    """
    if not active and user == actor:
        raise UserError("You cannot deactivate yourself; ask another administrator.")
    with transaction.atomic():
        changed = User.objects.filter(pk=user.pk).exclude(is_active=active).update(is_active=active)
        if not changed:
            return
        _keep_an_administrator()
        record("identity.user.activate" if active else "identity.user.deactivate", actor=actor, target=user)
    user.is_active = active
    logger.info("user %s user=%s", "activated" if active else "deactivated", user.username)


def set_password(user: User, password: str, *, actor) -> None:
    """Give the user a new password, which ends their log-ins elsewhere."""
    with transaction.atomic():
        user.set_password(password)
        user.save(update_fields=["password"])
        record("identity.user.password", actor=actor, target=user)


def _groups(roles: Iterable[str]) -> list[Group]:
    roles = list(roles)
    if unknown := sorted(set(roles) - ROLES.keys()):
        raise UserError(f"There is no role {', '.join(unknown)}; choose among {', '.join(ROLES)}.")
    return list(Group.objects.filter(name__in=roles))


def _keep_an_administrator() -> None:
    if not User.objects.filter(is_active=True, groups__name="administrator").exists():
        raise UserError("Nobody would be left to administer FleetOps; make another active administrator first.")
