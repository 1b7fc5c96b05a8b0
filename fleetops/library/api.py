"""Documents over the API: list them, read a version, make and change the accounts' own."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.documents.parameters import Parameter
from fleetops.identity.rest import ApiView
from fleetops.inventory.models import Region

from . import services
from .content import FORMATS, LONGEST, TYPES, ContentError
from .listing import FILTERS, filtered
from .models import Document, DocumentVersion

SEE, CHANGE = (services.VIEW_PERMISSION,), (services.CHANGE_PERMISSION,)


class DocumentSerializer(serializers.ModelSerializer):
    """One document of an account and region."""

    account_id = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    platform_types = serializers.ListField(child=serializers.CharField(), read_only=True)
    tags = serializers.DictField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = Document
        fields = (
            "id",
            "name",
            "account_id",
            "region",
            "owner",
            "document_type",
            "schema_version",
            "document_format",
            "platform_types",
            "default_version",
            "latest_version",
            "description",
            "tags",
            "made_at",
            "read_at",
        )
        read_only_fields = fields


class ParameterSerializer(serializers.Serializer):
    """One parameter that a document takes."""

    name = serializers.CharField()
    type = serializers.CharField()
    description = serializers.CharField()
    is_required = serializers.BooleanField()
    default = serializers.SerializerMethodField()
    allowed_values = serializers.ListField(child=serializers.CharField())
    allowed_pattern = serializers.CharField()

    def get_default(self, parameter: Parameter) -> str | None:
        return parameter.default_text


class VersionSerializer(serializers.ModelSerializer):
    """One version of a document, with its text."""

    parameters = serializers.SerializerMethodField()

    class Meta:
        model = DocumentVersion
        fields = ("number", "name", "status", "document_format", "made_at", "content", "parameters")
        read_only_fields = fields

    @extend_schema(responses=ParameterSerializer(many=True))
    def get_parameters(self, version: DocumentVersion) -> list[dict]:
        try:
            declared = services.read(version).parameters
        except ContentError:
            return []
        return list(ParameterSerializer(list(declared.values()), many=True).data)


class NewVersionSerializer(serializers.Serializer):
    """A version's text."""

    content = serializers.CharField(max_length=LONGEST, trim_whitespace=False)
    document_format = serializers.ChoiceField(choices=FORMATS, default="JSON")
    version_name = serializers.CharField(max_length=128, required=False, allow_blank=True, default="")
    make_default = serializers.BooleanField(default=False)


class NewDocumentSerializer(serializers.Serializer):
    """A document with its first version."""

    name = serializers.CharField(max_length=128)
    account_id = serializers.CharField(max_length=12)
    region = serializers.CharField(max_length=32)
    document_type = serializers.ChoiceField(choices=TYPES, default="Command")
    content = serializers.CharField(max_length=LONGEST, trim_whitespace=False)
    document_format = serializers.ChoiceField(choices=FORMATS, default="JSON")
    version_name = serializers.CharField(max_length=128, required=False, allow_blank=True, default="")


class DefaultSerializer(serializers.Serializer):
    """Which version is to be run where none is named."""

    version = serializers.IntegerField(min_value=1)


class Documents(ApiView, generics.ListAPIView):
    """Documents, by name."""

    scopes = {"GET": "documents:read", "POST": "documents:write"}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = DocumentSerializer
    queryset = Document.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="Words in the name or the description."),
            OpenApiParameter("owner", str, enum=["own", "aws", "shared"]),
            OpenApiParameter("type", str, description="AWS's DocumentType."),
            OpenApiParameter("account", str, description="Twelve digits."),
            OpenApiParameter("region", str),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = {key: self.request.query_params.get(key, "").replace("\x00", "")[:200] for key in FILTERS}
        found = filtered(Document.objects.visible_to(self.request.user).present(), asked)
        return found.select_related("account", "region")

    @extend_schema(operation_id="documents_create", request=NewDocumentSerializer, responses={201: DocumentSerializer})
    def post(self, request):
        """Make a document. It is checked before AWS is asked."""
        form = NewDocumentSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        asked = form.validated_data
        region = get_object_or_404(
            Region.objects.filter(enabled=True, account__enabled=True).select_related("account"),
            account__account_id=asked["account_id"],
            name=asked["region"],
        )
        made = services.create(
            region,
            name=asked["name"],
            text=asked["content"],
            document_type=asked["document_type"],
            document_format=asked["document_format"],
            version_name=asked["version_name"],
            actor=request.user,
        )
        return Response(DocumentSerializer(made).data, status=201)


class One(ApiView):
    """One document."""

    scopes = {"GET": "documents:read", "DELETE": "documents:write"}
    permissions = {"GET": SEE, "DELETE": CHANGE}

    @extend_schema(operation_id="documents_get", responses=DocumentSerializer)
    def get(self, request, pk):
        """As AWS tells of it now."""
        document = visible(request, pk)
        services.look(document, actor=request.user, now=now())
        return Response(DocumentSerializer(document).data)

    @extend_schema(operation_id="documents_delete", responses={204: None})
    def delete(self, request, pk):
        """Delete it with all its versions, for good."""
        services.delete(visible(request, pk), actor=request.user)
        return Response(status=204)


class Versions(ApiView):
    """The versions of a document."""

    scopes = {"POST": "documents:write"}
    permissions = {"POST": CHANGE}

    @extend_schema(
        operation_id="documents_add_version", request=NewVersionSerializer, responses={201: VersionSerializer}
    )
    def post(self, request, pk):
        """Add one on top of the latest."""
        document = visible(request, pk)
        form = NewVersionSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        asked = form.validated_data
        made = services.add_version(
            document,
            text=asked["content"],
            document_format=asked["document_format"],
            version_name=asked["version_name"],
            make_default=asked["make_default"],
            actor=request.user,
        )
        return Response(VersionSerializer(made).data, status=201)


class Version(ApiView):
    """One version of a document."""

    scopes = {"GET": "documents:read"}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="documents_get_version", responses=VersionSerializer)
    def get(self, request, pk, number):
        """Its text, and the parameters that it takes."""
        return Response(VersionSerializer(services.version(visible(request, pk), str(number), actor=request.user)).data)


class Default(ApiView):
    """The default version of a document."""

    scopes = {"POST": "documents:write"}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="documents_set_default", request=DefaultSerializer, responses=DocumentSerializer)
    def post(self, request, pk):
        """Say which version is run where none is named."""
        document = visible(request, pk)
        form = DefaultSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        services.set_default(document, form.validated_data["version"], actor=request.user)
        return Response(DocumentSerializer(document).data)


def visible(request, pk) -> Document:
    return get_object_or_404(Document.objects.visible_to(request.user).select_related("account", "region"), pk=pk)


urlpatterns = [
    path("documents/", Documents.as_view(), name="documents"),
    path("documents/<uuid:pk>/", One.as_view(), name="document"),
    path("documents/<uuid:pk>/versions/", Versions.as_view(), name="document_versions"),
    path("documents/<uuid:pk>/versions/<int:number>/", Version.as_view(), name="document_version"),
    path("documents/<uuid:pk>/default/", Default.as_view(), name="document_default"),
]
