"""The API's door: logging in for a token, who one is, one's own tokens."""

from datetime import timedelta

from axes import utils as axes
from django.conf import settings
from django.contrib import auth
from django.shortcuts import get_object_or_404
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import NotFound
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from fleetops.audit.record import Target, deny
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.web.context import current

from . import access_keys, second_factor, tokens
from .models import TOKEN_STATES, AccessKey, ApiToken, User
from .pace import take_call
from .rest import ANY_SCOPE, ApiView, problem
from .scopes import SCOPES, may_have

DEFAULT_DAYS = 30


class TokenSerializer(serializers.ModelSerializer):
    """A token, without what only its owner ever saw."""

    state = serializers.ChoiceField(choices=TOKEN_STATES, read_only=True)
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)
    networks = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = ApiToken
        fields = (
            "id",
            "name",
            "prefix",
            "scopes",
            "networks",
            "state",
            "created_at",
            "expires_at",
            "last_used_at",
            "last_used_address",
            "revoked_at",
        )
        read_only_fields = fields


class MeSerializer(serializers.ModelSerializer):
    """Who calls, and what they may do with what they called with."""

    display_name = serializers.CharField(read_only=True)
    roles = serializers.SerializerMethodField()
    permissions = serializers.SerializerMethodField(help_text="what both roles and token allow")
    has_second_factor = serializers.SerializerMethodField()
    token = serializers.SerializerMethodField(help_text="null for who calls with the pages' log-in")

    class Meta:
        model = User
        fields = ("id", "username", "display_name", "email", "roles", "permissions", "has_second_factor", "token")
        read_only_fields = fields

    def get_roles(self, user: User) -> list[str]:
        return sorted(user.groups.values_list("name", flat=True))

    def get_permissions(self, user: User) -> list[str]:
        return sorted(user.get_all_permissions())

    def get_has_second_factor(self, user: User) -> bool:
        factor = getattr(user, "second_factor", None)
        return factor is not None and factor.confirmed_at is not None

    @extend_schema_field(TokenSerializer(allow_null=True))
    def get_token(self, user: User) -> dict | None:
        token = self.context["request"].auth
        return TokenSerializer(token).data if isinstance(token, ApiToken) else None


class Me(ApiView):
    """Who you are here: name, roles, permissions, and the token that you call with."""

    scopes = {"GET": ANY_SCOPE}

    @extend_schema(operation_id="users_me", responses=MeSerializer)
    def get(self, request):
        return Response(MeSerializer(request.user, context={"request": request}).data)


class Tokens(ApiView, generics.ListAPIView):
    """Your tokens, the newest first, ended ones too. New ones are made on the page or by /login/: never by a token."""

    scopes = {"GET": "tokens:manage"}
    serializer_class = TokenSerializer
    queryset = ApiToken.objects.none()

    def get_queryset(self):
        return ApiToken.objects.filter(user_id=self.request.user.pk)


class CurrentToken(ApiView):
    """The token that you call with."""

    scopes = {"GET": ANY_SCOPE, "DELETE": ANY_SCOPE}

    @extend_schema(operation_id="tokens_current", responses=TokenSerializer)
    def get(self, request):
        return Response(TokenSerializer(self._token(request)).data)

    @extend_schema(operation_id="tokens_current_revoke", responses={204: None})
    def delete(self, request):
        """Revoke it: this is its last call."""
        tokens.revoke(self._token(request), actor=request.user)
        return Response(status=204)

    @staticmethod
    def _token(request) -> ApiToken:
        if not isinstance(request.auth, ApiToken):
            raise NotFound
        return request.auth


class Token(ApiView):
    """One of your tokens."""

    scopes = {"GET": "tokens:manage", "DELETE": "tokens:manage"}

    @extend_schema(operation_id="tokens_get", responses=TokenSerializer)
    def get(self, request, pk):
        return Response(TokenSerializer(self._token(request, pk)).data)

    @extend_schema(operation_id="tokens_revoke", responses={204: None})
    def delete(self, request, pk):
        """Revoke it: what holds it is turned away from the next call on."""
        tokens.revoke(self._token(request, pk), actor=request.user)
        return Response(status=204)

    @staticmethod
    def _token(request, pk) -> ApiToken:
        return get_object_or_404(ApiToken.objects.select_related("user").filter(user_id=request.user.pk), pk=pk)


class AccessKeySerializer(serializers.ModelSerializer):
    """An access key for the aws CLI, without its secret."""

    state = serializers.ChoiceField(choices=TOKEN_STATES, read_only=True)
    networks = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = AccessKey
        fields = (
            "id",
            "name",
            "key_id",
            "networks",
            "state",
            "created_at",
            "expires_at",
            "last_used_at",
            "last_used_address",
            "revoked_at",
        )
        read_only_fields = fields


class AccessKeys(ApiView, generics.ListAPIView):
    """Your access keys, the newest first, ended ones too. New ones are made on the page: never by a token."""

    scopes = {"GET": "tokens:manage"}
    serializer_class = AccessKeySerializer
    queryset = AccessKey.objects.none()

    def get_queryset(self):
        return AccessKey.objects.filter(user_id=self.request.user.pk)


class OneAccessKey(ApiView):
    """One of your access keys."""

    scopes = {"GET": "tokens:manage", "DELETE": "tokens:manage"}

    @extend_schema(operation_id="access_keys_get", responses=AccessKeySerializer)
    def get(self, request, pk):
        return Response(AccessKeySerializer(self._key(request, pk)).data)

    @extend_schema(operation_id="access_keys_revoke", responses={204: None})
    def delete(self, request, pk):
        """Revoke it: what came with it is shut out within two seconds."""
        access_keys.revoke(self._key(request, pk), actor=request.user)
        return Response(status=204)

    @staticmethod
    def _key(request, pk) -> AccessKey:
        return get_object_or_404(AccessKey.objects.select_related("user").filter(user_id=request.user.pk), pk=pk)


class LoginSerializer(serializers.Serializer):
    """Name and password, the second factor's code where there is one, and what the token is to be."""

    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)
    code = serializers.CharField(
        max_length=64, required=False, default="", allow_blank=True, help_text="of the app, or a recovery code"
    )
    name = serializers.CharField(max_length=64, required=False, default="fleetops login", help_text="of the token")
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=list(SCOPES)),
        required=False,
        help_text="left out: all that your roles allow",
    )
    days = serializers.IntegerField(min_value=1, required=False, default=DEFAULT_DAYS, help_text="until it ends")
    networks = serializers.ListField(
        child=serializers.CharField(max_length=64), required=False, default=list, help_text="empty: from anywhere"
    )


class NewTokenSerializer(TokenSerializer):
    """A new token, with its text: it is given this once."""

    token = serializers.CharField(read_only=True)
    username = serializers.CharField(source="user.username", read_only=True)

    class Meta(TokenSerializer.Meta):
        fields = ("token", "username", *TokenSerializer.Meta.fields)
        read_only_fields = fields


class LoginThrottle(BaseThrottle):
    """By address, whatever the name is."""

    seconds = 0

    def allow_request(self, request, view) -> bool:
        self.seconds = take_call(f"login-{current.get().source_address}", settings.API_LOGINS_PER_MINUTE)
        return not self.seconds

    def wait(self) -> int:
        return self.seconds


class Login(ApiView):
    """The way in for programs: a token for name and password."""

    is_open = True
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (LoginThrottle,)
    scopes = {"POST": ANY_SCOPE}

    @extend_schema(operation_id="login", request=LoginSerializer, responses={201: NewTokenSerializer}, auth=[])
    @method_decorator(sensitive_variables())
    def post(self, request):
        """Make a token. A 401 whose `code_needed` is true asks for the same again with the second factor's code."""
        asked = LoginSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        current.get().source = "api"
        user = self._user(request._request, given["username"], given["password"])
        if user is None:
            return problem(401, "Username and password do not match.")
        if refusal := self._second_factor(user, given["code"]):
            return refusal
        # axes forgets the wrong passwords before this one, as it does when somebody logs in on the page.
        axes.reset(ip=current.get().source_address, username=user.username)
        scopes = given.get("scopes") or [scope for scope in SCOPES if may_have(scope, user.has_perm)]
        token, text = tokens.create(
            user,
            name=given["name"],
            scopes=scopes,
            expires_at=now() + timedelta(days=given["days"]),
            networks=given["networks"],
            actor=user,
            how="log-in",
        )
        token.token = text
        return Response(NewTokenSerializer(token).data, status=201)

    @staticmethod
    def _user(request, username: str, password: str) -> User | None:
        user = auth.authenticate(request, username=username, password=password)
        if user is None:
            locked = getattr(request, "axes_locked_out", False)
            known = User.objects.filter(username=username).first()
            deny(
                "identity.login.refuse",
                actor=None,
                # An unknown name is not written down: it may well be a password in the wrong field.
                target=known or Target("identity.user", "", "an unknown name"),
                reason="too many wrong passwords" if locked else "wrong password" if known else "unknown name",
            )
        return user

    @staticmethod
    def _second_factor(user: User, code: str) -> Response | None:
        """The refusal, if the second factor is missing or wrong."""
        if not second_factor.is_set_up(user):
            if user.needs_second_factor:
                raise UserError(
                    "A role of yours asks for a second factor, which you have not set up yet: log in to FleetOps in a "
                    "browser once."
                )
            return None
        if not code:
            return problem(401, "A second factor is set up: send its code too.", code_needed=True)
        if not second_factor.check(user, code):
            return problem(401, "That code is not right, or was used already.", code_needed=True)
        return None


urlpatterns = [
    path("login/", Login.as_view(), name="login"),
    path("users/me/", Me.as_view(), name="me"),
    path("tokens/", Tokens.as_view(), name="tokens"),
    path("tokens/current/", CurrentToken.as_view(), name="current_token"),
    path("tokens/<uuid:pk>/", Token.as_view(), name="token"),
    path("access-keys/", AccessKeys.as_view(), name="access_keys"),
    path("access-keys/<uuid:pk>/", OneAccessKey.as_view(), name="access_key"),
]
