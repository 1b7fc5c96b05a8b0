from django.apps import AppConfig

from fleetops.inventory.features import tell_use
from fleetops.rollouts.kinds import register
from fleetops.rollouts.scheduling.presets import Preset, offer

# It changes nothing: all at once, and one that fails holds up no other.
DAILY_SCAN = Preset(
    "scan",
    "Scan everything daily",
    "Every instance looks what it lacks and reports it. Nothing is installed.",
    "cron(0 2 * * ? *)",
    {
        "kind": "patch",
        "subject": {"operation": "Scan"},
        "targets": "all",
        "waves": [{"by": "rest"}],
        "concurrency": "100%",
        "budget": "100%",
    },
)


class PatchingConfig(AppConfig):
    name = "patching"
    label = "patching"

    def ready(self):
        register("patch", "patching.kind.PatchKind")
        offer(DAILY_SCAN)
        tell_use("Copies of recordings", "patching.lists.uses")  # s3:PutObject is for lists, too
