"""Where the sessions of an account are delivered."""

from django.urls import path

from . import views

app_name = "deliveries"
urlpatterns = [
    path("<uuid:pk>/delivery/", views.account, name="account"),
    path("<uuid:pk>/delivery/check/", views.check, name="check"),
    path("<uuid:pk>/delivery/live/", views.live, name="live"),
]
