from django.apps import AppConfig

from fleetops.inventory.features import tell_use
from fleetops.rollouts.kinds import register


class PatchingConfig(AppConfig):
    name = "patching"
    label = "patching"

    def ready(self):
        register("patch", "patching.kind.PatchKind")
        tell_use("Copies of recordings", "patching.lists.uses")  # s3:PutObject is for lists, too
