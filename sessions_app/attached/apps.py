from django.apps import AppConfig


class AttachedConfig(AppConfig):
    name = "sessions_app.attached"
    label = "attached"
