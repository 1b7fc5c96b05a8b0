from django.apps import AppConfig


class ExposureConfig(AppConfig):
    name = "fleetops.exposure"
    label = "exposure"
