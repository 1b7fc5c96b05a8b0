"""One's own access keys: what the aws CLI signs with. Administrators see everybody's, to revoke them."""

from datetime import timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.web.shortcuts import back_or, permission_required

from . import access_keys, bearer_pages, log_in
from .forms import KeyForm
from .models import AccessKey

PROFILE = "fleetops"  # of the CLI, in the lines that are shown
REGION = "us-east-1"  # the CLI wants one; FleetOps looks in all


def door_url(request) -> str:
    """What --endpoint-url takes: the door is at the process that holds the terminals."""
    if settings.TERMINAL_URL:
        parts = urlsplit(settings.TERMINAL_URL)
        scheme = "https" if parts.scheme == "wss" else "http"
        return f"{scheme}://{parts.netloc}/aws/"
    host = urlsplit(f"//{request.get_host()}").hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"{request.scheme}://{host}:{settings.TERMINAL_PORT}/aws/"


@require_safe
def own_keys(request):
    """One's own keys: those that can be used, then those that ended, the newest first."""
    context = bearer_pages.own(request, AccessKey) | {"lines": _lines(door_url(request))}
    return render(request, "identity/keys.html", context)


@require_safe
@permission_required("identity.administer")
def all_keys(request):
    """Everybody's keys, the newest first, in pages of 100."""
    return render(request, "identity/all_keys.html", bearer_pages.everybodys(request, AccessKey))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@log_in.confirmed()
@sensitive_variables("secret", "shells")
def create_key(request):
    """Make a key; its secret is shown in the answer, this once, with the lines that a shell wants."""
    form = KeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        ends = now() + timedelta(days=asked.pop("days"))
        try:
            key, secret = access_keys.create(request.user, actor=request.user, expires_at=ends, **asked)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            shells = _shells(key, secret, door_url(request))
            return render(request, "identity/key.html", {"key": key, "secret": secret, "shells": shells})
    status = 400 if request.method == "POST" else 200
    return render(request, "identity/create_key.html", {"form": form}, status=status)


@require_POST
def revoke_key(request, pk):
    """End a key now: one's own, or, for who administers, anybody's."""
    key = get_object_or_404(AccessKey.objects.visible_to(request.user).select_related("user"), pk=pk)
    access_keys.revoke(key, actor=request.user)
    messages.success(request, f"“{key.name}” is revoked: what came with it is shut out within two seconds.")
    return redirect(back_or(request, reverse("identity:keys")))


def _lines(door: str) -> list[tuple[str, str]]:
    """What one can do with a key: a title, and the line."""
    start = f"aws ssm start-session --endpoint-url {door} --target NAME"
    port = '{"portNumber":["5432"],"localPortNumber":["15432"]}'
    return [
        ("Who am I", f"aws sts get-caller-identity --endpoint-url {door}"),
        ("A shell", start),
        ("A command", f"{start} --document-name AWS-StartNonInteractiveCommand --parameters 'command=[\"uname -a\"]'"),
        ("A port", f"{start} --document-name AWS-StartPortForwardingSession --parameters '{port}'"),
    ]


@sensitive_variables("secret")
def _shells(key: AccessKey, secret: str, door: str) -> list[tuple[str, str]]:
    """For each kind of shell, what to type into it."""
    variables = {
        "AWS_ACCESS_KEY_ID": key.key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL_SSM": door,
        "AWS_DEFAULT_REGION": REGION,
    }
    configured = {"aws_access_key_id": key.key_id, "aws_secret_access_key": secret, "region": REGION}
    profile = "\n".join(f"aws configure set {name} {value} --profile {PROFILE}" for name, value in configured.items())
    start = "aws ssm start-session --target NAME"
    return [
        ("bash, zsh", "\n".join(f"export {name}='{value}'" for name, value in variables.items()) + f"\n{start}"),
        ("PowerShell", "\n".join(f"$env:{name} = '{value}'" for name, value in variables.items()) + f"\n{start}"),
        ("A profile of the aws CLI", f"{profile}\n{start} --profile {PROFILE} --endpoint-url {door}"),
    ]
