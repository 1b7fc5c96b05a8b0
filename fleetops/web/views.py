"""Pages for when something is not right."""

import logging
import secrets
import sys
from urllib.parse import urlsplit, urlunsplit

from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import requires_csrf_token
from django.views.decorators.http import require_safe

from fleetops.errors import Denied, UserError

from . import navigation

logger = logging.getLogger(__name__)

# Crockford's base 32: no letter that reads like a digit, for an id that is told over the telephone.
_ERROR_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@never_cache
@require_safe
def counts(request):
    """What the sidebar counts, by the URL of each item, as JSON; open pages ask now and then."""
    return JsonResponse(navigation.counts(request.user))


def _page(request, status: int, context: dict) -> HttpResponse:
    """A page for a person, or, for htmx, an alert that htmx puts where the page's messages stand."""
    if getattr(request, "htmx", None):
        response = render(request, "web/_error.html", context, status=status)
        response["HX-Retarget"], response["HX-Reswap"] = "#toasts", "beforeend"
        return response
    user = getattr(request, "user", None)
    layout = "base.html" if user is not None and user.is_authenticated else "web/plain.html"
    return render(request, "web/error.html", context | {"layout": layout, "back": _back(request)}, status=status)


def _back(request) -> str:
    """The page that the person comes from, if it is another one of ours."""
    referrer = urlsplit(request.headers.get("Referer", ""))
    if referrer.netloc != request.headers.get("Host", "") or referrer.path == request.path:
        return ""
    return urlunsplit(("", "", "/" + referrer.path.lstrip("/"), referrer.query, ""))


def denied(request, error: Denied) -> HttpResponse:
    return _page(request, 403, {"kind": "denied", "text": str(error), "permission": getattr(error, "permission", "")})


def user_error(request, error: UserError) -> HttpResponse:
    return _page(request, 409, {"kind": "user_error", "text": str(error)})


@requires_csrf_token
def bad_request(request, exception=None):
    return _page(request, 400, {"kind": "bad_request"})


@requires_csrf_token
def permission_denied(request, exception=None):
    return _page(request, 403, {"kind": "denied", "text": str(exception or "")})


@requires_csrf_token
def csrf_failure(request, reason=""):
    return _page(request, 403, {"kind": "csrf"})


@requires_csrf_token
def page_not_found(request, exception=None):
    return _page(request, 404, {"kind": "not_found"})


@requires_csrf_token
def server_error(request):
    """Our fault: an id to hand on, and what is not lost. Needs no database, no session and no built style sheet."""
    error_id = "E-" + "".join(secrets.choice(_ERROR_LETTERS) for _ in range(5))
    request_id = getattr(request, "request_id", "")
    logger.error("page failed error=%s request=%s path=%s", error_id, request_id, request.path, exc_info=sys.exc_info())
    try:
        style = static("app.css")
    except ValueError:  # the manifest of static files is missing: the page is readable without
        style = ""
    context = {"error_id": error_id, "request_id": request_id, "style": style, "path": request.get_full_path()}
    if request.headers.get("HX-Request") == "true":
        response = HttpResponse(render_to_string("web/_server_error.html", context), status=500)
        response["HX-Retarget"], response["HX-Reswap"] = "#toasts", "beforeend"
        return response
    return HttpResponse(render_to_string("web/server_error.html", context), status=500)
