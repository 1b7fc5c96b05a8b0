"""Access for a while: ask for it, answer what others ask, see who has it, take it away."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Count, Max
from django.http import HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity import second_factor
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Instance
from fleetops.inventory.selection import facts_of
from fleetops.policy import services as policy
from fleetops.web.shortcuts import permission_required

from . import grants, questions, tokens
from .grant_forms import CHOICES, AskForm, visible_instances
from .models import Grant, TerminalSession
from .states import GrantState, SessionKind

PAGE_ROWS = 50
TABS = ("waiting", "mine", "open", "all")
HISTORY = timedelta(days=90)
MOST_OTHERS = 8  # people whom the page names


@require_safe
def grant_list(request):
    """What waits for this person, what they asked for, what is open now, or all that they may see.

    Query: `show` (one of TABS), `before` (id of the last row). Context: `tab`, `rows`, `waiting` (how many), `open_now`
    (how many), `next`, `answers`, `sees_tokens`, `is_first`.
    """
    moment = now()
    visible = Grant.objects.visible_to(request.user)
    meant = ApprovalRequest.objects.waiting_for(request.user, moment)
    waiting = visible.filter(state=GrantState.ASKED, request__in=meant)
    active = visible.filter(state=GrantState.ACTIVE, ends_at__gt=moment)
    tab = request.GET.get("show", "")
    answers = request.user.has_perm(approvals.VOTE_PERMISSION)
    if tab not in TABS:
        tab = "waiting" if answers else "mine"
    rows = {"waiting": waiting, "mine": visible.filter(user=request.user), "open": active, "all": visible}[tab]
    before = _id(request.GET.get("before", ""))
    if before:
        rows = rows.filter(pk__lt=before)
    page = list(rows.select_related("request").prefetch_related("targets", "sessions")[: PAGE_ROWS + 1])
    for row in page:
        row.words, row.mark = _words(row), mark_of(row, moment)
    context = {
        "tab": tab,
        "rows": page[:PAGE_ROWS],
        "next": page[PAGE_ROWS - 1].pk if len(page) > PAGE_ROWS else None,
        "waiting": waiting.count(),
        "open_now": active.count(),
        "answers": answers,
        "sees_tokens": tokens.may_deny(request.user),
        "is_first": not before,
    }
    return render(request, "sessions/grants.html", context)


def _words(grant: Grant) -> str:
    targets = list(grant.targets.all())
    where = targets[0].instance_name if len(targets) == 1 else f"{len(targets)} instances"
    return f"{grants.wish_of(grant).words} on {where}"


def mark_of(grant: Grant, moment) -> tuple[str, str]:
    """A status word's kind, and the word; right also while nobody has written down what has become of the grant."""
    if grant.state == GrantState.ASKED:
        is_over = grant.request.state == "pending" and moment >= grant.request.expires_at
        return ("off", "Expired") if is_over else ("hold", "Waiting")
    if grant.state == GrantState.ACTIVE:
        if moment < grant.starts_at:
            return "wait", "Begins later"
        return ("ok", "Open") if moment < grant.ends_at else ("off", "Ended")
    kinds = {GrantState.DENIED: "bad", GrantState.REVOKED: "bad"}
    return kinds.get(GrantState(grant.state), "off"), str(grant.get_state_display())


@require_http_methods(["GET", "HEAD", "POST"])
def ask(request):
    """Ask for access: a form, with what it would take on the instance of `?instance=`; then the request's own page.

    Context: `form`, `instance`, `plan` (grants.Plan), `why_not`, `choices`. Template `sessions/grant_ask.html`.
    """
    form = AskForm(request.POST or None, user=request.user, initial=request.GET.dict() | {"minutes": 60})
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                made = grants.ask(
                    request.user,
                    form.instances,
                    form.wish,
                    reason=form.cleaned_data["reason"],
                    minutes=form.cleaned_data["minutes"],
                    starts_at=form.cleaned_data["starts_at"],
                    expression=form.cleaned_data["expression"],
                )
            except Denied as denied:
                form.add_error(None, str(denied))
                status = 403
            except FieldError as error:
                for name, text in error.fields.items():
                    form.add_error(name if name in form.fields else None, text)
            except UserError as error:
                form.add_error(None, str(error))
            else:
                messages.success(request, "Asked. This page shows the answer, and who has to give it.")
                return redirect(made)
    instance = None
    try:
        instance = visible_instances(request.user).filter(pk=form["instance"].value() or None).first()
    except ValidationError:
        status = 400
    found, why_not = None, ""
    wish = form.wish if form.is_bound else _wished(form)
    if instance is not None:
        try:
            found = grants.plan(request.user, [instance], wish)
        except UserError as error:
            why_not = str(error)
    context = {
        "form": form,
        "instance": instance,
        "wish": wish,
        "kinds": SessionKind.choices,
        "kind": form["kind"].value(),
        "plan": found,
        "why_not": why_not,
        "choices": [each for each in CHOICES if found is None or each[0] <= found.longest_minutes],
    }
    return render(request, "sessions/grant_ask.html", context, status=status)


def _wished(form: AskForm) -> grants.Wish:
    given = form.initial
    kind = given.get("kind", SessionKind.SHELL)
    if kind not in SessionKind.values or kind == SessionKind.FORWARD:
        return grants.Wish()
    return grants.Wish(kind, given.get("run_as", "")[:64], given.get("document", "")[:128])


@require_safe
def grant_page(request, pk: UUID):
    """One request and its grant: what it opens, who has answered, what is open by it; the forms to answer or end it.

    Context: see `_page`. Template `sessions/grant.html`.
    """
    return _page(request, _grant(request, pk))


@require_safe
def of_request(request, pk: UUID):
    """From a request for approval to its page here."""
    return redirect(get_object_or_404(Grant.objects.visible_to(request.user), request_id=pk))


def _grant(request, pk: UUID) -> Grant:
    return get_object_or_404(Grant.objects.visible_to(request.user).select_related("request", "user"), pk=pk)


def _page(request, grant: Grant, *, error: str = "", reason: str = "", status: int = 200):
    moment, asked = now(), grant.request
    votes = list(asked.votes.all())
    yes = sum(vote.approves for vote in votes)
    may_vote = grant.state == GrantState.ASKED and asked.is_open(moment) and approvals.may_vote(asked, request.user)
    is_active = grant.state == GrantState.ACTIVE and moment < grant.ends_at
    may_revoke = is_active and grants.may_revoke(grant, request.user)
    sessions = TerminalSession.objects.visible_to(request.user).filter(grant=grant)
    is_mine = grant.user_id == request.user.pk
    context = {
        "grant": grant,
        "asked": asked,
        "mark": mark_of(grant, moment),
        "words": _words(grant),
        "targets": list(grant.targets.select_related("instance_row")),
        "votes": votes,
        "yes": yes,
        "missing": max(asked.quorum - yes, 0),
        "roles": list(asked.approvers.values_list("name", flat=True)),
        "is_mine": is_mine,
        "is_active": is_active,
        "is_open": grant.holds(moment),
        "seconds": max(0, int((grant.ends_at - moment).total_seconds())) if is_active else 0,
        "may_vote": may_vote and not any(vote.user_id == request.user.pk for vote in votes),
        "may_withdraw": is_mine and grant.state == GrantState.ASKED and asked.is_open(moment),
        "may_revoke": may_revoke,
        "sessions": list(sessions[:PAGE_ROWS]),
        "radius": blast_radius(grant) if may_vote or may_revoke else None,
        "tokens": tokens.standing(grant) if not is_mine and grants.may_revoke(grant, request.user) else None,
        "error": error,
        "reason": reason,
    }
    return render(request, "sessions/grant.html", context, status=status)


def blast_radius(grant: Grant) -> dict:
    """What an approver should know: who else may do it there now, who is there, and what this person did there."""
    rows = grants.instances_of(grant)
    since = now() - HISTORY
    own = TerminalSession.objects.filter(user=grant.user, instance_row__in=rows, created_at__gt=since)
    history = own.aggregate(count=Count("pk"), last=Max("created_at"))
    live = TerminalSession.objects.live().filter(instance_row__in=rows).order_by("-created_at")[:MOST_OTHERS]
    others: list[User] = []
    if rows:
        context = policy.context(grant.user, reason="asked")
        answers = policy.who_may(questions.deed_of(grant.kind), target=facts_of(rows[0]), context=context)
        others = [user for user, answer in answers if answer.allowed and user.pk != grant.user_id]
    standing = Grant.objects.filter(user=grant.user, state=GrantState.ACTIVE, ends_at__gt=now()).exclude(pk=grant.pk)
    return {
        "instances": len(rows),
        "others": [user.username for user in others[:MOST_OTHERS]],
        "more": max(0, len(others) - MOST_OTHERS),
        "sessions": history["count"],
        "last": history["last"],
        "live": list(live),
        "grants": [(each, _words(each)) for each in standing.prefetch_related("targets")[:MOST_OTHERS]],
    }


@require_POST
def vote(request, pk: UUID):
    """Approve or deny what is asked. To deny takes a reason."""
    grant = _grant(request, pk)
    answer, reason = request.POST.get("answer", ""), request.POST.get("reason", "")
    if answer not in {"approve", "deny"}:
        return _page(request, grant, error="Choose Approve or Deny.", reason=reason, status=400)
    try:
        answered = grants.vote(grant, actor=request.user, approve=answer == "approve", reason=reason)
    except approvals.ReasonMissing as missing:
        return _page(request, grant, error=str(missing), reason=reason, status=400)
    left = answered.quorum - answered.votes.filter(approves=True).count()
    if answer == "deny":
        messages.success(request, "Denied. Nothing is opened.")
    elif left > 0:
        messages.success(request, f"Your approval is noted; {left} more {'is' if left == 1 else 'are'} needed.")
    else:
        messages.success(request, f"Approved. {grant.user_name} may connect now.")
    return redirect(grant)


@require_POST
def withdraw(request, pk: UUID):
    """Take back one's own request."""
    grant = _grant(request, pk)
    grants.withdraw(grant, actor=request.user)
    messages.success(request, "The request is taken back.")
    return redirect(grant)


@require_POST
def revoke(request, pk: UUID):
    """End a grant: live terminals close within two seconds. `deny_tokens` takes older AWS credentials away too."""
    grant = _grant(request, pk)
    reason = request.POST.get("reason", "")
    try:
        closing = grants.revoke(grant, actor=request.user, reason=reason)
    except FieldError as error:
        return _page(request, grant, error=str(error), reason=reason, status=400)
    what = f"{closing} terminal{'' if closing == 1 else 's'} closing" if closing else "no terminal was open"
    messages.success(request, f"Revoked; {what}.")
    if request.POST.get("deny_tokens") and grant.user_id != request.user.pk:
        _deny_tokens(request, grant)
    return redirect(grant)


@require_POST
def deny_tokens(request, pk: UUID):
    """Deny AWS credentials of this person that were issued until now, under the roles that the grant was used with."""
    grant = _grant(request, pk)
    _deny_tokens(request, grant)
    return redirect(grant)


def _deny_tokens(request, grant: Grant) -> None:
    _tell(request, tokens.deny_older(grant, actor=request.user))


@require_POST
def allow_tokens(request, pk: UUID):
    """Take that denial away again."""
    grant = _grant(request, pk)
    _tell(request, tokens.allow_again(grant, actor=request.user))
    return redirect(grant)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(tokens.END_PERMISSION)
def token_page(request):
    """How long credentials of sessions live, by role; deny those that were issued until now, or let them again.

    Context: `rows` (tokens.RoleRow), `minutes`, `may_deny`. Template `sessions/tokens.html`.
    """
    rows = tokens.roles(Account.objects.all())
    if request.method == "POST":
        chosen = (request.POST.get("account", ""), request.POST.get("role_arn", ""))
        row = next((each for each in rows if (each.account.account_id, each.arn) == chosen), None)
        if row is None:
            return HttpResponseBadRequest("“role_arn” is no role that sessions are opened under.")
        name, person = request.POST.get("person", "").strip(), None
        if name:
            person = User.objects.filter(username=name).first()
            if person is None:
                raise UserError(f"There is no user “{name}”.")
        if request.POST.get("do") == "allow":
            taken = [each for each in row.denials if not name or each.user_name == name]
            outcomes = [tokens.allow_role(each, actor=request.user) for each in taken]
        else:
            outcomes = [tokens.deny_role(row.account, row.arn, user=person, actor=request.user)]
        _tell(request, outcomes)
        return redirect("sessions:tokens")
    context = {"rows": rows, "minutes": int(tokens.LIFE.total_seconds() // 60), "may_deny": True}
    return render(request, "sessions/tokens.html", context)


def denied(request, instance: Instance, error: policy.PolicyDenied, *, run_as: str):
    """The page that says what is missing, and offers it."""
    context = {
        "instance": instance,
        "denied": error,
        "decision": error.decision,
        "run_as": run_as,
        "back": instance.get_absolute_url(),
        "has_factor": second_factor.is_set_up(request.user),
    }
    return render(request, "sessions/denied.html", context, status=403)


def _tell(request, outcomes: list[tokens.Outcome]) -> None:
    for outcome in outcomes:
        (messages.success if outcome.is_done else messages.warning)(request, outcome.text)


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
