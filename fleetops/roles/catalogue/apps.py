from django.apps import AppConfig


class CatalogueConfig(AppConfig):
    name = "fleetops.roles.catalogue"
    label = "role_catalogue"
