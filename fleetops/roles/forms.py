"""What people write about roles."""

from __future__ import annotations

from typing import Any

from django import forms

from fleetops.identity.roles import ROLE_TEXTS

from .models import Mode, RoleRule
from .services import LONGEST_MINUTES

ROLE, NONE, PRIVILEGE = "role", "none", "privilege"
WHATS = (
    (ROLE, "A role", "an instance profile, in the place of what is there"),
    (PRIVILEGE, "Privilege only", "a policy on the role that it keeps; the agent stays connected"),
    (NONE, "No role", "detached for good"),
)
LENGTHS = (("lease", "For a while"), ("permanent", "For good"))


class AskForm(forms.Form):
    """A role, a privilege or none, for a while or for good."""

    what = forms.ChoiceField(choices=[(value, label) for value, label, _ in WHATS])
    profile_name = forms.CharField(max_length=200, required=False)
    policy_name = forms.CharField(max_length=100, required=False)
    policy = forms.CharField(max_length=8000, required=False)
    length = forms.ChoiceField(choices=LENGTHS, required=False)
    minutes = forms.IntegerField(min_value=1, max_value=LONGEST_MINUTES, required=False)
    reason = forms.CharField(max_length=512, required=False)
    cut_off_accepted = forms.BooleanField(required=False)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        what = given.get("what")
        if what == ROLE and not given.get("profile_name", "").strip():
            self.add_error("profile_name", "Name an instance profile.")
        if what == PRIVILEGE and not given.get("policy", "").strip():
            self.add_error("policy", "Write the policy that is put on the role.")
        given["is_lease"] = what == PRIVILEGE or (what == ROLE and given.get("length") != "permanent")
        if given["is_lease"] and given.get("minutes") is None and "minutes" not in self.errors:
            self.add_error("minutes", "Say for how many minutes.")
        return given


class RuleForm(forms.Form):
    """A rule: which instances, which role, how long, after whose approval."""

    name = forms.CharField(max_length=100)
    targets = forms.CharField(max_length=2000)
    profile_name = forms.CharField(max_length=128)
    mode = forms.ChoiceField(choices=Mode.choices)
    most_minutes = forms.IntegerField(min_value=0, max_value=LONGEST_MINUTES, required=False)
    allows_privileges = forms.BooleanField(required=False)
    approvals = forms.IntegerField(min_value=0, max_value=10, required=False)
    approvers = forms.MultipleChoiceField(
        choices=[(name, label) for name, (label, _) in ROLE_TEXTS.items()], required=False
    )
    is_repairing = forms.BooleanField(required=False)
    is_enabled = forms.BooleanField(required=False)
    version = forms.IntegerField(min_value=1, required=False)

    def given(self) -> dict[str, Any]:
        """What the service takes."""
        kept = dict(self.cleaned_data)
        kept.pop("version")
        return kept | {"most_minutes": kept["most_minutes"] or 0, "approvals": kept["approvals"] or 0}

    @staticmethod
    def initial_of(rule: RoleRule | None) -> dict[str, Any]:
        if rule is None:
            return {"mode": Mode.MAY, "most_minutes": 60, "approvals": 0, "is_enabled": True, "targets": ""}
        names = ("name", "targets", "profile_name", "mode", "most_minutes", "allows_privileges", "approvals")
        found = {name: getattr(rule, name) for name in (*names, "is_repairing", "is_enabled", "version")}
        return found | {"approvers": [group.name for group in rule.approvers.all()]}


class ExtendForm(forms.Form):
    minutes = forms.IntegerField(min_value=1, max_value=LONGEST_MINUTES)
