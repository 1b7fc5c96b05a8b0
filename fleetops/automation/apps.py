from django.apps import AppConfig


class AutomationConfig(AppConfig):
    name = "fleetops.automation"
    label = "automation"
