"""What people set: deadlines, and whether findings go to Security Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction

from fleetops.audit.record import Target, record
from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.web.shortcuts import require_permission

from .models import Hub, Sla

# As patches have them: rpm and Windows say Important and Moderate, Amazon Linux Medium.
SEVERITIES: Final = ("Critical", "Important", "High", "Moderate", "Medium", "Low")
LONGEST: Final = 365


def sla_rows(asked: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Severity and days, "" for none; what was asked stands instead."""
    kept = {each.severity: str(each.days) for each in Sla.objects.all()}
    given = kept if asked is None else {each: str(asked.get(f"days_{each}", "")) for each in SEVERITIES}
    return [(each, given.get(each, "")) for each in SEVERITIES]


def change_slas(asked: Mapping[str, Any], *, actor: User) -> dict[str, str]:
    """Set all deadlines; what is wrong with them, by severity, and then nothing is changed.

    Raises PermissionMissing.
    """
    require_permission(actor, "compliance.change_sla")
    wanted: dict[str, int] = {}
    problem: dict[str, str] = {}
    for severity in SEVERITIES:
        text = str(asked.get(f"days_{severity}", "")).strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= LONGEST):
            problem[severity] = f"Write a whole number of days, 0 to {LONGEST}; empty for no deadline."
        else:
            wanted[severity] = int(text)
    if problem:
        return problem
    with transaction.atomic():
        before = {each.severity: each.days for each in Sla.objects.select_for_update()}
        if before == wanted:
            return {}
        Sla.objects.exclude(severity__in=wanted).delete()
        for severity, days in wanted.items():
            if before.get(severity) != days:
                values = {"days": days, "changed_at": now(), "changed_by": actor.username}
                Sla.objects.update_or_create(severity=severity, defaults=values)
        record(
            "compliance.sla.change",
            actor=actor,
            target=Target("compliance.sla", "", "Patch deadlines"),
            before=before,
            after=wanted,
        )
    return {}


def switch_hub(hub: Hub, enabled: bool, *, actor: User) -> None:
    """Let findings of a region go to Security Hub, or not. What waits is sent when it is turned on again."""
    require_permission(actor, "compliance.change_hub")
    with transaction.atomic():
        if Hub.objects.filter(pk=hub.pk).exclude(enabled=enabled).update(enabled=enabled, not_before=None, error=""):
            record(
                "compliance.hub.change",
                actor=actor,
                target=hub,
                account_id=hub.region.account.account_id,
                region=hub.region.name,
                enabled=enabled,
            )
