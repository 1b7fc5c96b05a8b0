from django.apps import AppConfig


class PolicyConfig(AppConfig):
    name = "fleetops.policy"
    label = "policy"
