"""Baselines, patch groups and pinned patch sets."""

from django.urls import path

from . import editor_views, group_views, halfway_views, list_views, pinned_views, run_views, views

app_name = "patching"
urlpatterns = [
    path("runs/new/", run_views.create, name="new_run"),
    path("baselines/", views.baselines, name="baselines"),
    path("baselines/create/", editor_views.create, name="create"),
    path("baselines/preview/", editor_views.preview_new, name="preview_new"),
    path("baselines/writes/<uuid:batch>/", views.writes, name="writes"),
    path("baselines/writes/<uuid:pk>/resume/", halfway_views.resume, name="resume_write"),
    path("baselines/writes/<uuid:pk>/roll-back/", halfway_views.roll_back, name="roll_back_write"),
    path("baselines/<uuid:pk>/", views.baseline, name="baseline"),
    path("baselines/<uuid:pk>/edit/", editor_views.edit, name="edit"),
    path("baselines/<uuid:pk>/preview/", editor_views.preview, name="preview"),
    path("baselines/<uuid:pk>/compare/", views.compare, name="compare"),
    path("baselines/<uuid:pk>/copy/", views.copy, name="copy"),
    path("baselines/<uuid:pk>/default/", views.make_default, name="make_default"),
    path("baselines/<uuid:pk>/accept/", views.accept, name="accept"),
    path("baselines/<uuid:pk>/delete/", views.delete, name="delete"),
    path("groups/", group_views.groups, name="groups"),
    path("groups/group/", group_views.group, name="group"),
    path("groups/register/", group_views.register, name="register"),
    path("groups/deregister/", group_views.deregister, name="deregister"),
    path("sets/", pinned_views.sets, name="sets"),
    path("sets/freeze/", pinned_views.freeze, name="freeze"),
    path("sets/<uuid:pk>/", pinned_views.pinned_set, name="pinned_set"),
    path("lists/", list_views.lists_page, name="lists"),
    path("sets/<uuid:pk>/list/", pinned_views.override_list, name="override_list"),
]
