from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "fleetops.web"
    label = "web"
