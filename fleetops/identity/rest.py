"""What each api.py stands on: who calls, with which scopes, how often; how lists are paged; what errors read like."""

import logging
from collections.abc import Collection, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.models import QuerySet
from django.http import Http404
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import exceptions, serializers
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.authentication import SessionAuthentication as DjangoSessionAuthentication
from rest_framework.pagination import BasePagination
from rest_framework.parsers import JSONParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from fleetops.audit.record import Target, deny
from fleetops.errors import Denied, UserError
from fleetops.web.context import current
from fleetops.web.shortcuts import require_permission

from . import tokens
from .models import ApiToken
from .pace import take_call
from .problems import PROBLEM, problem_body

logger = logging.getLogger(__name__)

PAGE_SIZE = 100
MOST_ROWS = 500  # of one page
ANY_SCOPE = ""  # for what every token may: say who it is, end itself


# --- Who calls -------------------------------------------------------------------------------------------------------


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer fo_…`. The user it gives can do no more than the token's scopes let through."""

    @sensitive_variables("header", "words")
    def authenticate(self, request):
        header = get_authorization_header(request)
        if not header:
            return None
        words = header.decode("latin-1").split()
        if words[0].lower() != "bearer" or len(words) != 2:
            raise exceptions.AuthenticationFailed("Send the token as “Authorization: Bearer fo_…”, and nothing else.")
        context = current.get()
        try:
            token = tokens.admit(words[1], address=context.source_address)
        except tokens.TokenRefused as refusal:
            raise exceptions.AuthenticationFailed(str(refusal)) from None
        context.source, context.via = "api", f"{token.name} ({token.prefix}…)"
        context.user = str(token.user_id)
        context.stands = lambda: ApiToken.objects.usable().filter(pk=token.pk).exists()
        return token.user, token

    def authenticate_header(self, request) -> str:
        return 'Bearer realm="FleetOps"'


class SessionAuthentication(DjangoSessionAuthentication):
    """The pages' own log-in, with their CSRF token in X-CSRFToken."""


class TokenScheme(OpenApiAuthenticationExtension):
    """How the schema tells of tokens."""

    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A token, made under “API tokens” or by /login/."}


class LogInScheme(OpenApiAuthenticationExtension):
    """How the schema tells of the pages' log-in."""

    target_class = SessionAuthentication
    name = "log-in"

    def get_security_definition(self, auto_schema) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class ScopeMissing(Denied):
    """The token is not for this."""

    def __init__(self, scope: str, token: ApiToken):
        self.permission = f"scope {scope}"
        super().__init__(
            f"The token “{token.name}” lacks the scope {scope}; it has {', '.join(token.scopes)}. "
            "Make a token with that scope, as far as your roles allow it."
        )


class ScopedPermission(BasePermission):
    """Somebody is known, their token has the method's scope, and they have one of the method's permissions, today."""

    def has_permission(self, request, view) -> bool:
        if not request.user or not request.user.is_authenticated:
            raise exceptions.NotAuthenticated("Log in first: send a token as “Authorization: Bearer fo_…”.")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in view.scopes:
            return True  # the view has no such method: 405
        scope = view.scopes[method]
        if isinstance(request.auth, ApiToken) and scope != ANY_SCOPE and scope not in request.auth.scopes:
            raise ScopeMissing(scope, request.auth)
        if permissions := view.permissions.get(method):
            require_permission(request.user, *permissions)
        return True


# --- How often -------------------------------------------------------------------------------------------------------


class CallThrottle(BaseThrottle):
    """At most API_CALLS_PER_MINUTE for each token, and for each person who uses the pages' log-in."""

    seconds = 0

    def allow_request(self, request, view) -> bool:
        who = request.auth.prefix if isinstance(request.auth, ApiToken) else f"user-{request.user.pk}"
        self.seconds = take_call(who, settings.API_CALLS_PER_MINUTE)
        return not self.seconds

    def wait(self) -> int:
        return self.seconds


# --- Pages of a list -------------------------------------------------------------------------------------------------


class Cursor(BasePagination):
    """By key: `next` goes on after the last row that was given, whatever is added or removed meanwhile.

    The view's `newest_first` says which way; keys are UUIDv7, so that means by time.
    """

    def paginate_queryset(self, queryset: QuerySet, request, view=None) -> list[Any]:
        self.size = self._size(request.query_params.get("page_size", ""))
        rows = list(self.behind(queryset, request, view)[: self.size + 1])
        self.next = None
        if len(rows) > self.size:
            rows = rows[: self.size]
            self.next = self.link(request, rows[-1])
        return rows

    @staticmethod
    def behind(queryset: QuerySet, request, view) -> QuerySet:
        """What comes after the place that the request names, in order."""
        descending = getattr(view, "newest_first", True)
        if after := request.query_params.get("after", ""):
            try:
                queryset = queryset.filter(**{f"pk__{'lt' if descending else 'gt'}": after})
            except (ValueError, DjangoValidationError):
                raise exceptions.ValidationError({"after": ["This is no row's id; take it from “next”."]}) from None
        return queryset.order_by("-pk" if descending else "pk")

    @staticmethod
    def link(request, last: Any) -> str:
        """To the page behind the row `last`."""
        query = {**request.query_params.dict(), "after": str(last.pk)}
        return request.build_absolute_uri(f"{request.path}?{urlencode(query)}")

    @staticmethod
    def _size(text: str) -> int:
        if not text:
            return PAGE_SIZE
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_ROWS:
            raise exceptions.ValidationError({"page_size": [f"Write a number from 1 to {MOST_ROWS}."]})
        return int(text)

    def get_paginated_response(self, data) -> Response:
        return Response({"results": data, "next": self.next})

    def get_paginated_response_schema(self, schema) -> dict:
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {
                "results": schema,
                "next": {"type": "string", "format": "uri", "nullable": True, "description": "null: no more rows"},
            },
        }

    def get_schema_operation_parameters(self, view) -> list[dict]:
        return [
            {
                "name": "page_size",
                "in": "query",
                "required": False,
                "description": f"Rows of one page, 1 to {MOST_ROWS}; {PAGE_SIZE} if it is left out.",
                "schema": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
            },
            {
                "name": "after",
                "in": "query",
                "required": False,
                "description": "The id of the last row of the page before; `next` has it.",
                "schema": {"type": "string"},
            },
        ]


# --- Errors ----------------------------------------------------------------------------------------------------------


class ProblemSerializer(serializers.Serializer):
    """What went wrong, after RFC 9457."""

    type = serializers.CharField(help_text="about:blank: what `status` says")
    title = serializers.CharField(help_text="the kind of problem, in two or three words")
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="what happened and how to mend it, for a person")
    request_id = serializers.CharField(help_text="finds the request in the audit log and the server's log")
    errors = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField()),
        required=False,
        help_text="what is wrong with each field",
    )


def problem(status: int, detail: str, **more: Any) -> Response:
    """An error as the API says it."""
    return Response(problem_body(status, detail, **more), status=status, content_type=PROBLEM)


def on_error(exception: Exception, context: dict) -> Response:
    """DRF's exception handler: every error is a problem in JSON, every denial is audited once."""
    request = context["request"]
    if isinstance(exception, UserError) and exception.fields:
        return problem(400, str(exception), errors={name: [text] for name, text in exception.fields.items()})
    if isinstance(exception, Denied | DjangoPermissionDenied | exceptions.PermissionDenied):
        _record_denial(request, exception)
        return problem(403, str(getattr(exception, "detail", exception)) or "You may not do this.")
    if isinstance(exception, UserError):
        logger.info("not done path=%s reason=%s", request.path, exception)
        return problem(409, str(exception))
    if isinstance(exception, Http404 | exceptions.NotFound):
        return problem(404, "There is no such thing here, or it is not for you to see.")
    if isinstance(exception, exceptions.ValidationError):
        errors = _errors(exception.detail)
        said = "; ".join(f"{name}: {' '.join(texts)}" if name else " ".join(texts) for name, texts in errors.items())
        return problem(400, said, errors=errors)
    if isinstance(exception, exceptions.Throttled):
        answer = problem(429, f"These were too many calls for one minute; go on in {exception.wait} s.")
        answer["Retry-After"] = str(exception.wait)
        return answer
    if isinstance(exception, exceptions.APIException):
        answer = problem(exception.status_code, str(exception.detail))
        if header := getattr(exception, "auth_header", None):
            answer["WWW-Authenticate"] = header
        return answer
    logger.error("api failed request=%s path=%s", current.get().request_id, request.path, exc_info=exception)
    return problem(500, "FleetOps made a mistake, and it is written down under this request_id. Nothing else was done.")


def _errors(detail: Any) -> dict[str, list[str]]:
    if not isinstance(detail, dict):
        return {"": [str(each) for each in detail]}
    found: dict[str, list[str]] = {}
    for name, inner in detail.items():
        name = "" if name == "non_field_errors" else str(name)
        if isinstance(inner, dict):
            found |= {f"{name}.{key}".strip("."): texts for key, texts in _errors(inner).items()}
        else:
            found[name] = [str(each) for each in inner]
    return found


def _record_denial(request, exception: Exception) -> None:
    if current.get().denial_recorded:
        return
    permission = getattr(exception, "permission", "")
    deny(
        "web.permission.refuse",
        actor=request.user if request.user and request.user.is_authenticated else None,
        target=Target("web.api", request.path, request.path),
        reason=f"lacks {permission}" if permission else str(getattr(exception, "detail", exception)),
        permission=permission,
        method=request.method,
    )


# --- What is sent ----------------------------------------------------------------------------------------------------


class Asked(serializers.Serializer):
    """A body. A field that there is not is told: a condition that is misspelt must not go unnoticed."""

    def to_internal_value(self, data):
        if isinstance(data, Mapping) and (unknown := [str(name) for name in data if name not in self.fields]):
            raise exceptions.ValidationError({name: ["There is no such field here."] for name in unknown})
        return super().to_internal_value(data)

    @classmethod
    def of(cls, request, **more: Any) -> dict[str, Any]:
        """What the request's body says. Raises ValidationError."""
        asked = cls(data=request.data, **more)
        asked.is_valid(raise_exception=True)
        return asked.validated_data


def choice_in(request, name: str, choices: Collection[str]) -> str:
    """The parameter `name` of a list, one of `choices`; empty if it is left out. Raises ValidationError."""
    value = request.query_params.get(name, "")
    if value and value not in choices:
        raise exceptions.ValidationError({name: [f"Write one of {', '.join(choices)}."]})
    return value


def flag_in(request, name: str) -> bool | None:
    """The parameter `name` of a list, true or false; None if it is left out. Raises ValidationError."""
    return {"": None, "true": True, "false": False}[choice_in(request, name, ("true", "false"))]


def number_in(request, name: str) -> int:
    """The parameter `name`, which must be there. Raises ValidationError."""
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise exceptions.ValidationError({name: ["Write the number, as it was read."]})
    return int(text)


# --- Views -----------------------------------------------------------------------------------------------------------


class Schema(AutoSchema):
    """The schema of one view: besides what DRF knows, its scope and the problems that it may answer."""

    def get_description(self) -> str:
        text = super().get_description() or ""
        scope = self.view.scopes.get(self.method, ANY_SCOPE)
        need = f"Scope: `{scope}`." if scope else "" if self.view.is_open else "Any token will do."
        return "\n\n".join(each for each in (text, need) if each)

    def _get_response_bodies(self, *args, **kwargs):
        bodies = super()._get_response_bodies(*args, **kwargs)
        body = self._get_response_for_code(ProblemSerializer, "default", media_types=[PROBLEM])
        return bodies | {"default": body | {"description": "What went wrong."}}


class ApiView(APIView):
    """A view of the API. `scopes` says for each of its methods which scope a token needs, `permissions` which one of
    several permissions its owner needs besides. Rows come from `visible_to`, deeds from the room's services."""

    authentication_classes = (TokenAuthentication, SessionAuthentication)
    permission_classes = (ScopedPermission,)
    throttle_classes = (CallThrottle,)
    renderer_classes = (JSONRenderer,)
    parser_classes = (JSONParser,)
    pagination_class = Cursor
    metadata_class = None  # OPTIONS: 405; the schema tells
    schema = Schema()

    scopes: ClassVar[Mapping[str, str]] = {}
    permissions: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    is_open = False  # to whom nobody knows
    newest_first = True

    def finalize_response(self, request, response, *args, **kwargs):
        response = super().finalize_response(request, response, *args, **kwargs)
        if getattr(response, "content_type", None) == PROBLEM:
            response.accepted_renderer = JSONRenderer()  # whatever form the view's good answers have
        return response

    def get_exception_handler(self):
        return on_error
