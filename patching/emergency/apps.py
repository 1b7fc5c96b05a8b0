from django.apps import AppConfig


class EmergencyConfig(AppConfig):
    name = "patching.emergency"
    label = "emergency"
