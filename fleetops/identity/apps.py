from django.apps import AppConfig


class IdentityConfig(AppConfig):
    name = "fleetops.identity"
    label = "identity"
