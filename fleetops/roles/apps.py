from django.apps import AppConfig

from fleetops.rollouts.kinds import register


class RolesConfig(AppConfig):
    name = "fleetops.roles"
    label = "roles"

    def ready(self):
        register("roles", "fleetops.roles.kind.RolesKind")
