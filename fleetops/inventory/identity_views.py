"""The administrators' page of the roles under which FleetOps acts in an account."""

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from fleetops.aws import iam, permissions
from fleetops.aws.regions import partition_of
from fleetops.web.shortcuts import permission_required

from . import features, identity_checks, tasks
from .models import Account, IdentityCheck
from .states import CheckResult

_GLYPHS = {
    CheckResult.OK: ("ok", "Yes"),
    CheckResult.DENIED: ("bad", "No"),
    CheckResult.BROKEN: ("bad", "Does not work"),
    CheckResult.UNKNOWN: ("warn", "Not checkable"),
}
_PARTS = {"trust": "Whom it trusts", "use": "Assumed", "permissions": "What it may do"}


@require_safe
@permission_required("inventory.view_account")
def identity(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Whether each role works, and what it needs at least, to copy."""
    account = _account(request, pk)
    check = account.identity_checks.first()
    chosen = request.GET.getlist("feature") if "chosen" in request.GET else features.used(account)
    context = {
        **_check_context(request, account, check),
        "features": [(each, each in chosen) for each in features.all_features()],
        "documents": _documents(account, check, features.actions_of(chosen)),
    }
    return render(request, "inventory/identity.html", context)


@require_safe
@permission_required("inventory.view_account")
def live(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The check of an open page, as it stands."""
    account = _account(request, pk)
    return render(
        request, "inventory/_identity.html", _check_context(request, account, account.identity_checks.first())
    )


@require_POST
@permission_required("inventory.change_account")
def check(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have a worker look at the roles."""
    account = _account(request, pk)
    asked = identity_checks.ask(account, actor=request.user)
    tasks.check_identity.delay(str(asked.pk))
    if request.htmx:
        return render(request, "inventory/_identity.html", _check_context(request, account, asked))
    return redirect("accounts:identity", pk=account.pk)


def _account(request: HttpRequest, pk: uuid.UUID) -> Account:
    return get_object_or_404(Account.objects.visible_to(request.user), pk=pk)


def _check_context(request: HttpRequest, account: Account, check: IdentityCheck | None) -> dict[str, Any]:
    found = identity_checks.verdict(check)
    return {
        "account": account,
        "check": check,
        "verdict": found,
        "is_running": found.kind == "run",
        "roles": [_shown(role) for role in (check.roles if check else [])],
        "may_change": request.user.has_perm("inventory.change_account"),
    }


def _shown(role: dict[str, Any]) -> dict[str, Any]:
    """A role of a check with what its page shows of each answer."""
    rows = [{**row, "glyph": _GLYPHS[CheckResult(row["result"])], "where": _PARTS[row["part"]]} for row in role["rows"]]
    bad = [row for row in rows if row["glyph"][0] != "ok"]
    needed = [row for row in bad if row["glyph"][0] == "bad" and not row["is_optional"]]
    kind, word = ("bad", "Something is missing") if needed else ("warn", "To look at") if bad else ("ok", "Works")
    return {**role, "rows": rows, "bad": len(bad), "kind": kind, "word": word, "name": role["arn"].rpartition("/")[2]}


def _documents(account: Account, check: IdentityCheck | None, actions: list[str]) -> list[tuple[str, str, str, str]]:
    """What to allow, at least: an anchor, a title, for whom, the policy."""
    region = account.regions.values_list("name", flat=True).first() or "us-east-1"
    partition = partition_of(region)
    own = account.role_arn or f"arn:{partition}:iam::{account.account_id}:role/{permissions.ROLE_NAME}"
    of_rules = identity_checks.session_roles(account)
    principal = iam.principal_of(check.caller_arn) if check and check.caller_arn else permissions.UNKNOWN_PRINCIPAL
    trust = permissions.as_json(permissions.trust_policy(principal, account.external_id))
    policy = permissions.policy(
        account.account_id, role=account.role_arn, partition=partition, actions=actions, session_roles=of_rules
    )
    made = [
        ("policy", "Permissions", f"of {own}", permissions.as_json(policy)),
        ("trust", "Trust", "of each of the roles: who may assume it, naming the person and the OS user", trust),
        (
            "caller",
            "Base credentials",
            "for the identity as which FleetOps itself runs",
            permissions.as_json(permissions.caller_policy([own, *of_rules])),
        ),
    ]
    if of_rules:
        sessions = permissions.as_json(permissions.session_policy(account.account_id, partition=partition))
        made.append(("sessions", "Roles of sessions", f"permissions of {', '.join(of_rules)}", sessions))
    return made
