import gc

from django.apps import AppConfig


class DoctorConfig(AppConfig):
    name = "fleetops.doctor"
    label = "doctor"

    def ready(self):
        """It is the last one: what is loaded by now stays, and what comes is looked through (fleetops/__init__.py)."""
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
