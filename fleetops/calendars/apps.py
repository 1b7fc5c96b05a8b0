from django.apps import AppConfig

from fleetops import vault


class CalendarsConfig(AppConfig):
    name = "fleetops.calendars"
    label = "calendars"

    def ready(self):
        vault.register("calendars.Calendar", "sealed_url")
