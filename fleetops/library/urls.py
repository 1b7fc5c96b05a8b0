"""Documents and their versions."""

from django.urls import path

from . import views

app_name = "library"
urlpatterns = [
    path("", views.documents, name="list"),
    path("create/", views.create, name="create"),
    path("<uuid:pk>/", views.document, name="document"),
    path("<uuid:pk>/compare/", views.compare, name="compare"),
    path("<uuid:pk>/edit/", views.edit, name="edit"),
    path("<uuid:pk>/default/", views.set_default, name="set_default"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
]
