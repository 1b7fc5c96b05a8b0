from django.apps import AppConfig

from fleetops import metrics
from fleetops.clock import now


class AuditConfig(AppConfig):
    name = "fleetops.audit"
    label = "audit"

    def ready(self):
        events = self.get_model("AuditEvent").objects

        def unsealed():
            return events.filter(seal=None).order_by("id")

        def oldest():
            at = unsealed().values_list("at", flat=True).first()
            yield (), (now() - at).total_seconds() if at else 0

        metrics.ask(
            "fleetops_audit_unsealed_rows", "Audit rows not in the chain yet.", (), lambda: [((), unsealed().count())]
        )
        metrics.ask("fleetops_audit_unsealed_oldest_seconds", "Age of the oldest of them.", (), oldest)
