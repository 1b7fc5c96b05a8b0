"""A rule as a form, and a question as one."""

import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.contrib.auth.models import Group
from django.forms.utils import ErrorDict

from fleetops.identity.models import User
from fleetops.identity.roles import ROLE_TEXTS

from . import rule_fields
from .decide import DEED_WORDS, destination_of
from .models import Effect, Rule, Whose

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class WordsField(forms.CharField):
    """Several words in one line, between spaces or commas."""

    def to_python(self, value: Any) -> list[str]:
        return [word for word in re.split(r"[\s,]+", super().to_python(value)) if word]

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list | tuple) else value


class RuleForm(forms.Form):
    """All of a rule. `problems` of services.py have the last word, here and over the API."""

    name = forms.CharField(max_length=100)
    note = forms.CharField(max_length=500, required=False)
    effect = forms.ChoiceField(choices=Effect.choices, initial=Effect.ALLOW)
    everybody = forms.BooleanField(required=False)
    users = forms.ModelMultipleChoiceField(User.objects.none(), required=False)
    groups = forms.ModelMultipleChoiceField(Group.objects.none(), required=False)
    deeds = forms.MultipleChoiceField(
        choices=[(str(deed), words) for deed, words in DEED_WORDS.items()], required=False
    )
    whose = forms.ChoiceField(choices=Whose.choices, initial=Whose.ANY)
    targets = forms.CharField(max_length=4000, required=False)
    confirm_all = forms.BooleanField(required=False)
    documents = WordsField(max_length=2000, required=False)
    run_as = WordsField(max_length=2000, required=False)
    shell_user = forms.CharField(max_length=64, required=False)
    session_documents = WordsField(max_length=2000, required=False)
    destinations = WordsField(max_length=4000, required=False)
    days = forms.TypedMultipleChoiceField(choices=list(enumerate(DAYS)), coerce=int, required=False)
    starts_at = forms.TimeField(required=False)
    ends_at = forms.TimeField(required=False)
    zone = forms.CharField(max_length=64, required=False, initial="UTC")
    networks = WordsField(max_length=2000, required=False)
    needs_mfa = forms.BooleanField(required=False)
    mfa_minutes = forms.IntegerField(min_value=0, max_value=rule_fields.MOST_MFA_MINUTES, required=False)
    needs_reason = forms.BooleanField(required=False)
    needs_moderator = forms.BooleanField(required=False)
    approvals = forms.IntegerField(min_value=0, max_value=rule_fields.MOST_APPROVALS, required=False, initial=0)
    approvers = forms.ModelMultipleChoiceField(Group.objects.none(), required=False)
    grant_minutes = forms.IntegerField(min_value=0, max_value=rule_fields.MOST_GRANT_MINUTES, required=False)
    role_arn = forms.CharField(max_length=256, required=False)
    valid_from = forms.DateTimeField(required=False)
    valid_until = forms.DateTimeField(required=False)
    version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Mapping | None = None, *, rule: Rule | None = None) -> None:
        super().__init__(data, initial=_initial(rule) if rule else None)
        self.fields["users"].queryset = User.objects.order_by("username")
        for name in ("groups", "approvers"):
            self.fields[name].queryset = Group.objects.order_by("name")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        for name in ("approvals", "mfa_minutes", "grant_minutes"):
            cleaned[name] = cleaned.get(name) or 0
        fields = {name: cleaned[name] for name in rule_fields.FIELDS if name in cleaned}
        fields |= {name: list(fields.get(name, ())) for name in ("users", "groups", "approvers")}
        for name, text in rule_fields.problems(fields, confirmed=cleaned["confirm_all"]).items():
            if name not in self.errors:
                self.add_error(name, text)
        return cleaned

    def as_it_stands(self) -> "RuleForm":
        """What was filled in, with no word yet on what is wrong with it."""
        self._errors = ErrorDict()
        return self

    @property
    def rule_fields(self) -> dict[str, Any]:
        """What services take."""
        return {name: self.cleaned_data[name] for name in rule_fields.FIELDS}


def _initial(rule: Rule) -> dict[str, Any]:
    named = ("users", "groups", "approvers")
    initial = {name: getattr(rule, name) for name in rule_fields.FIELDS if name not in named}
    people = {name: [row.pk for row in getattr(rule, name).all()] for name in named}
    # As browsers take times and moments.
    for name in ("starts_at", "ends_at"):
        initial[name] = initial[name] and f"{initial[name]:%H:%M}"
    for name in ("valid_from", "valid_until"):
        initial[name] = initial[name] and f"{initial[name].astimezone(UTC):%Y-%m-%dT%H:%M}"
    is_all = rule.targets == "all"
    return initial | people | {"version": rule.version, "confirm_all": is_all, "zone": rule.zone or "UTC"}


def group_title(group: Group) -> str:
    return ROLE_TEXTS[group.name][0] if group.name in ROLE_TEXTS else group.name


class SimulateForm(forms.Form):
    """May this person do that there, then, from there? All but the person may be left as it is."""

    person = forms.CharField(max_length=150)
    deed = forms.ChoiceField(choices=[(str(deed), words) for deed, words in DEED_WORDS.items()])
    instance = forms.CharField(max_length=255, required=False)
    at = forms.DateTimeField(required=False)
    address = forms.GenericIPAddressField(required=False)
    owner = forms.ChoiceField(choices=[("other", "somebody else's"), ("own", "their own")], required=False)
    document = forms.CharField(max_length=256, required=False)
    run_as = forms.CharField(max_length=64, required=False)
    destination = forms.CharField(max_length=300, required=False)
    has_mfa = forms.BooleanField(required=False)
    has_reason = forms.BooleanField(required=False)
    approvals = forms.IntegerField(min_value=0, max_value=rule_fields.MOST_APPROVALS, required=False)

    def clean_destination(self) -> str:
        given = self.cleaned_data["destination"].strip()
        host, _, port = given.rpartition(":")
        if given and not port.isdecimal():
            raise forms.ValidationError("Write host and port, as db.internal:5432.")
        return destination_of(host, port) if given else ""

    def clean_person(self) -> User:
        name = self.cleaned_data["person"].strip()
        found = User.objects.filter(username=name).prefetch_related("groups").first()
        if found is None:
            raise forms.ValidationError(f"There is no user “{name}”.")
        return found


ZONES = sorted(available_timezones())
