"""The access policy's pages: its rules, one of them, what it would say, what it amounts to, how it came to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import Group
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.web.shortcuts import permission_required

from . import fleet, overview, picks, questions, services
from .decide import DEED_WORDS, OF_SESSIONS, Deed, in_force
from .forms import DAYS, ZONES, RuleForm, SimulateForm, group_title
from .models import Effect, Rule, RuleRevision, Whose
from .services import CHANGE_PERMISSION, VIEW_PERMISSION

ROWS = 100
REVISIONS = 50
VOTE_PERMISSION = "approvals.vote_approvalrequest"
FIRST_REVISIONS = 10
# Groups of deeds, as the form and the matrix show them.
DEED_GROUPS = (
    ("Shells and channels", (Deed.SHELL, Deed.RUN_AS, Deed.FORWARD, Deed.TRANSFER)),
    ("Changes", (Deed.RUN_DOCUMENT, Deed.PATCH, Deed.ASSOCIATE, Deed.ATTACH_ROLE)),
    ("Sessions and recordings", (Deed.READ_RECORDING, Deed.WATCH_SESSION, Deed.END_SESSION)),
)
# What a door asks for today; the others are decided by the same rules once their pages are there.
ASKED_NOW = frozenset(
    {Deed.SHELL, Deed.RUN_AS, Deed.FORWARD, Deed.TRANSFER, Deed.RUN_DOCUMENT, Deed.PATCH, *OF_SESSIONS}
)
STATES = (("", "Any state"), ("on", "In force"), ("off", "Not in force"))
FIELD_WORDS = {
    "run_as": "OS users",
    "shell_user": "shells as the OS user",
    "session_documents": "session documents",
    "mfa_minutes": "minutes of the second factor",
    "needs_moderator": "needs a moderator",
    "grant_minutes": "minutes of a grant",
    "whose": "whose sessions",
    "needs_mfa": "needs a second factor",
    "needs_reason": "needs a reason",
    "role_arn": "IAM role",
    "valid_from": "valid from",
    "valid_until": "valid until",
    "enabled": "switched on",
    "targets": "instances",
    "users": "people",
}


class RuleRow:
    """A rule as the list shows it."""

    def __init__(self, rule: Rule, moment) -> None:
        facts = services.facts_of(rule)
        self.rule, self.deny = rule, facts.is_deny
        self.people = ["Everybody"] if rule.everybody else [group_title(group) for group in rule.groups.all()]
        self.people += [user.username for user in rule.users.all()]
        self.deeds = rule.deed_words
        self.where = rule.targets
        self.whose = rule.get_whose_display().lower() if rule.whose != Whose.ANY else ""
        self.conditions = overview.conditions(facts)
        if facts.targets is None:
            self.state = ("bad", "Cannot be read")
        elif in_force(facts, moment):
            self.state = ("ok", "In force")
        elif not rule.enabled:
            self.state = ("off", "Switched off")
        elif rule.valid_from is not None and moment < rule.valid_from:
            self.state = ("wait", "Begins later")
        else:
            self.state = ("off", "Expired")


@require_safe
@permission_required(VIEW_PERMISSION)
def rules(request: HttpRequest) -> HttpResponse:
    """All rules, filtered by `q` (words), `effect`, `deed`, `state`. Three queries of its own."""
    asked = {
        name: request.GET.get(name, "").replace("\x00", "")[:100].strip() for name in ("q", "effect", "deed", "state")
    }
    moment = now()
    every = [RuleRow(rule, moment) for rule in Rule.objects.prefetch_related("users", "groups", "approvers")]
    rows = [row for row in every if _matches(row, asked)]
    page = Paginator(rows, ROWS).get_page(request.GET.get("page"))
    counts = Counter(row.state[1] == "In force" for row in every)
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "rows": page,
        "page": page,
        "query": query.urlencode(),
        "asked": asked,
        "has_filter": any(asked.values()),
        "total": len(every),
        "in_force": counts[True],
        "denying": sum(row.deny and row.state[1] == "In force" for row in every),
        "flagged": len({flag.rule.pk for flag in overview.flags([row.rule for row in every], at=moment)}),
        "effects": [("", "Allow and deny"), *Effect.choices],
        "deeds": [("", "Any deed"), *DEED_WORDS.items()],
        "states": STATES,
    }
    return render(request, "policy/rules.html", context | _shared(request, "rules"))


def _matches(row: RuleRow, asked: dict[str, str]) -> bool:
    text = f"{row.rule.name} {row.rule.note} {row.where} {' '.join(row.people)}".lower()
    return (
        all(word in text for word in asked["q"].lower().split())
        and asked["effect"] in ("", row.rule.effect)
        and (not asked["deed"] or asked["deed"] in row.rule.deeds)
        and (not asked["state"] or (asked["state"] == "on") == (row.state[1] == "In force"))
    )


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """A new rule; `?from=` begins with the fields of another."""
    copied = Rule.objects.filter(pk=_id(request.GET.get("from", ""))).first()
    form = RuleForm(request.POST or None, rule=copied)
    if copied is not None:
        form.initial |= {"name": f"{copied.name} (copy)"[:100], "confirm_all": False}
    if request.method == "POST" and picks.is_search(request.POST):
        return _form_page(request, form.as_it_stands())
    if request.method == "POST" and form.is_valid():
        try:
            confirmed = form.cleaned_data["confirm_all"]
            rule = services.create_rule(actor=request.user, confirmed=confirmed, **form.rule_fields)
        except services.RuleProblems as found:
            _add(form, found)
        else:
            messages.success(request, f"Rule “{rule.name}” holds now.")
            return redirect("policy:rules")
    return _form_page(request, form, status=400 if request.method == "POST" else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(VIEW_PERMISSION)
def rule(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One rule with its history; a POST changes it, for whoever may."""
    found = get_object_or_404(Rule.objects.prefetch_related("users", "groups", "approvers"), pk=pk)
    form = RuleForm(request.POST or None, rule=found)
    if request.method == "POST":
        return _change(request, found, form)
    return _form_page(request, form, found)


@permission_required(CHANGE_PERMISSION)
def _change(request: HttpRequest, found: Rule, form: RuleForm) -> HttpResponse:
    if picks.is_search(request.POST):
        return _form_page(request, form.as_it_stands(), found)
    if form.is_valid():
        try:
            services.change_rule(
                found,
                actor=request.user,
                version=form.cleaned_data["version"] or 0,
                confirmed=form.cleaned_data["confirm_all"],
                **form.rule_fields,
            )
        except services.RuleProblems as problems:
            _add(form, problems)
        else:
            messages.success(request, f"Rule “{form.cleaned_data['name']}” is changed; it holds everywhere by now.")
            return redirect("policy:rules")
    return _form_page(request, form, found, status=400)


def _add(form: RuleForm, problems: services.RuleProblems) -> None:
    for name, text in problems.fields.items():
        form.add_error(name, text)


def _form_page(request: HttpRequest, form: RuleForm, found: Rule | None = None, *, status: int = 200) -> HttpResponse:
    listed = ("deeds", "groups", "users", "days", "approvers")
    chosen = {name: {str(value) for value in form[name].value() or ()} for name in listed}
    revisions = RuleRevision.objects.filter(rule_id=found.pk)[:FIRST_REVISIONS] if found else ()
    context = {
        "form": form,
        "rule": found,
        "row": RuleRow(found, now()) if found else None,
        "effect": form["effect"].value(),
        "whose": form["whose"].value(),
        "deed_groups": [
            (title, [(str(deed), DEED_WORDS[deed], deed in chosen["deeds"], deed in ASKED_NOW) for deed in deeds])
            for title, deeds in DEED_GROUPS
        ],
        "picks": [find(request.POST.get(f"find_{name}", ""), chosen[name]) for name, find in picks.PICKS.items()],
        "approvers": [(str(each.pk), group_title(each), str(each.pk) in chosen["approvers"]) for each in _approving()],
        "days": [(number, name, str(number) in chosen["days"]) for number, name in enumerate(DAYS)],
        "effects": Effect.choices,
        "whoses": Whose.choices,
        "zones": ZONES,
        "revisions": [_revision(each) for each in revisions],
    }
    return render(request, "policy/rule.html", context | _shared(request, "rules"), status=status)


def _approving() -> QuerySet[Group]:
    """Groups whose members may approve something, by a role of theirs or as the group itself."""
    app, codename = VOTE_PERMISSION.split(".")
    return Group.objects.filter(permissions__content_type__app_label=app, permissions__codename=codename).order_by(
        "name"
    )


@require_safe
@permission_required(CHANGE_PERMISSION)
def pick(request: HttpRequest) -> HttpResponse:
    """What `find_users` or `find_groups`, as `what` says, finds; a part of the form."""
    what = request.GET.get("what", "")
    name = what if what in picks.PICKS else "users"
    found = picks.PICKS[name](request.GET.get(f"find_{name}", ""))
    return render(request, "policy/_found.html", {"pick": found})


@require_POST
@permission_required(CHANGE_PERMISSION)
def set_enabled(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_object_or_404(Rule, pk=pk)
    enabled = request.POST.get("enabled") == "1"
    services.set_enabled(found, enabled, actor=request.user)
    messages.success(request, f"Rule “{found.name}” is switched {'on' if enabled else 'off'}.")
    return redirect("policy:rules")


@require_POST
@permission_required(CHANGE_PERMISSION)
def delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_object_or_404(Rule, pk=pk)
    version = request.POST.get("version", "")
    services.delete_rule(found, actor=request.user, version=int(version[:9]) if version.isdecimal() else 0)
    messages.success(request, f"Rule “{found.name}” is deleted; its history stays.")
    return redirect("policy:rules")


@require_safe
@permission_required(VIEW_PERMISSION)
def people(request: HttpRequest) -> HttpResponse:
    """The first usernames that `person` finds, for the list of a field."""
    found = picks.users(request.GET.get("person", "")).found
    return render(request, "policy/_people.html", {"people": [each.name for each in found]})


@require_safe
@permission_required(VIEW_PERMISSION)
def simulate(request: HttpRequest) -> HttpResponse:
    """May this person do that there, and why? Asks nothing of AWS and changes nothing."""
    form = SimulateForm(request.GET if "person" in request.GET else None)
    context = {
        "form": form,
        "people": [each.name for each in picks.users(str(form["person"].value() or "")).found],
        "deeds": DEED_WORDS.items(),
        "deed": form["deed"].value() or str(Deed.SHELL),
        "owner": form["owner"].value() or "other",
    }
    if form.is_bound and form.is_valid():
        context |= _answer(request, form.cleaned_data)
    status = 400 if form.is_bound and form.errors else 200
    return render(request, "policy/simulate.html", context | _shared(request, "simulate"), status=status)


def _answer(request: HttpRequest, asked: dict) -> dict:
    found = questions.ask(asked, by=request.user)
    if isinstance(found, questions.Answer):
        return {each.name: getattr(found, each.name) for each in fields(found)} | {"deed_words": DEED_WORDS[found.deed]}
    return {"candidates": found, "query": _without(request, "instance"), "is_unknown": not found}


def _without(request: HttpRequest, name: str) -> str:
    query = request.GET.copy()
    query.pop(name, None)
    return query.urlencode()


@require_safe
@permission_required(VIEW_PERMISSION)
def review(request: HttpRequest) -> HttpResponse:
    """Who may do what where, by group, and the rules that deserve a look."""
    moment = now()
    every = list(Rule.objects.prefetch_related("users", "groups", "approvers"))
    title = request.GET.get("deeds", DEED_GROUPS[0][0])
    deeds = dict(DEED_GROUPS).get(title, DEED_GROUPS[0][1])
    lines = overview.matrix(every, deeds, at=moment)
    context = {
        "columns": [DEED_WORDS[deed] for deed in deeds],
        "chosen": title if title in dict(DEED_GROUPS) else DEED_GROUPS[0][0],
        "deed_groups": [name for name, _ in DEED_GROUPS],
        "lines": lines,
        "flags": overview.flags(every, at=moment),
        "total": len(every),
        "counts": _counts(every, request.user),
    }
    return render(request, "policy/review.html", context | _shared(request, "review"))


MOST_COUNTED = 40  # expressions that one page counts instances of


def _counts(every: list[Rule], user: User) -> list[tuple[str, int, int]]:
    """For each expression in use: it, its rules, and how many instances it selects now."""
    uses = Counter(rule.targets for rule in every)
    parsed = {rule.targets: services.facts_of(rule).targets for rule in every}
    return [
        (text, number, fleet.count(expression, user))
        for text, number in uses.most_common(MOST_COUNTED)
        if (expression := parsed[text]) is not None
    ]


@require_safe
@permission_required(VIEW_PERMISSION)
def history(request: HttpRequest) -> HttpResponse:
    """Every change of every rule, newest first; `rule` for those of one, `before` for older ones."""
    found = RuleRevision.objects.all()
    asked, before = request.GET.get("rule", ""), request.GET.get("before", "")
    if (asked and _id(asked) is None) or (before and _id(before) is None):
        return HttpResponseBadRequest("“rule” and “before” are ids.")
    if asked:
        found = found.filter(rule_id=asked)
    total = found.count()
    if before:
        found = found.filter(pk__lt=before)
    rows = list(found[: REVISIONS + 1])
    context = {
        "revisions": [_revision(each) for each in rows[:REVISIONS]],
        "older": rows[REVISIONS - 1].pk if len(rows) > REVISIONS else None,
        "asked": asked,
        "total": total,
        "living": set(Rule.objects.values_list("pk", flat=True)),
    }
    return render(request, "policy/history.html", context | _shared(request, "history"))


CHANGE_WORDS = {
    "create": ("made", "plus", "ok"),
    "update": ("changed", "adjust", "run"),
    "enable": ("switched on", "power", "ok"),
    "disable": ("switched off", "power", "warn"),
    "delete": ("deleted", "x", "bad"),
}


def _revision(revision: RuleRevision) -> dict:
    verb, icon, kind = CHANGE_WORDS.get(revision.change, (revision.change, "adjust", "run"))
    lines = [
        (FIELD_WORDS.get(name, name), _shown(old), _shown(new))
        for name, old, new in services.difference(revision.before, revision.after)
    ]
    lines = [(name, old, new) for name, old, new in lines if old or new]
    return {"row": revision, "verb": verb, "icon": icon, "kind": kind, "lines": lines}


def _shown(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(DEED_WORDS.get(each, str(each)) for each in value)
    return "" if value is None else str(value)


def _shared(request: HttpRequest, tab: str) -> dict:
    return {"tab": tab, "may_change": request.user.has_perm(CHANGE_PERMISSION)}


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
