from django.apps import AppConfig

from fleetops import vault


class IdentityConfig(AppConfig):
    name = "fleetops.identity"
    label = "identity"

    def ready(self):
        vault.register("identity.SecondFactor", "sealed_secret")
        vault.register("identity.AccessKey", "sealed_secret")
