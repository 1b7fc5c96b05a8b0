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

        def backup():
            made = events.filter(action="backup.make").order_by("-at").values_list("at", flat=True)[:1]
            return [((), (now() - at).total_seconds()) for at in made]

        metrics.ask("fleetops_backup_age_seconds", "Time since the newest backup was made.", (), backup)
