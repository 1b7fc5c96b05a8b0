"""The roof of the REST API: each room's routes below /api/v1/, their schema, and a page for people that lists them."""

from django.shortcuts import render
from django.urls import include, path, re_path
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.exceptions import NotFound

import fleetops.approvals.api
import fleetops.calendars.api
import fleetops.exposure.api
import fleetops.identity.api
import fleetops.inventory.api
import fleetops.library.api
import fleetops.notify.api
import fleetops.policy.api
import fleetops.review.api
import fleetops.roles.api
import fleetops.rollouts.api
import fleetops.rollouts.scheduling.api
import fleetops.runcommand.api
import patching.api
import patching.compliance.api
import patching.emergency.api
import patching.list_views
import sessions_app.api
import sessions_app.command_api
from fleetops.identity.rest import ANY_SCOPE, ApiView
from fleetops.identity.scopes import SCOPES

app_name = "api"
# In the order in which the page lists them.
ROOMS = {
    "Yourself": fleetops.identity.api.urlpatterns,
    "Fleet": fleetops.inventory.api.urlpatterns,
    "Port 22": fleetops.exposure.api.urlpatterns,
    "Sessions": sessions_app.command_api.urlpatterns + sessions_app.api.urlpatterns,
    "Approvals": fleetops.approvals.api.urlpatterns,
    "Calendars": fleetops.calendars.api.urlpatterns,
    "Notices": fleetops.notify.api.urlpatterns,
    "Policy": fleetops.policy.api.urlpatterns,
    "Documents": fleetops.library.api.urlpatterns,
    "Commands": fleetops.runcommand.api.urlpatterns,
    "Runs": fleetops.rollouts.api.urlpatterns + fleetops.rollouts.scheduling.api.urlpatterns,
    "Roles": fleetops.roles.api.urlpatterns,
    "Patching": [*patching.api.urlpatterns, *patching.list_views.api_patterns],
    "Emergencies": patching.emergency.api.urlpatterns,
    "Compliance": patching.compliance.api.urlpatterns,
    "Audit": fleetops.review.api.urlpatterns,
}


@extend_schema(exclude=True)
class SchemaFile(ApiView, SpectacularAPIView):
    """The OpenAPI 3 description of all this, as YAML, or as JSON with `?format=json`."""

    scopes = {"GET": ANY_SCOPE}
    renderer_classes = SpectacularAPIView.renderer_classes


@extend_schema(exclude=True)
class Nothing(ApiView):
    """What no route is for: a problem in JSON, where a page would tell a program nothing."""

    is_open = True

    def initial(self, request, *args, **kwargs):
        raise NotFound


@require_safe
def index(request):
    """The routes, for people, out of the same schema. Context: `rooms` (title, operations), `scopes`."""
    described = SchemaGenerator(patterns=[path("api/v1/", include((urlpatterns, app_name)))]).get_schema(public=True)
    rooms: dict[str, list[dict]] = {}
    for where, methods in described["paths"].items():
        for method, operation in methods.items():
            rooms.setdefault(operation["tags"][0], []).append({"path": where, "method": method.upper(), **operation})
    return render(request, "identity/api.html", {"rooms": rooms.items(), "scopes": SCOPES.items()})


urlpatterns = [
    path("", index, name="index"),
    path("schema/", SchemaFile.as_view(), name="schema"),
    *(pattern for patterns in ROOMS.values() for pattern in patterns),
    re_path("", Nothing.as_view(), name="nothing"),
]
