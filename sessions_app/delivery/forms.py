"""What an administrator says of deliveries. The rules are `services.change`'s; here are only the fields."""

from typing import Any

from django import forms

from fleetops.aws.logs import RETENTION_DAYS

from .models import DeliverySettings, Strict
from .services import FIELDS


class DeliveryForm(forms.Form):
    has_transcript = forms.BooleanField(required=False, label="Transcript")
    has_commands = forms.BooleanField(required=False, label="Commands")
    log_group = forms.CharField(max_length=512, required=False, label="Log group")
    retention_days = forms.TypedChoiceField(
        required=False,
        coerce=int,
        empty_value=None,
        label="Kept for",
        choices=[("", "as the group says"), *((days, f"{days} days") for days in RETENTION_DAYS)],
    )
    log_kms_key = forms.CharField(max_length=256, required=False, label="KMS key of the group")
    strict = forms.ChoiceField(required=False, label="If it is not confirmed in time", choices=Strict.choices)
    bucket = forms.CharField(max_length=63, required=False, label="Bucket")
    prefix = forms.CharField(max_length=256, required=False, label="Prefix")
    bucket_kms_key = forms.CharField(max_length=256, required=False, label="KMS key of the copies")

    @classmethod
    def initial_of(cls, row: DeliverySettings) -> dict[str, Any]:
        return {name: getattr(row, name) for name in FIELDS}
