"""What people type into a document's pages."""

from django import forms

from fleetops.inventory.models import Region

from . import content
from .services import NAME


class VersionForm(forms.Form):
    """The text of a version."""

    document_format = forms.ChoiceField(choices=[(each, each) for each in content.FORMATS], initial="JSON")
    version_name = forms.RegexField(
        r"^[A-Za-z0-9_.-]{1,128}$",
        required=False,
        max_length=128,
        error_messages={"invalid": "Up to 128 letters, digits, dots, dashes and underscores."},
    )
    text = forms.CharField(strip=False, error_messages={"required": "Write or paste the document."})
    make_default = forms.BooleanField(required=False)

    def clean_text(self) -> str:
        # Browsers send CR LF; a document's lines end with LF, as its author wrote them.
        return self.cleaned_data["text"].replace("\r\n", "\n")


class DocumentForm(VersionForm):
    """A document with its first version."""

    region = forms.ModelChoiceField(Region.objects.none(), error_messages={"required": "Choose where it is to lie."})
    name = forms.RegexField(
        f"^{NAME.pattern}$",
        max_length=128,
        error_messages={"invalid": "3 to 128 letters, digits, dots, dashes and underscores."},
    )
    document_type = forms.ChoiceField(choices=[(each, each) for each in content.TYPES], initial="Command")

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.fields["region"].queryset = Region.objects.filter(enabled=True, account__enabled=True).select_related(
            "account"
        )
