from django.urls import path

from . import views

app_name = "identity"
urlpatterns = [
    path("login/", views.login, name="login"),
    path("logout/", views.logout, name="logout"),
    path("settings/identity/", views.users, name="users"),
    path("settings/identity/new/", views.create_user, name="create_user"),
    path("settings/identity/<uuid:pk>/", views.user, name="user"),
    path("settings/identity/<uuid:pk>/active/", views.set_active, name="set_active"),
    path("settings/identity/<uuid:pk>/password/", views.set_password, name="set_password"),
]
