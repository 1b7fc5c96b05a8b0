"""What an administrator says of an account. The rules are `account_rules`'; here are only the fields."""

import re

from django import forms

from fleetops.aws.regions import partitions
from fleetops.clock import now

from .account_rules import COLUMNS, AccountFacts, problems, with_own_stream_host
from .accounts import facts_of
from .models import Account


class AccountForm(forms.Form):
    """One account. With `account` it is a change: the number stays, and of an embedded one the connection too."""

    # What must be there is the rules' to say, in words that help more than "required".
    account_id = forms.CharField(max_length=32, required=False, label="Account number")
    name = forms.CharField(max_length=64, required=False, label="Name")
    regions = forms.MultipleChoiceField(required=False, label="Regions")
    role_arn = forms.CharField(max_length=256, required=False, label="Role to assume")
    external_id = forms.CharField(max_length=128, required=False, label="External id")
    profile = forms.CharField(max_length=64, required=False, label="Profile of the base credentials")
    endpoint_url = forms.CharField(max_length=256, required=False, label="Endpoint address")
    ca_pem = forms.CharField(max_length=65536, required=False, label="CA certificate", widget=forms.Textarea)
    stream_hosts = forms.CharField(max_length=2048, required=False, label="Stream hosts", widget=forms.Textarea)

    def __init__(self, *args, account: Account | None = None, **kwargs):
        self.account = account
        super().__init__(*args, **kwargs)
        offered = dict.fromkeys(name for names in partitions().values() for name in names)
        known = account.regions.values_list("name", flat=True) if account else ()
        self.fields["regions"].choices = [(name, name) for name in [*offered, *(set(known) - offered.keys())]]
        fixed = ["account_id"] if account else []
        if account and account.is_embedded:
            fixed += [name for name in COLUMNS if name != "name"]
        for name in fixed:
            self.fields[name].disabled = True  # Django then takes the initial value, whatever was sent

    @classmethod
    def initial_of(cls, account: Account) -> dict:
        facts = facts_of(account)
        said = {name: getattr(facts, name) for name in ("account_id", *COLUMNS)}
        return said | {"regions": list(facts.regions), "stream_hosts": "\n".join(facts.stream_hosts)}

    def clean_account_id(self):
        return self.cleaned_data["account_id"].replace("-", "").replace(" ", "")

    def clean(self):
        """Holds the whole against the rules, and shows each problem at its field."""
        cleaned = super().clean()
        for name, text in problems(self.facts(), now=now()).items():
            if name not in self.errors:
                self.add_error(name, text)
        return cleaned

    def facts(self) -> AccountFacts:
        said = self.cleaned_data
        hosts = tuple(re.split(r"[\s,]+", said.get("stream_hosts", "").strip())) if said.get("stream_hosts") else ()
        endpoint_url = said.get("endpoint_url", "")
        return AccountFacts(
            account_id=said.get("account_id", ""),
            name=said.get("name", ""),
            regions=tuple(said.get("regions") or ()),
            role_arn=said.get("role_arn", ""),
            external_id=said.get("external_id", ""),
            profile=said.get("profile", ""),
            endpoint_url=endpoint_url,
            ca_pem=said.get("ca_pem", ""),
            stream_hosts=with_own_stream_host({"endpoint_url": endpoint_url, "stream_hosts": hosts}),
        )
