from django.apps import AppConfig

from fleetops.identity.roles import AFTER_SYNC


class PolicyConfig(AppConfig):
    name = "fleetops.policy"
    label = "policy"

    def ready(self):
        AFTER_SYNC.append("fleetops.policy.services.make_defaults")
