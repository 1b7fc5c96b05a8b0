from django.apps import AppConfig

from fleetops import metrics
from fleetops.clock import now


class SchedulingConfig(AppConfig):
    name = "fleetops.rollouts.scheduling"
    label = "scheduling"

    def ready(self):
        schedules = self.get_model("RunSchedule").objects

        def late():
            at = (
                schedules.filter(enabled=True, next_at__lte=now()).order_by("next_at").values_list("next_at", flat=True)
            )
            first = at.first()
            yield (), max(0.0, (now() - first).total_seconds()) if first else 0

        metrics.ask(
            "fleetops_schedule_oldest_due_seconds",
            "How long the schedule of runs has been due that nobody looked at; 0 if none.",
            (),
            late,
        )
