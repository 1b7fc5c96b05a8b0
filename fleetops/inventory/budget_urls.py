"""The API budget: what AWS is asked, what waits, and the ceilings that people set."""

from django.urls import path

from . import budget_views as views

app_name = "budget"
urlpatterns = [
    path("", views.budget, name="page"),
    path("live/", views.live, name="live"),
    path("limits/", views.limits, name="limits"),
    path("limits/<uuid:pk>/remove/", views.remove, name="remove"),
]
