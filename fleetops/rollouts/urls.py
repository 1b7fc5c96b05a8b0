"""Runs: documents in waves."""

from django.urls import path

from . import cluster_views, new_views, steer_views, views

app_name = "rollouts"
urlpatterns = [
    path("", views.runs, name="runs"),
    path("new/", new_views.create, name="new"),
    path("clusters/", cluster_views.rules, name="clusters"),
    path("clusters/new/", cluster_views.create, name="create_cluster"),
    path("clusters/<uuid:pk>/", cluster_views.change, name="cluster"),
    path("clusters/<uuid:pk>/delete/", cluster_views.delete, name="delete_cluster"),
    path("<uuid:pk>/", views.run, name="run"),
    path("<uuid:pk>/live/", views.live, name="live"),
    path("<uuid:pk>/cells/", views.cells, name="cells"),
    path("<uuid:pk>/names/", views.names, name="names"),
    path("<uuid:pk>/cells/<int:position>/", views.cell, name="cell"),
    path("<uuid:pk>/targets/", views.targets, name="targets"),
    path("<uuid:pk>/targets/<uuid:target_pk>/", views.target, name="target"),
    path("<uuid:pk>/failures/", views.failures, name="failures"),
    path("<uuid:pk>/events/", views.events, name="events"),
    path("<uuid:pk>/plan/", views.plan_of, name="plan"),
    path("<uuid:pk>/again/", views.again, name="again"),
    path("<uuid:pk>/discard/", views.discard, name="discard"),
    path("<uuid:pk>/start/", steer_views.start, name="start"),
    path("<uuid:pk>/pause/", steer_views.pause, name="pause"),
    path("<uuid:pk>/resume/", steer_views.resume, name="resume"),
    path("<uuid:pk>/abort/", steer_views.abort, name="abort"),
    path("<uuid:pk>/retry/", steer_views.retry, name="retry"),
    path("<uuid:pk>/forward/", steer_views.forward, name="forward"),
    path("<uuid:pk>/waive/", steer_views.waive, name="waive"),
    path("<uuid:pk>/override/", steer_views.override, name="override"),
    path("<uuid:pk>/waves/<int:position>/skip/", steer_views.skip_wave, name="skip_wave"),
    path("<uuid:pk>/targets/<uuid:target_pk>/skip/", steer_views.skip_target, name="skip_target"),
    path("<uuid:pk>/targets/<uuid:target_pk>/retry/", steer_views.retry_target, name="retry_target"),
    path("<uuid:pk>/gates/<uuid:gate_pk>/overrule/", steer_views.overrule, name="overrule"),
]
