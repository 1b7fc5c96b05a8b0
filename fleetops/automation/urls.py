"""Executions of runbooks, and the blueprints that FleetOps brings."""

from django.urls import path

from . import views

app_name = "automation"
urlpatterns = [
    path("", views.execution_list, name="list"),
    path("new/", views.new, name="new"),
    path("blueprints/", views.blueprint_list, name="blueprints"),
    path("blueprints/put/", views.put_blueprint, name="put_blueprint"),
    path("<uuid:pk>/", views.execution, name="execution"),
    path("<uuid:pk>/signal/", views.signal, name="signal"),
    path("<uuid:pk>/stop/", views.stop, name="stop"),
]
