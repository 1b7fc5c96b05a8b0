from django.apps import AppConfig

from fleetops.rollouts.kinds import register


class PatchingConfig(AppConfig):
    name = "patching"
    label = "patching"

    def ready(self):
        register("patch", "patching.kind.PatchKind")
