"""Terminal sessions and their recordings."""

from django.urls import path

from . import live_views, views

app_name = "sessions"
urlpatterns = [
    path("", views.session_list, name="list"),
    path("open/", views.open_session, name="open"),
    path("instance/<uuid:pk>/panel/", views.panel, name="panel"),
    path("<uuid:pk>/", views.terminal, name="terminal"),
    path("<uuid:pk>/pane/", live_views.pane, name="pane"),
    path("<uuid:pk>/message/", live_views.message, name="message"),
    path("<uuid:pk>/reason/", views.reason, name="reason"),
    path("<uuid:pk>/end/", views.end, name="end"),
    path("<uuid:pk>/replay/", views.replay, name="replay"),
    path("<uuid:pk>/cast/", views.cast, name="cast"),
    path("<uuid:pk>/events/", views.events, name="events"),
    path("<uuid:pk>/search/", views.search, name="search"),
]
