"""What somebody asks for, as a form."""

from typing import Any

from django import forms
from django.db.models import QuerySet

from fleetops.errors import FieldError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.targets import ExpressionError, parse

from . import grants, questions
from .states import SessionKind

CHOICES = ((15, "15 min"), (30, "30 min"), (60, "60 min"), (120, "2 h"), (240, "4 h"))
COMMAND_DOCUMENT = "AWS-StartNonInteractiveCommand"


class AskForm(forms.Form):
    """Where, what, how long, why. `wish` and `instances` are what the service takes."""

    instance = forms.UUIDField(required=False)
    expression = forms.CharField(max_length=4000, required=False)
    kind = forms.ChoiceField(choices=SessionKind.choices, initial=SessionKind.SHELL)
    run_as = forms.CharField(max_length=64, required=False)
    document = forms.CharField(max_length=128, required=False)
    host = forms.CharField(max_length=253, required=False)
    port = forms.IntegerField(min_value=1, max_value=65535, required=False)
    minutes = forms.IntegerField(min_value=grants.SHORTEST_MINUTES, max_value=10080, initial=60)
    starts_at = forms.DateTimeField(required=False)
    reason = forms.CharField(max_length=256)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.instances: list[Instance] = []
        self.wish = grants.Wish()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not self.errors.keys() & {"instance", "expression"}:
            self.instances = self._instances(cleaned)
        kind = cleaned.get("kind", SessionKind.SHELL)
        destination = ""
        if kind == SessionKind.FORWARD:
            destination = self._destination(cleaned)
        is_forward = kind == SessionKind.FORWARD
        document = "" if is_forward else cleaned.get("document", "").strip()
        if kind == SessionKind.COMMAND and not document:
            document = COMMAND_DOCUMENT
        self.wish = grants.Wish(kind, "" if is_forward else cleaned.get("run_as", "").strip(), document, destination)
        return cleaned

    def _instances(self, cleaned: dict[str, Any]) -> list[Instance]:
        visible = visible_instances(self.user)
        if text := cleaned.get("expression", "").strip():
            try:
                found = select(parse(text), visible)
            except ExpressionError as error:
                self.add_error("expression", str(error))
                return []
            chosen = list(found[: grants.MOST_INSTANCES + 1])
            if not chosen:
                self.add_error("expression", "No instance that you may see is selected by this now.")
            if len(chosen) > grants.MOST_INSTANCES:
                self.add_error("expression", f"At most {grants.MOST_INSTANCES} instances in one request.")
            return chosen
        if pk := cleaned.get("instance"):
            if chosen := list(visible.filter(pk=pk)):
                return chosen
            self.add_error("instance", "There is no such instance.")
            return []
        self.add_error("expression", "Write which instances it is for.")
        return []

    def _destination(self, cleaned: dict[str, Any]) -> str:
        host, port = cleaned.get("host", "").strip(), cleaned.get("port")
        if port is None:
            if "port" not in self.errors:
                self.add_error("port", "Write the port.")
            return ""
        given = {"portNumber": [str(port)], "host": [host or "localhost"]}
        try:
            return questions.destination_asked(questions.TO_A_HOST, given)
        except FieldError as error:
            self.add_error("host" if "host" in error.fields else "port", str(error))
            return ""


def visible_instances(user: User) -> QuerySet[Instance]:
    return Instance.objects.visible_to(user).select_related("account", "region")
