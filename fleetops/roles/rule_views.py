"""Pages of who administers roles: rules, the catalogue of IAM's roles, and the standard role."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity.roles import ROLE_TEXTS
from fleetops.inventory.models import Account
from fleetops.web.shortcuts import permission_required

from . import editing, listing
from .catalogue import services as catalogue
from .catalogue import standard, words
from .catalogue.models import Making, Profile, Reading, Role
from .forms import RuleForm
from .models import RULE_PERMISSION, VIEW_PERMISSION, Mode, RoleAttachment, RoleRule
from .views import ROWS, tabs


@require_safe
@permission_required(VIEW_PERMISSION)
def rules(request: HttpRequest) -> HttpResponse:
    """All rules, each with how many instances it is for and how many of these have the role. Query: `page`."""
    page = Paginator(RoleRule.objects.prefetch_related("approvers"), 50).get_page(request.GET.get("page"))
    context = {**tabs(request), "page": page, "query": "", "rules": listing.rule_rows(page, request.user)}
    return render(request, "roles/rules.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(RULE_PERMISSION)
def create_rule(request: HttpRequest) -> HttpResponse:
    form = RuleForm(request.POST if request.method == "POST" else None, initial=RuleForm.initial_of(None))
    if request.method == "POST" and form.is_valid():
        try:
            made = editing.create(form.given(), actor=request.user)
        except Denied:
            raise
        except UserError as error:
            _tell(form, error)
        else:
            messages.success(request, f"“{made}” holds from now on.")
            return redirect("roles:rules")
    return _rule_page(request, form, None)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(VIEW_PERMISSION)
def rule(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One rule; with the permission, to be changed."""
    found = get_object_or_404(RoleRule.objects.prefetch_related("approvers"), pk=pk)
    form = RuleForm(request.POST if request.method == "POST" else None, initial=RuleForm.initial_of(found))
    if request.method == "POST" and (form.is_valid() or not request.user.has_perm(RULE_PERMISSION)):
        try:
            given = form.given() if form.is_valid() else {}
            editing.change(found, given, version=form.cleaned_data.get("version") or 0, actor=request.user)
        except Denied:
            raise
        except UserError as error:
            _tell(form, error)
        else:
            messages.success(request, f"“{found}” is changed.")
            return redirect("roles:rules")
    return _rule_page(request, form, found)


def _tell(form: RuleForm, error: UserError) -> None:
    for name, text in (error.fields or {"": str(error)}).items():
        form.add_error(name if name in form.fields else None, text)


def _rule_page(request: HttpRequest, form: RuleForm, found: RoleRule | None) -> HttpResponse:
    chosen = form["approvers"].value() or []
    context = {
        "form": form,
        "rule": found,
        "row": listing.rule_rows([found], request.user)[0] if found is not None else None,
        "modes": Mode.choices,
        "roles": [(name, label, name in chosen) for name, (label, _) in ROLE_TEXTS.items()],
        "names": sorted(set(Profile.objects.values_list("name", flat=True)[:500])),
        "may_change": request.user.has_perm(RULE_PERMISSION),
        "open": RoleAttachment.objects.visible_to(request.user).open().filter(rule=found).count() if found else 0,
    }
    is_wrong = form.is_bound and bool(form.errors)
    return render(request, "roles/rule.html", context, status=400 if is_wrong else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(RULE_PERMISSION)
def delete_rule(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Is it meant? POST deletes it."""
    found = get_object_or_404(RoleRule, pk=pk)
    if request.method == "POST":
        text = request.POST.get("version", "")
        version = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
        editing.delete(found, version=version, actor=request.user)
        messages.success(request, f"“{found}” is deleted; leases by it stand until their end.")
        return redirect("roles:rules")
    standing = RoleAttachment.objects.visible_to(request.user).open().filter(rule=found).count()
    return render(request, "roles/rule_delete.html", {"rule": found, "open": standing})


# --- the catalogue ---------------------------------------------------------------------------------------------------


@require_safe
@permission_required(VIEW_PERMISSION)
def roles(request: HttpRequest) -> HttpResponse:
    """Instance profiles and roles of all accounts, and how the standard role stands in each. Query: `page`."""
    found = Profile.objects.visible_to(request.user).select_related("account", "role")
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    standing = catalogue.standing()
    loose = Role.objects.visible_to(request.user).filter(profiles=None).select_related("account")
    context = {
        **tabs(request),
        "page": page,
        "query": "",
        "rows": _profile_rows(page, request),
        "loose": loose[:ROWS],
        "standing": standing,
        "standard": words.STANDARD,
        "missing": sum(not each["is_there"] for each in standing),
        # What was made shows once IAM has been read anew.
        "is_open": any(each["is_making"] or (each["reading"] and each["reading"].is_asked) for each in standing),
        "failing": Reading.objects.filter(account__enabled=True).exclude(error="").select_related("account"),
        "may_make": request.user.has_perm(RULE_PERMISSION),
    }
    return render(request, "roles/catalogue.html", context)


def _profile_rows(profiles: Any, request: HttpRequest) -> list[dict[str, Any]]:
    """With how many instances and leases use each. Two queries."""
    arns = [each.arn for each in profiles]
    have = listing.counted(listing.instances(request.user), arns)
    leased = listing.counted(listing.open_leases(request.user), arns)
    return [
        {
            "profile": each,
            "instances": have.get(each.arn, 0),
            "leases": leased.get(each.arn, 0),
            "differences": len(catalogue.differences(each.role)) if each.role is not None else 0,
        }
        for each in profiles
    ]


@require_safe
@permission_required(VIEW_PERMISSION)
def role(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One role: whom it trusts, its policies, what it allows of what SSM needs, who uses it."""
    found = get_object_or_404(Role.objects.visible_to(request.user).select_related("account"), pk=pk)
    return render(request, "roles/role.html", _role_context(request, found))


def _role_context(request: HttpRequest, found: Role) -> dict[str, Any]:
    profiles = list(found.profiles.select_related("account", "role"))
    differs = catalogue.differences(found)
    lacks = set(found.lacks)
    return {
        "role": found,
        "trust": _pretty(found.trust),
        "policies": [{**each, "shown": _pretty(each["text"])} for each in found.policies],
        "rows": _profile_rows(profiles, request),
        "actions": [(each, each not in lacks) for each in words.CORE_ACTIONS],
        "agent": words.agent_words(found.lacks if found.is_simulated else None),
        "differences": differs,
        "repairs": [each for each in differs if each.repair],
        "is_standard": found.name == words.STANDARD,
        "making": Making.objects.filter(account=found.account).first() if found.name == words.STANDARD else None,
        "may_make": request.user.has_perm(RULE_PERMISSION),
    }


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(RULE_PERMISSION)
def put_right(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Exactly what would be changed; POST has it changed."""
    found = get_object_or_404(Role.objects.visible_to(request.user).select_related("account"), pk=pk)
    if request.method == "POST":
        standard.ask_right(found, request.POST.getlist("change"), actor=request.user)
        messages.success(request, f"{found} in {found.account} is being put right.")
        return redirect("roles:catalogue")
    return render(request, "roles/put_right.html", _role_context(request, found))


@require_POST
@permission_required(RULE_PERMISSION)
def make(request: HttpRequest) -> HttpResponse:
    """Make the standard role: `account` (its id), once or more; `all` for each where it is not there."""
    if "all" in request.POST:
        accounts = [each["account"] for each in catalogue.standing() if not (each["is_there"] or each["is_making"])]
    else:
        accounts = []
        for text in request.POST.getlist("account"):
            try:
                accounts.append(get_object_or_404(Account, pk=uuid.UUID(text), enabled=True))
            except ValueError:
                raise UserError("There is no such account. Choose one of the list.") from None
    if not accounts:
        raise UserError("Choose an account in which it is to be made.")
    standard.ask(accounts, actor=request.user)
    where = str(accounts[0]) if len(accounts) == 1 else f"{len(accounts)} accounts"
    messages.success(request, f"{words.STANDARD} is being made in {where}.")
    return redirect("roles:catalogue")


@require_POST
@permission_required(VIEW_PERMISSION)
def read_again(request: HttpRequest) -> HttpResponse:
    """Have IAM of all accounts read at once."""
    for account in Account.objects.filter(enabled=True):
        catalogue.ask_again(account, at=now())
    messages.info(request, "Workers read IAM of all accounts again; this page shows it when it is opened again.")
    return redirect("roles:catalogue")
