from django.apps import AppConfig


class NotifyConfig(AppConfig):
    name = "fleetops.notify"
    label = "notify"
