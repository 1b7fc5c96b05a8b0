from django.apps import AppConfig

from fleetops import metrics, vault


class NotifyConfig(AppConfig):
    name = "fleetops.notify"
    label = "notify"

    def ready(self):
        vault.register("notify.Channel", "sealed_url")
        vault.register("notify.Channel", "sealed_key")
        deliveries = self.get_model("Delivery").objects

        def outbox():
            for state in ("pending", "failed"):
                yield (state,), deliveries.filter(state=state).count()

        metrics.ask("fleetops_notices", "Notices in the outbox: pending, failed.", ("state",), outbox)
