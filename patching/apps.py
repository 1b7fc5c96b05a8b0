from django.apps import AppConfig


class PatchingConfig(AppConfig):
    name = "patching"
    label = "patching"
