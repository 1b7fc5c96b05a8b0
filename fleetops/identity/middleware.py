"""Writing down who was turned away."""

from django.core.exceptions import PermissionDenied

from fleetops.audit.record import Target, deny
from fleetops.errors import Denied


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
