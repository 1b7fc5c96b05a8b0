"""One's own API tokens; and the administrators' view of everybody's."""

from datetime import timedelta

from django.contrib import messages
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.web.shortcuts import back_or, permission_required

from . import bearer_pages, log_in, tokens
from .forms import TokenForm
from .models import ApiToken
from .scopes import SCOPES, may_have


@require_safe
def own_tokens(request):
    """One's own tokens: those that can be used, then those that ended, the newest first."""
    return render(request, "identity/tokens.html", bearer_pages.own(request, ApiToken))


@require_safe
@permission_required("identity.administer")
def all_tokens(request):
    """Everybody's tokens, the newest first, in pages of 100."""
    return render(request, "identity/all_tokens.html", bearer_pages.everybodys(request, ApiToken))


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
    return redirect(back_or(request, reverse("identity:tokens")))
