"""Writing down who was turned away."""

from django.core.exceptions import PermissionDenied

from fleetops.audit.record import deny
from fleetops.errors import Denied


class DenialAuditMiddleware:
    """Records every refusal that leaves a view. Stands below UserErrorMiddleware, which makes the page of it."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if isinstance(exception, Denied | PermissionDenied) and not request.audit_context.denial_recorded:
            deny(
                "web.permission.refuse",
                actor=request.user,
                reason=str(exception),
                permission=getattr(exception, "permission", ""),
                method=request.method,
                path=request.path,
            )
        return
