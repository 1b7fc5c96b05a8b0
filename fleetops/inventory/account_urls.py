"""Accounts, their regions and the checks of their connection."""

from django.urls import path

from . import account_views as views
from . import identity_views

app_name = "accounts"
urlpatterns = [
    path("", views.accounts, name="list"),
    path("add/", views.add, name="add"),
    path("role.yaml", views.template, name="template"),
    path("<uuid:pk>/", views.account, name="account"),
    path("<uuid:pk>/edit/", views.edit, name="edit"),
    path("<uuid:pk>/check/", views.check, name="check"),
    path("<uuid:pk>/check/live/", views.live, name="live"),
    path("<uuid:pk>/identity/", identity_views.identity, name="identity"),
    path("<uuid:pk>/identity/check/", identity_views.check, name="check_identity"),
    path("<uuid:pk>/identity/live/", identity_views.live, name="identity_live"),
    path("<uuid:pk>/enabled/", views.set_enabled, name="set_enabled"),
    path("<uuid:pk>/remove/", views.remove, name="remove"),
    path("<uuid:pk>/role/<str:kind>/", views.document, name="document"),
]
