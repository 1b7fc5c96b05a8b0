"""Request context for logs and audit, and what a refused or mistaken user gets to see."""

import logging
from functools import partial

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME, SESSION_KEY, get_user
from django.contrib.auth.middleware import LoginRequiredMiddleware as DjangoLoginRequiredMiddleware
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import resolve_url
from whitenoise.middleware import WhiteNoiseMiddleware

from fleetops import metrics
from fleetops.clock import monotonic
from fleetops.errors import Denied, UserError

from .context import within
from .views import denied, user_error

logger = logging.getLogger(__name__)
access = logging.getLogger("fleetops.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Last parts of the names of routes that an open page asks again and again.
_TICKS = frozenset({"live", "counts", "panel", "palette"})


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
            context.stands = partial(_log_in_stands, request)
            began = monotonic()
            response = self.get_response(request)
            _log_access(request, response, monotonic() - began)
            response["X-Request-Id"] = context.request_id
            # What one person was shown is nobody else's, in no proxy's cache and not by "Back" after a log-out.
            response.setdefault("Cache-Control", "private, no-store")
            return response


def route_of(request) -> str:
    """The name of the address that was asked for, as in sessions:open; without the ids in it, and few of them."""
    found = getattr(request, "resolver_match", None)
    return (found.view_name or "unnamed") if found else "none"


def _log_access(request, response, seconds: float) -> None:
    route = route_of(request)
    metrics.HTTP_REQUESTS.labels(_method(request), route, str(response.status_code)).inc()
    metrics.HTTP_SECONDS.labels(route).observe(seconds)
    is_tick = route.rpartition(":")[2] in _TICKS and request.method == "GET"
    access.log(
        logging.DEBUG if is_tick else logging.INFO,
        "page answered method=%s route=%s status=%d ms=%d",
        _method(request),
        route,
        response.status_code,
        seconds * 1000,
    )


def _method(request) -> str:
    """Its method; "other" for one that somebody has made up."""
    return request.method if request.method in _METHODS else "other"


def _second_factor(request, user_id: str) -> float | None:
    """When this log-in's user gave a second factor; a request with a token has none by another's cookie."""
    session = getattr(request, "session", {})
    return session.get("mfa_at") if session.get(SESSION_KEY) == user_id else None


def _log_in_stands(request) -> bool:
    """Whether the log-in that this request came with has not ended since, as Django looks at each new request."""
    fresh = HttpRequest()
    fresh.session = type(request.session)(request.session.session_key)
    return get_user(fresh).is_authenticated


class LoginRequiredMiddleware(DjangoLoginRequiredMiddleware):
    """Django's, and for htmx a redirect of the whole page: a log-in form must not land inside of a table."""

    def process_view(self, request, view_func, view_args, view_kwargs):
        answer = super().process_view(request, view_func, view_args, view_kwargs)
        # Asked of nobody who has not been looked up: a page for all costs no query more.
        user = getattr(request, "_cached_user", None)
        if user is not None and user.is_authenticated:
            request.audit_context.user = str(user.pk)
        return answer

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
