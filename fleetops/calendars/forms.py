"""What people write about calendars."""

from django import forms

from fleetops.errors import UserError
from fleetops.targets import TargetFacts

from .deeds import DEEDS, EVERYTHING
from .models import Calendar, CalendarKind, CalendarSource, Repeat
from .periods import MOST_BYTES

_MINUTES = "%Y-%m-%dT%H:%M"


class CalendarForm(forms.Form):
    """A calendar: what it binds, and where its periods come from."""

    name = forms.CharField(max_length=80)
    kind = forms.ChoiceField(choices=CalendarKind.choices)
    source = forms.ChoiceField(choices=CalendarSource.choices, required=False)
    deeds = forms.MultipleChoiceField(
        choices=[(EVERYTHING, "Everything"), *DEEDS.items()],
        error_messages={"required": "Choose what the calendar binds: one kind of action at least, or everything."},
    )
    targets = forms.CharField(max_length=4000)
    zone = forms.CharField(max_length=64)
    note = forms.CharField(max_length=512, required=False)
    enabled = forms.BooleanField(required=False)
    url = forms.CharField(max_length=2000, required=False)
    file = forms.FileField(required=False, max_length=255)

    def __init__(self, *args, calendar: Calendar | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.calendar = calendar
        self.fields["source"].required = calendar is None

    def clean_file(self) -> str:
        uploaded = self.cleaned_data["file"]
        if not uploaded:
            return ""
        if uploaded.size > MOST_BYTES:
            raise forms.ValidationError(f"The file is larger than {MOST_BYTES // 1024} KiB.")
        return uploaded.read().decode("utf-8", "replace")

    def fields_to_keep(self) -> dict:
        """What the service takes."""
        given = {
            name: self.cleaned_data[name] for name in ("name", "kind", "deeds", "targets", "zone", "note", "enabled")
        }
        if self.calendar is None:
            given["source"] = self.cleaned_data["source"]
        return given | {"url": self.cleaned_data["url"].strip(), "text": self.cleaned_data["file"]}


class EntryForm(forms.Form):
    """One period of a calendar that is kept here."""

    title = forms.CharField(max_length=120)
    start = forms.DateTimeField(input_formats=[_MINUTES])
    end = forms.DateTimeField(input_formats=[_MINUTES])
    repeat = forms.ChoiceField(choices=Repeat.choices, required=False)
    until = forms.DateField(required=False)

    def clean(self):
        cleaned = super().clean()
        for name in ("start", "end"):  # times of the calendar's zone, whatever Django makes of them
            if cleaned.get(name):
                cleaned[name] = cleaned[name].replace(tzinfo=None)
        return cleaned


class CheckForm(forms.Form):
    """Would this deed be held on such an instance then?"""

    deed = forms.ChoiceField(choices=list(DEEDS.items()))
    at = forms.DateTimeField(input_formats=[_MINUTES])
    facts = forms.CharField(max_length=500, required=False)

    def clean_facts(self) -> TargetFacts:
        try:
            return facts_of(self.cleaned_data["facts"])
        except UserError as error:
            raise forms.ValidationError(str(error)) from None


_FACTS = {
    "id": "instance_id",
    "name": "name",
    "account": "account_id",
    "region": "region",
    "zone": "zone",
    "platform": "platform",
}


def facts_of(text: str) -> TargetFacts:
    """An instance as somebody describes it: "env=prod, region=eu-west-1". Raises UserError."""
    known: dict[str, str] = {}
    tags: dict[str, str] = {}
    for piece in filter(None, (each.strip() for each in text.split(","))):
        key, equals, value = piece.partition("=")
        if not equals or not key.strip():
            raise UserError(f"“{piece}” says nothing of an instance; write key=value, with commas between.")
        key, value = key.strip(), value.strip()
        if key in _FACTS:
            known[_FACTS[key]] = value
        else:
            tags[key.removeprefix("tag:")] = value
    return TargetFacts(**{"instance_id": "i-0", "account_name": known.get("account_id", "")} | known, tags=tags)
