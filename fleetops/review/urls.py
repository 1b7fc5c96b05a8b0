"""The audit log, for whoever reviews it."""

from django.urls import path

from . import views

app_name = "review"
urlpatterns = [
    path("", views.audit, name="audit"),
    path("verify/", views.verify, name="verify"),
    path("session/<uuid:pk>/", views.session_page, name="session"),
    path("instance/<uuid:pk>/", views.instance_panel, name="instance"),
    path("<uuid:pk>/", views.event, name="event"),
    path("<uuid:pk>/prove/", views.prove, name="prove"),
]
