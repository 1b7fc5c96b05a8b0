from django.apps import AppConfig

from fleetops import metrics
from fleetops.clock import now
from fleetops.inventory.hearing import listen
from fleetops.inventory.removal import hold_removal
from fleetops.web.navigation import show_count


class RunCommandConfig(AppConfig):
    name = "fleetops.runcommand"
    label = "runcommand"

    def ready(self):
        commands = self.get_model("Command").objects
        dispatches = self.get_model("Dispatch").objects

        def running(user) -> str:
            count = commands.visible_to(user).open().count()
            return f"{count:,} running" if count else ""

        def holds(account) -> str:
            count = dispatches.open().filter(account=account).values("command").distinct().count()
            are = "command is" if count == 1 else "commands are"
            return f"{count} {are} under way in {account}. Cancel it first, or wait for its end." if count else ""

        def oldest():
            at = dispatches.uncertain().order_by("uncertain_at").values_list("uncertain_at", flat=True).first()
            yield (), (now() - at).total_seconds() if at else 0

        metrics.ask(
            "fleetops_commands_open", "Commands that have not ended.", (), lambda: [((), commands.open().count())]
        )
        metrics.ask(
            "fleetops_dispatch_uncertain_oldest_seconds",
            "Age of the oldest part of a command of which AWS has not said whether it has it; 0 if there is none.",
            (),
            oldest,
        )
        for kind in ("EC2 Command Status-change Notification", "EC2 Command Invocation Status-change Notification"):
            listen("aws.ssm", kind, "fleetops.runcommand.dispatching.told")
        show_count("runcommand:list", running)
        hold_removal(holds)
