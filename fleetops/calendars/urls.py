"""Freezes and windows."""

from django.urls import path

from . import views

app_name = "calendars"
urlpatterns = [
    path("", views.calendars, name="list"),
    path("new/", views.create, name="create"),
    path("check/", views.check, name="check"),
    path("<uuid:pk>/", views.calendar, name="calendar"),
    path("<uuid:pk>/change/", views.change, name="change"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
    path("<uuid:pk>/fetch/", views.fetch_now, name="fetch"),
    path("<uuid:pk>/ics/", views.ics, name="ics"),
    path("<uuid:pk>/entries/", views.add_entry, name="add_entry"),
    path("<uuid:pk>/entries/remove/", views.remove_entry, name="remove_entry"),
]
