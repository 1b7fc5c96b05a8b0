from django.apps import AppConfig


class DoctorConfig(AppConfig):
    name = "fleetops.doctor"
    label = "doctor"
