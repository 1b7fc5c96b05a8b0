"""Patch baselines, groups and pinned sets over the API. What a baseline says is in AWS's own spelling."""

import re
from typing import Any

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.identity.rest import ApiView
from fleetops.inventory.models import Instance, Region

from . import groups, halfway, known, mirror, pinned, services
from .content import Content
from .listing import FILTERS, filtered
from .models import PatchBaseline, PinnedSet, Write
from .preview import compare
from .serializers import (
    SYSTEMS,
    BaselineChangeSerializer,
    BaselineContentSerializer,
    BaselineCopySerializer,
    BaselinePreviewSerializer,
    BaselineSerializer,
    BaselineVersionSerializer,
    BaselineWriteSerializer,
    FreezeSerializer,
    GroupNameSerializer,
    NewBaselineSerializer,
    PatchGroupSerializer,
    PinnedSetSerializer,
    SeenVersionSerializer,
)
from .sound import problems
from .views import VIEW
from .writing import CHANGE_PERMISSION

READ, WRITE = "baselines:read", "baselines:write"
SEE, CHANGE = (VIEW,), (CHANGE_PERMISSION,)
MOST_LISTED = 500  # patches that a preview names, of each kind
EXAMPLE = {
    "Name": "al-standard",
    "ApprovalRules": {
        "PatchRules": [
            {
                "PatchFilterGroup": {"PatchFilters": [{"Key": "CLASSIFICATION", "Values": ["Security"]}]},
                "ComplianceLevel": "HIGH",
                "ApproveAfterDays": 7,
            }
        ]
    },
    "RejectedPatches": ["docker*"],
    "RejectedPatchesAction": "BLOCK",
}


class Baselines(ApiView, generics.ListAPIView):
    """Patch baselines, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = BaselineSerializer
    queryset = PatchBaseline.objects.none()

    @extend_schema(
        operation_id="patch_baselines",
        parameters=[
            OpenApiParameter("q", str, description="Words in name, description and groups."),
            OpenApiParameter("owner", str, enum=["own", "aws"]),
            OpenApiParameter("system", str, enum=SYSTEMS),
            OpenApiParameter("account", str, description="Twelve digits."),
            OpenApiParameter("region", str),
            OpenApiParameter("only", str, enum=["default", "drifted"]),
        ],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = {key: self.request.query_params.get(key, "").replace("\x00", "")[:200] for key in FILTERS}
        found = filtered(PatchBaseline.objects.visible_to(self.request.user).present(), asked)
        return found.select_related("account", "region").prefetch_related("groups")

    @extend_schema(
        operation_id="patch_baselines_create",
        request=NewBaselineSerializer,
        responses={201: BaselineSerializer},
        examples=[
            OpenApiExample(
                "Security after a week",
                {
                    "account_id": "111122223333",
                    "region": "eu-west-1",
                    "operating_system": "AMAZON_LINUX_2023",
                    "content": EXAMPLE,
                },
                request_only=True,
            )
        ],
    )
    def post(self, request):
        """Make a baseline. It is checked before AWS is asked."""
        asked = NewBaselineSerializer.of(request)
        region = _region(asked["account_id"], asked["region"])
        said = _said(request, asked["content"], asked["operating_system"], region)
        made = services.create(region, said, tags=asked.get("tags", {}), actor=request.user)
        return Response(BaselineSerializer(made).data, status=201)


class OneBaseline(ApiView):
    """One patch baseline."""

    scopes = {"GET": READ, "PUT": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PUT": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="patch_baselines_get", responses=BaselineSerializer)
    def get(self, request, pk):
        """As AWS tells of it now."""
        baseline = _baseline(request, pk)
        mirror.look(baseline, session_name=request.user.username, now=now())
        return Response(BaselineSerializer(baseline).data)

    @extend_schema(
        operation_id="patch_baselines_change", request=BaselineChangeSerializer, responses=BaselineSerializer
    )
    def put(self, request, pk):
        """Have it say this and nothing else. What was changed outside FleetOps is not written over: 409."""
        baseline = _baseline(request, pk)
        asked = BaselineChangeSerializer.of(request)
        services.require_own(baseline)
        said = _said(request, asked["content"], baseline.operating_system, baseline.region)
        services.update(baseline, said, based_on=asked["based_on"], actor=request.user)
        return Response(BaselineSerializer(_baseline(request, pk)).data)

    @extend_schema(operation_id="patch_baselines_delete", responses={204: None})
    def delete(self, request, pk):
        """Delete it for good; not the default, and not that of a group."""
        services.delete(_baseline(request, pk), actor=request.user)
        return Response(status=204)


class Versions(ApiView):
    """The versions of a baseline that FleetOps has seen."""

    pagination_class = None  # a list that is never long
    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="patch_baselines_versions", responses=BaselineVersionSerializer(many=True))
    def get(self, request, pk):
        """The newest first, 100 at most."""
        return Response(BaselineVersionSerializer(_baseline(request, pk).versions.all()[:100], many=True).data)


class Preview(ApiView):
    """What a draft of a baseline would change."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(
        operation_id="patch_baselines_preview", request=BaselineContentSerializer, responses=BaselinePreviewSerializer
    )
    def post(self, request, pk):
        """Over the patches that the region knows of and what some of its nodes have; nothing is written."""
        baseline = _baseline(request, pk)
        said = _said(
            request, BaselineContentSerializer.of(request)["content"], baseline.operating_system, baseline.region
        )
        row, _ = known.ask(baseline.region, baseline.operating_system, now=now())
        using = groups.nodes_of(baseline, request.user).filter(pk__in=list(row.nodes))
        ids = {str(pk): instance_id for pk, instance_id in using.values_list("pk", "instance_id")}
        nodes = {pk: held for pk, held in row.nodes.items() if pk in ids}
        found = compare(baseline.said, said, known.patches_of(row), nodes, now=now())
        found.fall_out = [ids[pk] for pk in found.fall_out]
        del found.newly_approved[MOST_LISTED:], found.no_longer[MOST_LISTED:]
        return Response(BaselinePreviewSerializer(found).data | {"read_at": row.read_at})


class Default(ApiView):
    """The default baseline of an operating system."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="patch_baselines_default", request=None, responses=BaselineSerializer)
    def post(self, request, pk):
        """Make this one the default of its operating system, in its region."""
        services.make_default(_baseline(request, pk), actor=request.user)
        return Response(BaselineSerializer(_baseline(request, pk)).data)


class Accept(ApiView):
    """A change that was made outside FleetOps."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="patch_baselines_accept", request=SeenVersionSerializer, responses=BaselineSerializer)
    def post(self, request, pk):
        """Take it as it is; it no longer stands as a difference."""
        baseline = _baseline(request, pk)
        services.accept(baseline, number=SeenVersionSerializer.of(request)["version"], actor=request.user)
        return Response(BaselineSerializer(_baseline(request, pk)).data)


class Copy(ApiView):
    """A baseline in other accounts and regions."""

    pagination_class = None  # a list that is never long
    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(
        operation_id="patch_baselines_copy",
        request=BaselineCopySerializer,
        responses={202: BaselineWriteSerializer(many=True)},
    )
    def post(self, request, pk):
        """Have each place say the same; where one of that name is, it is changed. Workers write, each by itself."""
        baseline = _baseline(request, pk)
        services.require_own(baseline)
        places = BaselineCopySerializer.of(request)["places"][: services.MOST_PLACES + 1]
        regions = [_region(each["account_id"], each["region"]) for each in places]
        batch = services.copy(baseline.said, list(dict.fromkeys(regions)), tags=baseline.tags, actor=request.user)
        return Response(BaselineWriteSerializer(_writes(batch), many=True).data, status=202)


class Writes(ApiView):
    """What one click or call wrote to several places."""

    pagination_class = None  # a list that is never long
    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="patch_writes", responses=BaselineWriteSerializer(many=True))
    def get(self, request, batch):
        """What became of it, place by place."""
        rows = _writes(batch)
        if not rows:
            get_object_or_404(Write, batch=batch)
        return Response(BaselineWriteSerializer(rows, many=True).data)


class ResumeWrite(ApiView):
    """A change of which AWS took a part before it refused the rest for an hour."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="patch_writes_resume", request=None, responses={202: BaselineWriteSerializer})
    def post(self, request, pk):
        """Have the rest done; 409 if it does not stand half way."""
        made = halfway.resume(_write(pk), actor=request.user)
        return Response(BaselineWriteSerializer(made).data, status=202)


class RollBackWrite(ApiView):
    """A change of which AWS took a part before it refused the rest for an hour."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="patch_writes_roll_back", request=None, responses={202: BaselineWriteSerializer})
    def post(self, request, pk):
        """Have things put back as they were before it; 409 if it does not stand half way."""
        made = halfway.roll_back(_write(pk), actor=request.user)
        return Response(BaselineWriteSerializer(made).data, status=202)


class BaselineGroups(ApiView):
    """The patch groups of a baseline."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(
        operation_id="patch_baselines_register", request=GroupNameSerializer, responses={201: BaselineSerializer}
    )
    def post(self, request, pk):
        """Register a group for it; from another baseline of its operating system it moves."""
        services.register(_baseline(request, pk), GroupNameSerializer.of(request)["name"], actor=request.user)
        return Response(BaselineSerializer(_baseline(request, pk)).data, status=201)


class BaselineGroup(ApiView):
    """One patch group of a baseline."""

    scopes = {"DELETE": WRITE}
    permissions = {"DELETE": CHANGE}

    @extend_schema(operation_id="patch_baselines_deregister", responses={204: None})
    def delete(self, request, pk, name):
        """Take it away: its nodes then have the default baseline."""
        services.deregister(_baseline(request, pk), name, actor=request.user)
        return Response(status=204)


class Groups(ApiView):
    """Patch groups: by nodes' tags, and by registration."""

    pagination_class = None  # a list that is never long
    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="patch_groups", responses=PatchGroupSerializer(many=True))
    def get(self, request):
        """All of them, by name; last the nodes in none."""
        return Response(PatchGroupSerializer(groups.overview(request.user), many=True).data)


class Sets(ApiView, generics.ListAPIView):
    """Pinned patch sets, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = PinnedSetSerializer
    queryset = PinnedSet.objects.none()

    @extend_schema(operation_id="patch_sets")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return PinnedSet.objects.visible_to(self.request.user)

    @extend_schema(operation_id="patch_sets_freeze", request=FreezeSerializer, responses={201: PinnedSetSerializer})
    def post(self, request):
        """Freeze what nodes have installed. It never changes."""
        asked = FreezeSerializer.of(request)
        visible = Instance.objects.visible_to(request.user).present().select_related("account", "region")
        nodes = list(visible.filter(pk__in=asked["instances"]))
        if len(nodes) != len(set(asked["instances"])):
            raise ValidationError({"instances": ["Some of them are not there, or not yours to see."]})
        made = pinned.freeze(nodes, name=asked["name"], since=asked.get("since"), actor=request.user)
        return Response(PinnedSetSerializer(made).data, status=201)


class OneSet(ApiView):
    """One pinned patch set."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="patch_sets_get", responses=PinnedSetSerializer)
    def get(self, request, pk):
        """What is in it, and from which nodes."""
        return Response(PinnedSetSerializer(_set(request, pk)).data)


class SetList(ApiView):
    """A pinned set as nodes read it."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="patch_sets_list", responses={(200, "application/yaml"): OpenApiTypes.STR})
    def get(self, request, pk):
        """The YAML that AWS-RunPatchBaseline takes as InstallOverrideList."""
        text = pinned.override_list(_set(request, pk))
        return HttpResponse(text, content_type="application/yaml; charset=utf-8")


def _baseline(request, pk) -> PatchBaseline:
    rows = PatchBaseline.objects.visible_to(request.user).select_related("account", "region__account")
    return get_object_or_404(rows.prefetch_related("groups"), pk=pk)


def _set(request, pk) -> PinnedSet:
    return get_object_or_404(PinnedSet.objects.visible_to(request.user), pk=pk)


def _region(account_id: str, name: str) -> Region:
    rows = Region.objects.filter(enabled=True, account__enabled=True).select_related("account")
    return get_object_or_404(rows, account__account_id=account_id, name=name)


def _write(pk) -> Write:
    return get_object_or_404(Write.objects.select_related("region__account", "baseline"), pk=pk)


def _writes(batch) -> list[Write]:
    return list(Write.objects.filter(batch=batch).select_related("region__account", "baseline"))


def _said(request, told: Any, operating_system: str, region: Region) -> Content:
    """A content that can be meant. Raises ValidationError, by what is wrong."""
    try:
        said = parse(operating_system, told)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValidationError({"content": ["Write it in the members of AWS's GetPatchBaseline."]}) from None
    legal = known.legal_values(region, operating_system, session_name=request.user.username, now=now())
    if found := problems(said, legal=legal.values):
        errors: dict[str, list[str]] = {}
        for each in found:
            errors.setdefault(f"content.{each.field}".rstrip("."), []).append(each.text)
        raise ValidationError(errors)
    return said


_TEXTS = ("Name", "Description", "ApprovedPatchesComplianceLevel", "RejectedPatchesAction")


def parse(operating_system: str, told: Any) -> Content:
    """Out of JSON that anybody may have written. Raises ValueError and what wrong types raise."""
    if not all(isinstance(told.get(name, ""), str) for name in _TEXTS):
        raise ValueError("texts")
    for rule in (told.get("ApprovalRules") or {}).get("PatchRules") or ():
        days, until = rule.get("ApproveAfterDays"), rule.get("ApproveUntilDate")
        if not (days is None or type(days) is int) or not isinstance(until or "", str):
            raise ValueError("moments")
        if days is not None and until:
            raise ValidationError({"content": ["A rule has ApproveAfterDays or ApproveUntilDate, not both."]})
    said = Content.of_aws(operating_system, told)
    filters = [*said.global_filters, *(each for rule in said.rules for each in rule.filters)]
    texts = [*said.approved, *said.rejected, *(value for each in filters for value in (each.key, *each.values))]
    texts += [each.level for each in said.rules]
    texts += [text for each in said.sources for text in (each.name, each.configuration, *each.products)]
    if not all(isinstance(text, str) and not re.search("\x00", text) for text in texts):
        raise ValueError("texts")
    return said


urlpatterns = [
    path("patch-baselines/", Baselines.as_view(), name="patch_baselines"),
    path("patch-baselines/<uuid:pk>/", OneBaseline.as_view(), name="patch_baseline"),
    path("patch-baselines/<uuid:pk>/versions/", Versions.as_view(), name="patch_versions"),
    path("patch-baselines/<uuid:pk>/preview/", Preview.as_view(), name="patch_preview"),
    path("patch-baselines/<uuid:pk>/default/", Default.as_view(), name="patch_default"),
    path("patch-baselines/<uuid:pk>/accept/", Accept.as_view(), name="patch_accept"),
    path("patch-baselines/<uuid:pk>/copy/", Copy.as_view(), name="patch_copy"),
    path("patch-baselines/<uuid:pk>/groups/", BaselineGroups.as_view(), name="patch_register"),
    path("patch-baselines/<uuid:pk>/groups/<str:name>/", BaselineGroup.as_view(), name="patch_deregister"),
    path("patch-writes/<uuid:batch>/", Writes.as_view(), name="patch_writes"),
    path("patch-writes/<uuid:pk>/resume/", ResumeWrite.as_view(), name="patch_write_resume"),
    path("patch-writes/<uuid:pk>/roll-back/", RollBackWrite.as_view(), name="patch_write_roll_back"),
    path("patch-groups/", Groups.as_view(), name="patch_groups"),
    path("patch-sets/", Sets.as_view(), name="patch_sets"),
    path("patch-sets/<uuid:pk>/", OneSet.as_view(), name="patch_set"),
    path("patch-sets/<uuid:pk>/list/", SetList.as_view(), name="patch_set_list"),
]
