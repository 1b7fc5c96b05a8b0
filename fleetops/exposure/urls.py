"""Port 22: what opens SSH and RDP, and closing it."""

from django.urls import path

from . import views

app_name = "exposure"
urlpatterns = [
    path("", views.groups, name="groups"),
    path("close/", views.close, name="close"),
    path("closed/", views.closings, name="closings"),
    path("closed/<uuid:pk>/reopen/", views.reopen, name="reopen"),
    path("read/", views.read_again, name="read_again"),
]
