"""Attach a role, connect, detach afterwards."""

from django.urls import path

from . import views

app_name = "attached"
urlpatterns = [
    path("new/", views.new, name="new"),
    path("<uuid:pk>/", views.order, name="order"),
    path("<uuid:pk>/open/", views.open_shell, name="open"),
    path("<uuid:pk>/cancel/", views.cancel, name="cancel"),
]
