"""One's own page: the second factor."""

from django.contrib import auth, messages
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.audit.record import deny
from fleetops.errors import UserError

from . import log_in, second_factor, totp
from .forms import CodeForm, RemoveForm

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
