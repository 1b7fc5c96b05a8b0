"""The fleet and its instances."""

from django.urls import path

from . import views

app_name = "inventory"
urlpatterns = [
    path("", views.fleet, name="fleet"),
    path("live/", views.live, name="live"),
    path("refresh/", views.refresh, name="refresh"),
    path("palette/", views.palette, name="palette"),
    path("<uuid:pk>/", views.instance, name="instance"),
]
