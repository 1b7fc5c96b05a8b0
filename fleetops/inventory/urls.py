"""The fleet and its instances."""

from django.urls import path

from . import views

app_name = "inventory"
urlpatterns = [
    path("", views.fleet, name="fleet"),
    path("live/", views.live, name="live"),
    path("refresh/", views.refresh, name="refresh"),
    path("palette/", views.palette, name="palette"),
    path("complete/", views.complete, name="complete"),
    path("preview/", views.preview, name="preview"),
    path("filters/", views.saved_filters, name="filters"),
    path("filters/<uuid:pk>/", views.change_filter, name="change_filter"),
    path("filters/<uuid:pk>/delete/", views.delete_filter, name="delete_filter"),
    path("filters/<uuid:pk>/star/", views.star_filter, name="star_filter"),
    path("<uuid:pk>/", views.instance, name="instance"),
]
