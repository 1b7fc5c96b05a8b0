"""Patch compliance."""

from django.urls import path

from . import views

app_name = "compliance"
urlpatterns = [
    path("", views.overview, name="overview"),
    path("instances/", views.instances, name="instances"),
    path("instances/<uuid:pk>/", views.instance, name="instance"),
    path("cves/", views.cves, name="cves"),
    path("cves/<str:name>/", views.cve, name="cve"),
    path("patches/", views.patches, name="patches"),
    path("security-hub/", views.hub, name="hub"),
    path("security-hub/<int:pk>/", views.switch_hub, name="switch_hub"),
    path("deadlines/", views.deadlines, name="deadlines"),
    path("report/", views.report, name="report"),
    path("export/<str:what>.<str:form>", views.take_away, name="export"),
]
