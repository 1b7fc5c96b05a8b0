from django.apps import AppConfig

from fleetops.notify import ways
from fleetops.policy import fleet
from fleetops.web.navigation import show_count


class InventoryConfig(AppConfig):
    name = "fleetops.inventory"
    label = "inventory"

    def ready(self):
        fleet.register("fleetops.inventory.doors.PolicyFleet")
        ways.register("sns", "fleetops.inventory.sns.Sns")
        instances = self.get_model("Instance").objects
        show_count("inventory:fleet", lambda user: f"{instances.visible_to(user).present().count():,}")
