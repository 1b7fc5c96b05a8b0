"""The API's door: who one is, and one's own tokens."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import NotFound
from rest_framework.response import Response

from . import tokens
from .models import ApiToken, User
from .rest import ANY_SCOPE, ApiView


class TokenSerializer(serializers.ModelSerializer):
    """A token, without what only its owner ever saw."""

    state = serializers.ChoiceField(choices=["usable", "expired", "revoked"], read_only=True)
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


urlpatterns = [
    path("users/me/", Me.as_view(), name="me"),
    path("tokens/", Tokens.as_view(), name="tokens"),
    path("tokens/current/", CurrentToken.as_view(), name="current_token"),
    path("tokens/<uuid:pk>/", Token.as_view(), name="token"),
]
