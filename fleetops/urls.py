"""All pages, room by room."""

from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="inventory:fleet"), name="home"),
    path("", include("fleetops.web.urls")),
    path("", include("fleetops.identity.urls")),
    path("api/v1/", include("fleetops.api")),
    path("settings/accounts/", include("fleetops.inventory.account_urls")),
    path("settings/accounts/", include("sessions_app.delivery.urls")),
    path("settings/api-budget/", include("fleetops.inventory.budget_urls")),
    path("settings/policy/", include("fleetops.policy.urls")),
    path("settings/notify/", include("fleetops.notify.urls")),
    path("approvals/", include("fleetops.approvals.urls")),
    path("calendars/", include("fleetops.calendars.urls")),
    path("port-22/", include("fleetops.exposure.urls")),
    path("fleet/", include("fleetops.inventory.urls")),
    path("machines/", include("fleetops.inventory.activation_urls")),
    path("documents/", include("fleetops.library.urls")),
    path("commands/", include("fleetops.runcommand.urls")),
    path("roles/", include("fleetops.roles.urls")),
    path("runs/schedules/", include("fleetops.rollouts.scheduling.urls")),
    path("runs/", include("fleetops.rollouts.urls")),
    path("sessions/attached/", include("sessions_app.attached.urls")),
    path("sessions/", include("sessions_app.urls")),
    path("patching/", include("patching.urls")),
    path("compliance/", include("patching.compliance.urls")),
    path("runbooks/", include("fleetops.automation.urls")),
    path("emergency/", include("patching.emergency.urls")),
    path("audit/", include("fleetops.review.urls")),
]

handler400 = "fleetops.web.views.bad_request"
handler403 = "fleetops.web.views.permission_denied"
handler404 = "fleetops.web.views.page_not_found"
handler500 = "fleetops.web.views.server_error"
