"""Commands: documents run on instances."""

from django.urls import path

from . import views

app_name = "runcommand"
urlpatterns = [
    path("", views.commands, name="list"),
    path("run/", views.create, name="create"),
    path("instance/<uuid:pk>/panel/", views.panel, name="panel"),
    path("<uuid:pk>/", views.command, name="command"),
    path("<uuid:pk>/live/", views.live, name="live"),
    path("<uuid:pk>/start/", views.start, name="start"),
    path("<uuid:pk>/cancel/", views.cancel, name="cancel"),
    path("<uuid:pk>/again/", views.again, name="again"),
    path("<uuid:pk>/<uuid:invocation_pk>/", views.invocation, name="invocation"),
]
