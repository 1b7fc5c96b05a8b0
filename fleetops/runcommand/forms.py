"""What people type where they run a document, besides its parameters."""

from django import forms

from fleetops.targets import MOST_CHARACTERS

from . import plan, services


class RunForm(forms.Form):
    """On what, why, and how fast."""

    targets = forms.CharField(
        max_length=MOST_CHARACTERS, error_messages={"required": "Say on which instances: env=prod, or all."}
    )
    reason = forms.CharField(required=False, max_length=256)
    timeout_seconds = forms.IntegerField(
        min_value=services.SHORTEST_TIMEOUT, max_value=services.LONGEST_TIMEOUT, initial=3600
    )
    at_once = forms.IntegerField(required=False, min_value=1, max_value=plan.MOST_INSTANCES)
    most_failed = forms.IntegerField(required=False, min_value=0, max_value=plan.MOST_INSTANCES)
