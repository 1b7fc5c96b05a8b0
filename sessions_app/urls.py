"""Terminal sessions and their recordings."""

from django.urls import path

from . import command_views, grant_views, live_views, restricted_views, views
from .transfers import views as transfer_views

app_name = "sessions"
urlpatterns = [
    path("", views.session_list, name="list"),
    path("commands/", command_views.command_list, name="commands"),
    path("commands/export.csv", command_views.command_export, {"form": "csv"}, name="commands_csv"),
    path("commands/export.json", command_views.command_export, {"form": "json"}, name="commands_json"),
    path("open/", views.open_session, name="open"),
    path("files/begin/", transfer_views.begin, name="transfer"),
    path("files/<uuid:pk>/", transfer_views.files, name="files"),
    path("instance/<uuid:pk>/panel/", views.panel, name="panel"),
    path("access/", grant_views.grant_list, name="grants"),
    path("access/ask/", grant_views.ask, name="grant_ask"),
    path("access/tokens/", grant_views.token_page, name="tokens"),
    path("access/request/<uuid:pk>/", grant_views.of_request, name="grant_of"),
    path("access/<uuid:pk>/", grant_views.grant_page, name="grant"),
    path("access/<uuid:pk>/vote/", grant_views.vote, name="grant_vote"),
    path("access/<uuid:pk>/withdraw/", grant_views.withdraw, name="grant_withdraw"),
    path("access/<uuid:pk>/revoke/", grant_views.revoke, name="grant_revoke"),
    path("access/<uuid:pk>/tokens/deny/", grant_views.deny_tokens, name="grant_deny_tokens"),
    path("access/<uuid:pk>/tokens/allow/", grant_views.allow_tokens, name="grant_allow_tokens"),
    path("open-as/", restricted_views.open_as, name="open_as"),
    path("shells/", restricted_views.shell_list, name="restricted_shells"),
    path("shells/new/", restricted_views.add, name="restricted_shell_add"),
    path("shells/<uuid:pk>/", restricted_views.shell, name="restricted_shell"),
    path("shells/<uuid:pk>/enabled/", restricted_views.set_enabled, name="restricted_shell_enabled"),
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
