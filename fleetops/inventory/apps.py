from django.apps import AppConfig


class InventoryConfig(AppConfig):
    name = "fleetops.inventory"
    label = "inventory"
