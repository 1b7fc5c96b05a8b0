from django.apps import AppConfig

from fleetops import vault


class NotifyConfig(AppConfig):
    name = "fleetops.notify"
    label = "notify"

    def ready(self):
        vault.register("notify.Channel", "sealed_url")
        vault.register("notify.Channel", "sealed_key")
