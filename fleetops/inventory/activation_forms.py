"""What somebody says who adds machines. The rules are `activation_rules`'; here are only the fields."""

from collections.abc import Sequence
from uuid import uuid4

from django import forms

from .activation_rules import Wanted, problems, read_tags
from .models import Region

# The role that the embedded endpoint's demo has for it, and the one that AWS's console makes.
_EMBEDDED_ROLE = "ssm-hybrid"
_CONSOLE_ROLE = "service-role/AmazonEC2RunCommandRoleForManagedInstances"


class ActivationForm(forms.Form):
    """One activation. `key` is new for each page, so that a form that is sent again makes no second one."""

    key = forms.UUIDField(widget=forms.HiddenInput)
    place = forms.ChoiceField(label="Account and region")
    role = forms.CharField(required=False, strip=True, label="Role of the machines", max_length=256)
    name = forms.CharField(required=False, label="Name", max_length=256)
    limit = forms.IntegerField(label="Machines")
    days = forms.IntegerField(label="Days")
    tags = forms.CharField(required=False, label="Tags", max_length=20_000, widget=forms.Textarea)
    note = forms.CharField(required=False, label="What for", max_length=256)

    def __init__(self, *args, regions: Sequence[Region], chosen: Region | None = None, **kwargs):
        self.regions = {f"{region.account_id}/{region.name}": region for region in regions}
        first = chosen or (regions[0] if regions else None)
        initial = {
            "key": uuid4(),
            "place": f"{first.account_id}/{first.name}" if first else "",
            "role": _EMBEDDED_ROLE if first and first.account.is_embedded else _CONSOLE_ROLE,
            "limit": 1,
            "days": 1,
        }
        super().__init__(*args, initial=initial, **kwargs)
        self.fields["place"].choices = [
            (value, f"{region.account} {region.name}") for value, region in self.regions.items()
        ]
        self.fields["place"].error_messages["invalid_choice"] = "That region is not one of those that FleetOps reads."

    def clean_tags(self):
        try:
            return read_tags(self.cleaned_data["tags"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None

    def clean(self):
        """Holds the whole against the rules, and shows each problem at its field."""
        cleaned = super().clean()
        for name, text in problems(self.wanted()).items():
            if name not in self.errors:
                self.add_error(name, text)
        return cleaned

    def wanted(self) -> Wanted:
        said = self.cleaned_data
        return Wanted(
            role=said.get("role", ""),
            name=said.get("name", ""),
            limit=said.get("limit", 1),
            days=said.get("days", 1),
            tags=said.get("tags") or {},
            note=said.get("note", ""),
        )

    def region(self) -> Region:
        return self.regions[self.cleaned_data["place"]]
