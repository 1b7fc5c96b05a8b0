from django.apps import AppConfig


class ComplianceConfig(AppConfig):
    name = "patching.compliance"
    label = "compliance"
