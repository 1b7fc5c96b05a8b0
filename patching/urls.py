"""Baselines, patch groups and pinned patch sets."""

from django.urls import path

from . import views

app_name = "patching"
urlpatterns = [
    path("baselines/", views.baselines, name="baselines"),
    path("baselines/<uuid:pk>/", views.baseline, name="baseline"),
]
