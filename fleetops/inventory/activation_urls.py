"""Machines outside EC2: the activations by which they come, and their end."""

from django.urls import path

from . import activation_views as views

app_name = "machines"
urlpatterns = [
    path("", views.activations, name="list"),
    path("add/", views.add, name="add"),
    path("ca/<uuid:pk>/", views.ca, name="ca"),
    path("<uuid:pk>/deregister/", views.deregister, name="deregister"),
    path("<uuid:pk>/<str:region>/<uuid:activation_id>/", views.activation, name="activation"),
    path("<uuid:pk>/<str:region>/<uuid:activation_id>/live/", views.live, name="live"),
    path("<uuid:pk>/<str:region>/<uuid:activation_id>/delete/", views.delete, name="delete"),
]
