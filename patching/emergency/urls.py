"""Emergencies: one CVE or package, mended everywhere."""

from django.urls import path

from . import views

app_name = "emergency"
urlpatterns = [
    path("", views.choose_what, name="choose"),
    path("nodes/", views.nodes, name="nodes"),
    path("<uuid:pk>/", views.page, name="page"),
    path("<uuid:pk>/start/", views.start, name="start"),
    path("<uuid:pk>/discard/", views.discard, name="discard"),
]
