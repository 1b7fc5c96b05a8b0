from django.apps import AppConfig


class ReviewConfig(AppConfig):
    name = "fleetops.review"
    label = "review"
