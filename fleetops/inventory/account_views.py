"""The administrators' pages of accounts: where they are, as whom FleetOps acts there, and whether that works."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.contrib import messages
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.aws import iam, permissions
from fleetops.aws.regions import partition_of
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.web.shortcuts import permission_required

from . import account_checks, event_setup, tasks
from . import accounts as services
from .account_checks import Verdict, verdict
from .account_forms import AccountForm
from .models import Account, AccountCheck, CheckRow, Region
from .states import CheckResult

_GLYPHS = {
    CheckResult.WAITING: ("wait", "Waiting"),
    CheckResult.OK: ("ok", "Allowed"),
    CheckResult.DENIED: ("bad", "Denied"),
    CheckResult.BROKEN: ("bad", "Does not work"),
    CheckResult.UNKNOWN: ("warn", "Not checkable"),
    CheckResult.SKIPPED: ("off", "Not asked"),
}
# Kind → title, what it is for, name of the file.
DOCUMENTS = {
    "policy": ("Permissions", "for the role: all that FleetOps calls, and nothing else", "fleetops-policy.json"),
    "trust": ("Trust", "for the role: who may assume it", "fleetops-trust.json"),
    "caller": ("Base credentials", "for the identity as which FleetOps itself runs", "fleetops-caller.json"),
    "cloudformation": ("CloudFormation", "makes the role with both", "fleetops-role.yaml"),
    "events": ("Events", "makes a region's queue of events, by CloudFormation", "fleetops-events.json"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One account as a row of the list."""

    account: Account
    regions: Sequence[Region]
    verdict: Verdict
    checked_at: datetime | None
    instances: int

    @property
    def on(self) -> list[Region]:
        return [region for region in self.regions if region.enabled]

    @property
    def read_at(self) -> datetime | None:
        """When all regions had last been read; None while one never was."""
        read = [region.refreshed_at for region in self.on]
        return min(read) if read and None not in read else None

    @property
    def error(self) -> str:
        return next((region.error for region in self.on if region.error), "")


@require_safe
@permission_required("inventory.view_account")
def accounts(request: HttpRequest) -> HttpResponse:
    rows = _listed(request)
    context = {
        "rows": rows,
        "enabled": sum(row.account.enabled for row in rows),
        "embedded": sum(row.account.is_embedded for row in rows),
        "lacking": [row for row in rows if row.account.enabled and row.verdict.kind in {"warn", "bad"}],
        "unread": [row for row in rows if row.account.enabled and row.error],
        "is_checking": any(row.verdict.kind == "run" for row in rows),
        "may_add": request.user.has_perm("inventory.add_account"),
        "may_change": request.user.has_perm("inventory.change_account"),
    }
    return render(request, "inventory/_accounts.html" if request.htmx else "inventory/accounts.html", context)


def _listed(request: HttpRequest) -> list[Listed]:
    """The accounts with all that their rows show, in a bounded number of queries."""
    moment = now()
    visible = Account.objects.visible_to(request.user)
    counted = visible.annotate(present=Count("instances", filter=Q(instances__gone_at=None)))
    regions: dict[uuid.UUID, list[Region]] = {}
    for region in Region.objects.filter(account__in=visible).order_by("name"):
        regions.setdefault(region.account_id, []).append(region)
    newest: dict[uuid.UUID, AccountCheck] = {}
    for check in AccountCheck.objects.filter(account__in=visible).order_by("id"):  # five of an account at most
        newest[check.account_id] = check
    rows: dict[uuid.UUID, list[CheckRow]] = {}
    for row in CheckRow.objects.filter(parent__in=[check.pk for check in newest.values()]):
        rows.setdefault(row.parent_id, []).append(row)
    made = []
    for account in counted:
        check = newest.get(account.pk)
        found = verdict(check, rows.get(check.pk, []) if check else [], now=moment)
        made.append(
            Listed(account, regions.get(account.pk, []), found, check.created_at if check else None, account.present)
        )
    return made


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("inventory.add_account")
def add(request: HttpRequest) -> HttpResponse:
    form = AccountForm(
        request.POST if request.method == "POST" else None, initial={"external_id": f"fleetops-{uuid.uuid4()}"}
    )
    if request.method == "POST" and form.is_valid():
        try:
            account = services.add_account(form.facts(), actor=request.user)
        except Denied:
            raise
        except UserError as error:
            form.add_error(None, str(error))
        else:
            tasks.check_account.delay(str(account_checks.ask(account, actor=request.user).pk))
            messages.success(request, f"{account} is added; its connection is being checked.")
            return redirect(account)
    return _form_page(request, form)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("inventory.change_account")
def edit(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    account = _account(request, pk)
    form = AccountForm(
        request.POST if request.method == "POST" else None, account=account, initial=AccountForm.initial_of(account)
    )
    if request.method == "POST" and form.is_valid():
        try:
            changed = services.change_account(account, form.facts(), actor=request.user)
        except Denied:
            raise
        except UserError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{account} is changed." if changed else "Nothing was changed.")
            return redirect("accounts:account", pk=account.pk)
    return _form_page(request, form, account)


def _form_page(request: HttpRequest, form: AccountForm, account: Account | None = None) -> HttpResponse:
    chosen = set(form["regions"].value() or ())
    states = account.region_states if account else {}
    context = {
        "form": form,
        "account": account,
        "regions": [(name, name in chosen, states.get(name) is False) for name, _ in form.fields["regions"].choices],
        "is_sensitive_allowed": request.user.has_perm(services.ADMINISTER),
    }
    return render(request, "inventory/account_form.html", context, status=400 if form.errors else 200)


@require_safe
@permission_required("inventory.view_account")
def account(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One account: its check, its regions, its role, and the end of it."""
    found = _account(request, pk)
    check = found.checks.first()
    context = {
        **_check_context(request, found, check),
        "regions": list(found.regions.annotate(present=Count("instances", filter=Q(instances__gone_at=None)))),
        "setups": [(each, event_setup.by_stack(each), event_setup.by_hand(each)) for each in _polled(found)],
        "documents": [
            (kind, title, text, _document(found, kind, check)) for kind, (title, text, _) in DOCUMENTS.items()
        ],
        "may_remove": request.user.has_perm("inventory.delete_account"),
    }
    return render(request, "inventory/account.html", context)


def _polled(account: Account) -> list[Region]:
    """The regions that have no queue of events yet."""
    return list(account.regions.filter(enabled=True, queue_url="").select_related("account"))


@require_safe
@permission_required("inventory.view_account")
def live(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The check of an open page, as it stands."""
    found = _account(request, pk)
    return render(request, "inventory/_check.html", _check_context(request, found, found.checks.first()))


@require_POST
@permission_required("inventory.change_account")
def check(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have a worker check the connection."""
    found = _account(request, pk)
    asked = account_checks.ask(found, actor=request.user)
    tasks.check_account.delay(str(asked.pk))
    if request.htmx:
        return render(request, "inventory/_check.html", _check_context(request, found, asked))
    return redirect("accounts:list" if request.POST.get("next") == "list" else found.get_absolute_url())


@require_POST
@permission_required("inventory.change_account")
def set_enabled(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _account(request, pk)
    enabled = request.POST.get("enabled") == "1"
    services.set_enabled(found, enabled, actor=request.user)
    messages.success(request, f"{found} is {'read again' if enabled else 'no longer read'}.")
    return redirect(found)


@require_POST
@permission_required("inventory.delete_account")
def remove(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _account(request, pk)
    services.require_confirmed(found, request.POST.get("confirm", ""))
    services.remove_account(found, actor=request.user)
    messages.success(request, f"{found} is removed. Its sessions, recordings and audit rows stay.")
    return redirect("accounts:list")


@require_safe
@permission_required("inventory.view_account")
def document(request: HttpRequest, pk: uuid.UUID, kind: str) -> HttpResponse:
    """One of DOCUMENTS, as a file."""
    found = _account(request, pk)
    if kind not in DOCUMENTS:
        raise Http404
    return _file(DOCUMENTS[kind][2], _document(found, kind, found.checks.first()))


@require_safe
@permission_required("inventory.add_account")
def template(request: HttpRequest) -> HttpResponse:
    """The CloudFormation template, for an account that is not here yet."""
    return _file(DOCUMENTS["cloudformation"][2], permissions.cloudformation())


def _file(name: str, text: str) -> HttpResponse:
    response = HttpResponse(text, content_type=f"{'text/yaml' if name.endswith('yaml') else 'application/json'}")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _account(request: HttpRequest, pk: uuid.UUID) -> Account:
    return get_object_or_404(Account.objects.visible_to(request.user), pk=pk)


def _document(account: Account, kind: str, check: AccountCheck | None) -> str:
    """The text of one of DOCUMENTS, with what is known of the account filled in."""
    principal = iam.principal_of(check.caller_arn) if check and check.caller_arn else ""
    region = account.regions.values_list("name", flat=True).first() or "us-east-1"
    partition = partition_of(region)
    if kind == "policy":
        made = permissions.policy(account.account_id, role=account.role_arn, partition=partition)
    elif kind == "trust":
        made = permissions.trust_policy(principal or permissions.UNKNOWN_PRINCIPAL, account.external_id)
    elif kind == "caller":
        role = account.role_arn or f"arn:{partition}:iam::{account.account_id}:role/{permissions.ROLE_NAME}"
        made = permissions.caller_policy([role])
    elif kind == "events":
        return event_setup.cloudformation()
    else:
        return permissions.cloudformation(principal, account.external_id)
    return permissions.as_json(made)


def _check_context(request: HttpRequest, account: Account, check: AccountCheck | None) -> dict:
    moment = now()
    rows = list(check.rows.all()) if check else []
    found = verdict(check, rows, now=moment)
    by_region: dict[str, list] = {}
    for row in rows:
        by_region.setdefault(row.region, []).append((row, *_GLYPHS[CheckResult(row.result)]))
    missing = [action for action in found.missing if not action.startswith("sts:")]
    answered = sum(row.result != CheckResult.WAITING for row in rows)
    return {
        "account": account,
        "check": check,
        "verdict": found,
        "by_region": [
            (region, its_rows, sum(kind in {"bad", "warn"} for _, kind, _ in its_rows))
            for region, its_rows in by_region.items()
        ],
        "answered": answered,
        "total": len(rows),
        "is_running": found.kind == "run",
        "statement": permissions.as_json(
            permissions.policy(
                account.account_id,
                role=account.role_arn,
                partition=partition_of(rows[0].region),
                actions=missing,
            )
        )
        if missing
        else "",
        "may_change": request.user.has_perm("inventory.change_account"),
    }
