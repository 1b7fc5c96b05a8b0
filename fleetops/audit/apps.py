from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "fleetops.audit"
    label = "audit"
