"""Where lists of patches are put: the bucket of each account. A page and its API."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from fleetops.errors import UserError
from fleetops.identity.rest import ApiView, Asked
from fleetops.inventory.models import Account
from fleetops.web.shortcuts import permission_required, require_permission

from . import lists
from .models import ListStore
from .views import TABS, VIEW
from .writing import CHANGE_PERMISSION


def _rows() -> list[Account]:
    """All accounts, each with its `bucket`."""
    named = dict(ListStore.objects.values_list("account", "bucket"))
    rows = list(Account.objects.order_by("name"))
    for each in rows:
        embedded = lists.EMBEDDED_BUCKET.format(each.account_id) if each.is_embedded else ""
        each.bucket = named.get(each.pk, embedded)  # type: ignore[attr-defined]
    return rows


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(VIEW)
def lists_page(request: HttpRequest) -> HttpResponse:
    """The bucket of each account. POST: `account` (its twelve digits), `bucket`."""
    wrong, asked = "", {}
    if request.method == "POST":
        require_permission(request.user, CHANGE_PERMISSION)
        account_id = request.POST.get("account", "")[:12].replace("\x00", "")
        account = get_object_or_404(Account, account_id=account_id)
        bucket = request.POST.get("bucket", "")[:200].replace("\x00", "")
        try:
            lists.choose(account, bucket, actor=request.user)
        except UserError as error:
            wrong, asked = str(error), {account.pk: bucket}
        else:
            messages.success(request, f"Lists for {account} go to {bucket.strip() or 'no bucket'}.")
            return redirect("patching:lists")
    rows = _rows()
    for each in rows:
        each.asked = asked.get(each.pk, each.bucket)  # type: ignore[attr-defined]
        each.wrong = wrong if each.pk in asked else ""  # type: ignore[attr-defined]
    context = {
        "tabs": TABS,
        "rows": rows,
        "may_change": request.user.has_perm(CHANGE_PERMISSION),  # type: ignore[union-attr]
        "nodes_read": lists.NODES_READ,
    }
    return render(request, "patching/lists.html", context, status=400 if wrong else 200)


class ListStoreSerializer(serializers.Serializer):
    """Where lists for the nodes of an account are put."""

    account_id = serializers.CharField()
    name = serializers.CharField()
    bucket = serializers.CharField(allow_blank=True, help_text="of S3; empty: none, and no list can be put")


class ListBucketSerializer(Asked):
    """A bucket, or none."""

    bucket = serializers.CharField(max_length=63, allow_blank=True)


class ListStores(ApiView):
    """Where lists of patches are put."""

    scopes = {"GET": "baselines:read"}
    permissions = {"GET": (VIEW,)}
    pagination_class = None  # as many as there are accounts

    @extend_schema(operation_id="patch_lists", responses=ListStoreSerializer(many=True))
    def get(self, request):
        """The bucket of each account."""
        return Response(ListStoreSerializer(_rows(), many=True).data)


class OneListStore(ApiView):
    """Where lists for the nodes of an account are put."""

    scopes = {"PUT": "baselines:write"}
    permissions = {"PUT": (CHANGE_PERMISSION,)}

    @extend_schema(operation_id="patch_lists_put", request=ListBucketSerializer, responses=ListStoreSerializer)
    def put(self, request, account_id):
        """Name the bucket of an account."""
        account = get_object_or_404(Account, account_id=account_id)
        lists.choose(account, ListBucketSerializer.of(request)["bucket"], actor=request.user)
        account.bucket = lists.bucket_of(account)
        return Response(ListStoreSerializer(account).data)


api_patterns = [
    path("patch-lists/", ListStores.as_view(), name="patch_lists"),
    path("patch-lists/<str:account_id>/", OneListStore.as_view(), name="patch_list"),
]
