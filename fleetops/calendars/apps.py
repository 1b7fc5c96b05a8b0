from django.apps import AppConfig


class CalendarsConfig(AppConfig):
    name = "fleetops.calendars"
    label = "calendars"
