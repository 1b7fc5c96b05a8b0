from django.apps import AppConfig


class EndpointConfig(AppConfig):
    name = "fleetops.endpoint"
    label = "endpoint"
    default_auto_field = "django.db.models.BigAutoField"
