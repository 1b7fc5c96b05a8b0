"""One's own page: the second factor and the API tokens; and the administrators' view of everybody's tokens."""

from datetime import timedelta

from django.contrib import auth, messages
from django.core.paginator import Paginator
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.audit.record import deny
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.web.shortcuts import permission_required

from . import log_in, second_factor, tokens, totp
from .forms import CodeForm, RemoveForm, TokenForm
from .models import ApiToken
from .scopes import SCOPES, may_have

ROWS = 100


# --- The second factor -----------------------------------------------------------------------------------------------


@require_safe
def own(request):
    """One's own second factor: whether it is set up, and how it is."""
    return _own_page(request)


def _own_page(request, *, form=None, status=200):
    is_set_up = second_factor.is_set_up(request.user)
    context = {
        "is_set_up": is_set_up,
        "is_asked": request.user.needs_second_factor,
        "codes_left": second_factor.codes_left(request.user) if is_set_up else 0,
        "form": form or RemoveForm(),
    }
    return render(request, "identity/own.html", context, status=status)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@log_in.confirmed("identity:own")
@sensitive_variables("secret")
def set_up(request):
    """POST begins with a new secret; GET shows it until a code of it has come."""
    if request.method == "POST":
        second_factor.begin(request.user)
        return redirect("identity:set_up")
    secret = second_factor.pending_secret(request.user)
    return _set_up_page(request, secret, CodeForm()) if secret else redirect("identity:own")


@sensitive_variables("secret", "url")
def _set_up_page(request, secret, form, *, status=200):
    url = totp.url_of(secret, username=request.user.username, issuer=f"FleetOps {request.get_host()}")
    context = {"picture": totp.picture_of(url), "secret": totp.text_of(secret), "form": form}
    return render(request, "identity/set_up.html", context, status=status)


@never_cache
@require_POST
@log_in.confirmed("identity:own")
def finish(request):
    """Take the first code; then the recovery codes are shown, this once."""
    form = CodeForm(request.POST)
    secret = second_factor.pending_secret(request.user)
    if secret is None:
        return redirect("identity:own")
    if form.is_valid():
        try:
            codes = second_factor.finish(request.user, form.cleaned_data["code"])
        except UserError as error:
            form.add_error("code", str(error))
        else:
            log_in.prove(request, with_second_factor=True)
            return render(request, "identity/codes.html", {"codes": codes, "is_new": True})
    return _set_up_page(request, secret, form, status=400)


@never_cache
@require_POST
@log_in.confirmed("identity:own")
def codes(request):
    """New recovery codes, shown this once."""
    fresh = second_factor.renew_codes(request.user, actor=request.user)
    return render(request, "identity/codes.html", {"codes": fresh, "is_new": False})


@require_POST
@sensitive_post_parameters("password")
def remove(request):
    """Take one's second factor away, with password and code."""
    form = RemoveForm(request.POST)
    if not form.is_valid():
        return _own_page(request, form=form, status=400)
    # By way of axes, which counts wrong ones.
    if auth.authenticate(request, username=request.user.username, password=form.cleaned_data["password"]) is None:
        deny("identity.confirm.refuse", actor=request.user, target=request.user, reason="wrong password")
        form.add_error("password", "That is not your password.")
        return _own_page(request, form=form, status=400)
    if not second_factor.check(request.user, form.cleaned_data["code"]):
        form.add_error("code", "That code is not right, or was used already.")
        return _own_page(request, form=form, status=400)
    second_factor.remove(request.user, actor=request.user)
    request.session.pop(log_in.MFA_AT, None)
    messages.success(request, "The second factor is removed: your password alone lets you in.")
    return redirect("identity:own")


# --- Tokens ----------------------------------------------------------------------------------------------------------


@require_safe
def own_tokens(request):
    """One's own tokens: those that can be used, then those that ended, the newest first."""
    rows = list(ApiToken.objects.filter(user=request.user)[: 2 * ROWS])
    usable = [token for token in rows if token.state == "usable"]
    context = {"usable": usable, "ended": [token for token in rows if token.state != "usable"][:ROWS]}
    return render(request, "identity/tokens.html", context)


@require_safe
@permission_required("identity.administer")
def all_tokens(request):
    """Everybody's tokens, the newest first, in pages of 100."""
    visible = ApiToken.objects.visible_to(request.user).select_related("user")
    if person := request.GET.get("user", "").replace("\x00", ""):
        visible = visible.filter(user__username=person)
    page = Paginator(visible, ROWS).get_page(request.GET.get("page"))
    usable = ApiToken.objects.usable().count()
    return render(request, "identity/all_tokens.html", {"page": page, "usable": usable, "person": person})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@log_in.confirmed()
@sensitive_variables("text")
def create_token(request):
    """Make a token; its text is shown in the answer, this once."""
    form = TokenForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        ends = now() + timedelta(days=asked.pop("days"))
        try:
            token, text = tokens.create(request.user, actor=request.user, expires_at=ends, **asked)
        except Denied:
            raise
        except UserError as error:
            form.add_error(None, str(error))
        else:
            return render(request, "identity/token.html", {"token": token, "text": text})
    chosen = set(form["scopes"].value() or ())
    scopes = [
        (name, scope.title, name in chosen) for name, scope in SCOPES.items() if may_have(name, request.user.has_perm)
    ]
    context = {"form": form, "scopes": scopes}
    return render(request, "identity/create_token.html", context, status=400 if request.method == "POST" else 200)


@require_POST
def revoke_token(request, pk):
    """End a token now: one's own, or, for who administers, anybody's."""
    token = get_object_or_404(ApiToken.objects.visible_to(request.user).select_related("user"), pk=pk)
    tokens.revoke(token, actor=request.user)
    messages.success(request, f"“{token.name}” is revoked: what holds it is turned away.")
    back = request.POST.get("next", "")
    if not back.startswith("/") or not url_has_allowed_host_and_scheme(back, allowed_hosts=None):
        back = reverse("identity:tokens")
    return redirect(back)
