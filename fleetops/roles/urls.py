"""IAM roles: what instances have, leases, rules, and the catalogue."""

from django.urls import path

from . import ask_views, rule_views, run_views, views

app_name = "roles"
urlpatterns = [
    path("", views.overview, name="overview"),
    path("attachments/", views.attachments, name="attachments"),
    path("leases/", views.leases, name="leases"),
    path("history/", views.history, name="history"),
    path("new/", ask_views.create, name="new"),
    path("many/", run_views.create, name="new_run"),
    path("rules/", rule_views.rules, name="rules"),
    path("rules/new/", rule_views.create_rule, name="create_rule"),
    path("rules/<uuid:pk>/", rule_views.rule, name="rule"),
    path("rules/<uuid:pk>/delete/", rule_views.delete_rule, name="delete_rule"),
    path("catalogue/", rule_views.roles, name="catalogue"),
    path("catalogue/make/", rule_views.make, name="make"),
    path("catalogue/read/", rule_views.read_again, name="read_again"),
    path("catalogue/<uuid:pk>/", rule_views.role, name="role"),
    path("catalogue/<uuid:pk>/right/", rule_views.put_right, name="put_right"),
    path("findings/<uuid:pk>/put-back/", ask_views.decide, {"deed": "put-back"}, name="put_back"),
    path("findings/<uuid:pk>/accept/", ask_views.decide, {"deed": "accept"}, name="accept"),
    path("instances/<uuid:pk>/", views.panel, name="panel"),
    path("<uuid:pk>/", views.attachment, name="attachment"),
    path("<uuid:pk>/extend/", ask_views.extend, name="extend"),
    path("<uuid:pk>/end/", ask_views.end, name="end"),
]
