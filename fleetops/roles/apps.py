from django.apps import AppConfig

from fleetops.rollouts.kinds import register
from fleetops.web.navigation import show_count


class RolesConfig(AppConfig):
    name = "fleetops.roles"
    label = "roles"

    def ready(self):
        register("roles", "fleetops.roles.kind.RolesKind")

        attachments = self.get_model("RoleAttachment").objects

        def leases(user) -> str:
            count = attachments.visible_to(user).open().leases().count()
            return f"{count:,} lease{'' if count == 1 else 's'}" if count else ""

        show_count("roles:overview", leases)
