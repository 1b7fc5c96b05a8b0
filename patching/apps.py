from django.apps import AppConfig


class PatchingConfig(AppConfig):
    name = "patching"
    label = "patching"

    def ready(self):
        # Rooms that hold models can be imported once all apps are there.
        from fleetops.rollouts.kinds import register

        from .kind import PatchKind

        register(PatchKind())
