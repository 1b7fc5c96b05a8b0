from django.apps import AppConfig


class RolloutsConfig(AppConfig):
    name = "fleetops.rollouts"
    label = "rollouts"
