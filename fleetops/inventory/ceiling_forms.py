"""What a person says of a ceiling. The rules are `ceilings`'; here are only the fields."""

from typing import Any

from django import forms

from .ceilings import GLOBAL, OPERATIONS, own_ceiling, problems
from .models import AccountQuerySet


class CeilingForm(forms.Form):
    """A ceiling for an operation in a region of one of `accounts`."""

    # What must be there is the rules' to say, in words that help more than "required".
    account = forms.CharField(max_length=12, required=False, label="Account")
    region = forms.CharField(max_length=32, required=False, label="Region")
    operation = forms.CharField(max_length=96, required=False, label="Operation")
    per_second = forms.FloatField(required=False, label="Calls a second", error_messages={"invalid": "no number"})

    def __init__(self, *args: Any, accounts: AccountQuerySet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_number = {each.account_id: each for each in accounts.prefetch_related("regions")}
        names = {region.name for each in self.by_number.values() for region in each.regions.all()}
        self.choices = {
            "account": [(number, f"{each} ({number})") for number, each in self.by_number.items()],
            "region": [(name, name) for name in [*sorted(names), GLOBAL]],
            "operation": [(name, f"{name} ({own_ceiling(name):g} by itself)") for name in OPERATIONS],
        }

    def clean(self) -> dict[str, Any]:
        """Holds the whole against the rules, and shows each problem at its field."""
        cleaned = super().clean()
        for name, text in problems(**self.facts()).items():
            self.errors.pop(name, None)
            self.add_error(name, text)
        return cleaned

    def facts(self) -> dict[str, Any]:
        said = self.cleaned_data
        return {
            "account": self.by_number.get(said.get("account", "")),
            "region": said.get("region", ""),
            "operation": said.get("operation", ""),
            "per_second": said.get("per_second"),
        }
