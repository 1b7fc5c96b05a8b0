"""Request context for logs and audit, and what a refused or mistaken user gets to see."""

import logging
from functools import partial

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME, SESSION_KEY
from django.contrib.auth.middleware import LoginRequiredMiddleware as DjangoLoginRequiredMiddleware
from django.http import HttpResponse, QueryDict
from django.shortcuts import resolve_url
from whitenoise.middleware import WhiteNoiseMiddleware

from fleetops.errors import Denied, UserError

from .context import within
from .views import denied, user_error

logger = logging.getLogger(__name__)


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise's, but each file in one piece: ASGI would read it whole in any case, and warn of it."""

    @staticmethod
    def serve(static_file, request):
        found = static_file.get_response(request.method, request.META)
        response = HttpResponse(status=int(found.status))
        if found.file:
            with found.file:
                response.content = found.file.read()
        del response["content-type"]
        for name, value in found.headers:
            response[name] = value
        return response


class RequestContextMiddleware:
    """Gives each request an id, which goes into its audit rows, its log lines and the X-Request-Id of its answer.

    An answer that says nothing of its own about caching is kept by nobody.
    """

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        # REMOTE_ADDR is the client's: uvicorn takes a proxy's word only from FORWARDED_ALLOW_IPS.
        with within("browser", source_address=request.META.get("REMOTE_ADDR", "")) as context:
            request.audit_context, request.request_id = context, context.request_id
            context.second_factor = partial(_second_factor, request)
            response = self.get_response(request)
            response["X-Request-Id"] = context.request_id
            # What one person was shown is nobody else's, in no proxy's cache and not by "Back" after a log-out.
            response.setdefault("Cache-Control", "private, no-store")
            return response


def _second_factor(request, user_id: str) -> float | None:
    """When this log-in's user gave a second factor; a request with a token has none by another's cookie."""
    session = getattr(request, "session", {})
    return session.get("mfa_at") if session.get(SESSION_KEY) == user_id else None


class LoginRequiredMiddleware(DjangoLoginRequiredMiddleware):
    """Django's, and for htmx a redirect of the whole page: a log-in form must not land inside of a table."""

    def handle_no_permission(self, request, view_func):
        if not getattr(request, "htmx", None):
            return super().handle_no_permission(request, view_func)
        query = QueryDict(mutable=True)
        query[REDIRECT_FIELD_NAME] = request.htmx.current_url_abs_path or resolve_url(settings.LOGIN_REDIRECT_URL)
        response = HttpResponse(status=204)
        response["HX-Redirect"] = f"{resolve_url(settings.LOGIN_URL)}?{query.urlencode(safe='/')}"
        return response


class UserErrorMiddleware:
    """UserError becomes a page that shows its text as it stands (409), Denied one that names what is missing (403)."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if isinstance(exception, Denied):
            logger.info("refused path=%s reason=%s", request.path, exception)
            return denied(request, exception)
        if isinstance(exception, UserError):
            logger.info("not done path=%s reason=%s", request.path, exception)
            return user_error(request, exception)
        return None
