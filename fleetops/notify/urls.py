"""Who is told what, how, and what came of it."""

from django.urls import path

from . import views

app_name = "notify"
urlpatterns = [
    path("", views.notices, name="list"),
    path("channels/new/", views.create_channel, name="create_channel"),
    path("channels/<uuid:pk>/", views.channel, name="channel"),
    path("channels/<uuid:pk>/test/", views.test_channel, name="test_channel"),
    path("channels/<uuid:pk>/delete/", views.delete_channel, name="delete_channel"),
    path("silences/", views.add_silence, name="add_silence"),
    path("silences/<uuid:pk>/end/", views.end_silence, name="end_silence"),
    path("deliveries/<uuid:pk>/again/", views.send_again, name="send_again"),
]
