from django.apps import AppConfig


class RolesConfig(AppConfig):
    name = "fleetops.roles"
    label = "roles"
