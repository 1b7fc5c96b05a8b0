from django.apps import AppConfig
from django.conf import settings

from fleetops import metrics
from fleetops.aws import calls, governor
from fleetops.clock import now
from fleetops.notify import ways
from fleetops.policy import fleet
from fleetops.web.context import current
from fleetops.web.navigation import show_count


class InventoryConfig(AppConfig):
    name = "fleetops.inventory"
    label = "inventory"

    def ready(self):
        fleet.register("fleetops.inventory.doors.PolicyFleet")
        ways.register("sns", "fleetops.inventory.sns.Sns")
        calls.take_request_id_from(lambda: current.get().request_id)
        governor.configure(settings.AWS_BUDGET_URL, start=settings.AWS_CALLS_PER_SECOND)
        regions = self.get_model("Region").objects

        def ages():
            read = regions.filter(enabled=True, account__enabled=True, refreshed_at__isnull=False)
            for account, region, at in read.values_list("account__account_id", "name", "refreshed_at"):
                yield (account, region), (now() - at).total_seconds()

        metrics.ask(
            "fleetops_inventory_age_seconds", "Time since a region was last read whole.", ("account", "region"), ages
        )
        instances = self.get_model("Instance").objects
        show_count("inventory:fleet", lambda user: f"{instances.visible_to(user).present().count():,}")
