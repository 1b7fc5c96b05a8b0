from django.apps import AppConfig


class LibraryConfig(AppConfig):
    name = "fleetops.library"
    label = "library"
