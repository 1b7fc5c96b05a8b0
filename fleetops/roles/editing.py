"""Changing the rules that say which instances may, or must, have which role."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction

from fleetops.audit.record import Target, deny, record
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.identity.roles import ROLES
from fleetops.targets import ExpressionError, parse

from .models import RULE_PERMISSION, Mode, RoleRule
from .services import LONGEST_MINUTES

MOST_APPROVALS: Final = 10
FIELDS: Final = (
    *("name", "targets", "profile_name", "mode", "most_minutes", "allows_privileges", "approvals", "is_repairing"),
    "is_enabled",
)
_NAME = re.compile(r"[\w+=,.@*-]{1,128}")  # of an instance profile [IAM API reference, CreateInstanceProfile], and *


def create(given: Mapping[str, Any], *, actor: User) -> RoleRule:
    """A new rule; `given` holds FIELDS and `approvers`, names of roles. Raises Denied, audited; FieldError."""
    _require(actor, None)
    kept, approvers = _checked(given)
    try:
        with transaction.atomic():
            rule = RoleRule.objects.create(**kept, changed_by=actor.username)
            rule.approvers.set(approvers)
            _record("roles.rule.create", rule, actor, snapshot(rule))
    except IntegrityError:
        raise FieldError("name", "Another rule has this name.") from None
    return rule


def change(rule: RoleRule, given: Mapping[str, Any], *, version: int, actor: User) -> None:
    """What stands by a rule already stands on. Raises Denied, audited; FieldError; UserError if another was quicker."""
    _require(actor, rule)
    kept, approvers = _checked(given)
    before = snapshot(rule)
    try:
        with transaction.atomic():
            changed = RoleRule.objects.filter(pk=rule.pk, version=version).update(
                **kept, version=version + 1, changed_at=now(), changed_by=actor.username
            )
            if not changed:
                raise UserError("Somebody has changed this rule since you opened it; look at it again.")
            rule.refresh_from_db()
            rule.approvers.set(approvers)
            after = snapshot(rule)
            differs = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
            _record("roles.rule.change", rule, actor, differs)
    except IntegrityError:
        raise FieldError("name", "Another rule has this name.") from None


def delete(rule: RoleRule, *, version: int, actor: User) -> None:
    """Leases by it stand until their end. Raises Denied, audited; UserError if another was quicker."""
    _require(actor, rule)
    with transaction.atomic():
        held = RoleRule.objects.select_for_update().filter(pk=rule.pk, version=version).first()
        if held is None:
            raise UserError("Somebody has changed this rule since you opened it; look at it again.")
        _record("roles.rule.delete", held, actor, snapshot(held))
        held.delete()


def snapshot(rule: RoleRule) -> dict[str, Any]:
    """A rule as the audit log keeps it."""
    found = {name: getattr(rule, name) for name in FIELDS}
    return found | {"approvers": sorted(rule.approvers.values_list("name", flat=True))}


def _require(actor: User, rule: RoleRule | None) -> None:
    if actor.has_perm(RULE_PERMISSION):
        return
    target = Target("roles.rolerule", str(rule.pk), rule.name) if rule is not None else None
    deny("roles.rule.refuse", actor=actor, target=target, reason="may not")
    raise Denied("Rules of roles are changed with the permission “May change which instances may have which role”.")


def _checked(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Group]]:
    kept = {name: given[name] for name in FIELDS}
    kept["name"], kept["targets"] = kept["name"].strip(), kept["targets"].strip()
    if not kept["name"]:
        raise FieldError("name", "Give the rule a name.")
    try:
        parse(kept["targets"])
    except ExpressionError as error:
        raise FieldError("targets", str(error)) from None
    if not _NAME.fullmatch(kept["profile_name"]):
        raise FieldError("profile_name", "Write an instance profile's name; * stands for any characters.")
    if kept["mode"] not in Mode.values:
        raise FieldError("mode", "A rule says “may” or “must”.")
    if not 0 <= kept["most_minutes"] <= LONGEST_MINUTES:
        raise FieldError("most_minutes", f"Write 0, for no end, or up to {LONGEST_MINUTES:,} minutes.")
    if not 0 <= kept["approvals"] <= MOST_APPROVALS:
        raise FieldError("approvals", f"Write a number up to {MOST_APPROVALS}.")
    if kept["mode"] == Mode.MUST:
        if "*" in kept["profile_name"]:
            raise FieldError("profile_name", "What an instance must have is one instance profile, without *.")
        kept |= {"most_minutes": 0, "approvals": 0}
    else:
        kept["is_repairing"] = False
    names = list(dict.fromkeys(given.get("approvers", ())))
    if strange := [name for name in names if name not in ROLES]:
        raise FieldError("approvers", f"There is no role {strange[0]}; there are {', '.join(ROLES)}.")
    return kept, list(Group.objects.filter(name__in=names))


def _record(action: str, rule: RoleRule, actor: User, details: Mapping[str, Any]) -> None:
    record(action, actor=actor, target=Target("roles.rolerule", str(rule.pk), rule.name), rule=dict(details))
