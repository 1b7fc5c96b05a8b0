"""Writing down who was turned away."""

from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from fleetops.audit.record import Target, deny
from fleetops.errors import Denied

from . import second_factor
from .log_in import MFA_AT
from .problems import plain_problem


class SecondFactorMiddleware:
    """Who has a role that asks for a second factor, and has not given one in this log-in, can do nothing but that."""

    OPEN = frozenset({"identity:own", "identity:set_up", "identity:finish", "identity:confirm", "identity:logout"})

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_view(self, request, view, args, kwargs):
        user = request.user
        if not user.is_authenticated or not user.needs_second_factor or request.session.get(MFA_AT):
            return None
        if not getattr(view, "login_required", True) and request.resolver_match.namespace != "api":
            return None
        if request.resolver_match.view_name in self.OPEN:
            return None
        if request.resolver_match.namespace == "api":
            if "Authorization" in request.headers:
                return None  # a token speaks, and is asked for itself
            return plain_problem(403, "A role of yours asks for a second factor: give it in a browser first.")
        if not second_factor.is_set_up(user):
            url = reverse("identity:own")
        else:
            back = request.get_full_path() if request.method == "GET" else reverse("home")
            url = f"{reverse('identity:confirm')}?{urlencode({'next': back})}"
        if getattr(request, "htmx", None):
            response = HttpResponse(status=204)
            response["HX-Redirect"] = url
            return response
        return redirect(url)


class DenialAuditMiddleware:
    """Records every refusal that leaves a view. Stands below UserErrorMiddleware, which makes the page of it."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if isinstance(exception, Denied | PermissionDenied) and not request.audit_context.denial_recorded:
            permission = getattr(exception, "permission", "")
            deny(
                "web.permission.refuse",
                actor=request.user,
                target=Target("web.page", request.path, request.path),
                reason=f"lacks {permission}" if permission else str(exception),
                permission=permission,
                method=request.method,
            )
        return
