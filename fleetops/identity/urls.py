from django.urls import path

from . import key_views, own_views, token_views, views

app_name = "identity"
urlpatterns = [
    path("login/", views.login, name="login"),
    path("login/code/", views.code, name="code"),
    path("confirm/", views.confirm, name="confirm"),
    path("logout/", views.logout, name="logout"),
    path("settings/log-in/", own_views.own, name="own"),
    path("settings/log-in/set-up/", own_views.set_up, name="set_up"),
    path("settings/log-in/finish/", own_views.finish, name="finish"),
    path("settings/log-in/codes/", own_views.codes, name="codes"),
    path("settings/log-in/remove/", own_views.remove, name="remove"),
    path("settings/tokens/", token_views.own_tokens, name="tokens"),
    path("settings/tokens/all/", token_views.all_tokens, name="all_tokens"),
    path("settings/tokens/new/", token_views.create_token, name="create_token"),
    path("settings/tokens/<uuid:pk>/revoke/", token_views.revoke_token, name="revoke_token"),
    path("settings/access-keys/", key_views.own_keys, name="keys"),
    path("settings/access-keys/all/", key_views.all_keys, name="all_keys"),
    path("settings/access-keys/new/", key_views.create_key, name="create_key"),
    path("settings/access-keys/<uuid:pk>/revoke/", key_views.revoke_key, name="revoke_key"),
    path("settings/identity/roles/", views.set_roles, name="set_roles"),
    path("settings/identity/", views.users, name="users"),
    path("settings/identity/new/", views.create_user, name="create_user"),
    path("settings/identity/<uuid:pk>/", views.user, name="user"),
    path("settings/identity/<uuid:pk>/active/", views.set_active, name="set_active"),
    path("settings/identity/<uuid:pk>/second-factor/", views.reset_second_factor, name="reset_second_factor"),
    path("settings/identity/<uuid:pk>/password/", views.set_password, name="set_password"),
]
