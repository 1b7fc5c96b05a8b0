"""A restricted shell as a form, and the parameters of one that is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms

from .models import RestrictedShell

SPARE_ROWS = 3  # empty rows for parameters, below those that are there
MOST_ROWS = 20
_COLUMNS = ("name", "pattern", "values", "default", "description")


class RestrictedShellForm(forms.Form):
    """What it is called, what it runs, and its parameters: rows of fields p<n>_name, …"""

    name = forms.CharField(max_length=63, required=False)
    note = forms.CharField(max_length=256, required=False)
    linux = forms.CharField(required=False, max_length=8000)
    macos = forms.CharField(required=False, max_length=8000)
    windows = forms.CharField(required=False, max_length=8000)

    def __init__(self, data: Mapping[str, Any] | None = None, *, shell: RestrictedShell | None = None) -> None:
        initial = {}
        if shell is not None:
            initial = {name: getattr(shell, name) for name in ("name", "note", "linux", "macos", "windows")}
        super().__init__(data, initial=initial)
        self.shell = shell
        self.parameter_errors: list[str] = []

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of parameters, with some empty ones, as the page shows them."""
        if self.is_bound:
            rows = self._sent()
        else:
            rows = [
                {**{name: str(each.get(name, "")) for name in _COLUMNS}, "values": ", ".join(each.get("values", []))}
                for each in (self.shell.parameters if self.shell is not None else [])
            ]
        rows += [dict.fromkeys(_COLUMNS, "") for _ in range(SPARE_ROWS)]
        return [{**row, "n": str(number)} for number, row in enumerate(rows[:MOST_ROWS])]

    def _sent(self) -> list[dict[str, str]]:
        found = []
        for number in range(MOST_ROWS):
            row = {name: str(self.data.get(f"p{number}_{name}", "")).strip() for name in _COLUMNS}
            if any(row.values()):
                found.append(row)
        return found

    @property
    def fields_given(self) -> dict[str, Any]:
        """What the service takes."""
        parameters = [
            {**row, "values": [text.strip() for text in row["values"].split(",") if text.strip()]}
            for row in self._sent()
        ]
        return {**self.cleaned_data, "parameters": parameters}

    def show(self, wrong: Mapping[str, str]) -> None:
        """Say at each field what the service found wrong."""
        for name, text in wrong.items():
            if name == "parameters":
                self.parameter_errors.append(text)
                self.add_error(None, text)
            else:
                self.add_error(name if name in self.fields else None, text)


class OpenAsForm(forms.Form):
    """The parameters of one restricted shell, for the page that opens it."""

    def __init__(self, data: Mapping[str, Any] | None = None, *, shell: RestrictedShell) -> None:
        super().__init__(data, prefix=str(shell.pk))
        self.shell = shell
        for each in shell.parameters:
            label = each.get("description") or each["name"]
            options = {"label": label, "required": False, "initial": each.get("default", "")}
            if each.get("values"):
                choices = [(text, text) for text in each["values"]]
                self.fields[each["name"]] = forms.ChoiceField(choices=choices, **options)
            else:
                self.fields[each["name"]] = forms.CharField(max_length=1000, strip=False, **options)

    @property
    def parameters(self) -> dict[str, list[str]]:
        """As StartSession takes them; one that is empty and has a default is left out."""
        defaults = {each["name"] for each in self.shell.parameters if each.get("default")}
        sent = {name: str(self.data.get(self.add_prefix(name), "")) for name in self.fields}
        return {name: [text] for name, text in sent.items() if text or name not in defaults}
