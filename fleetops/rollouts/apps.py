from django.apps import AppConfig
from django.db.models import Count, Q

from fleetops import metrics
from fleetops.clock import now
from fleetops.inventory.removal import hold_removal
from fleetops.web.navigation import show_count

from .kinds import register


class RolloutsConfig(AppConfig):
    name = "fleetops.rollouts"
    label = "rollouts"

    def ready(self):
        register("document", "fleetops.rollouts.documents.DocumentKind")
        runs, targets = self.get_model("Run").objects, self.get_model("RunTarget").objects

        def holds(account) -> str:
            count = runs.open().filter(targets__account=account, targets__ended_at=None).distinct().count()
            are = "run is" if count == 1 else "runs are"
            return f"{count} {are} under way in {account}. Abort it first, or wait for its end." if count else ""

        def by_state():
            for state, count in targets.filter(run__in=runs.open()).counts().items():
                yield (str(state),), count

        def oldest():
            at = runs.open().exclude(due_at=None).order_by("due_at").values_list("due_at", flat=True).first()
            yield (), max(0.0, (now() - at).total_seconds()) if at else 0

        metrics.ask("fleetops_runs_open", "Runs that have not ended.", (), lambda: [((), runs.open().count())])
        metrics.ask("fleetops_run_targets", "Targets of runs that have not ended, by state.", ("state",), by_state)
        metrics.ask(
            "fleetops_run_oldest_due_seconds",
            "How long the run has waited for a worker that has waited longest; 0 if none waits.",
            (),
            oldest,
        )

        def going(user) -> str:
            waits = Q(state__in=["paused", "stopped"])
            counts = runs.visible_to(user).open().aggregate(all=Count("pk"), waiting=Count("pk", filter=waits))
            if waiting := counts["waiting"]:
                return f"{waiting:,} need{'s' if waiting == 1 else ''} you"
            return f"{counts['all']:,} running" if counts["all"] else ""

        show_count("rollouts:runs", going)
        hold_removal(holds)
