"""The access policy."""

from django.urls import path

from . import views

app_name = "policy"
urlpatterns = [
    path("", views.rules, name="rules"),
    path("new/", views.create, name="create"),
    path("pick/", views.pick, name="pick"),
    path("people/", views.people, name="people"),
    path("simulate/", views.simulate, name="simulate"),
    path("review/", views.review, name="review"),
    path("history/", views.history, name="history"),
    path("<uuid:pk>/", views.rule, name="rule"),
    path("<uuid:pk>/enabled/", views.set_enabled, name="set_enabled"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
]
