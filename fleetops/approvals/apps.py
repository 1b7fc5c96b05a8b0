from django.apps import AppConfig


class ApprovalsConfig(AppConfig):
    name = "fleetops.approvals"
    label = "approvals"
