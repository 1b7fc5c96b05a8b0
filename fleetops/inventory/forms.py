"""What people say of the fleet."""

from django import forms

from fleetops.targets import MOST_CHARACTERS, ExpressionError, parse

from .models import SavedFilter


class SavedFilterForm(forms.Form):
    """A filter under a name; `text` becomes canonical."""

    name = forms.CharField(max_length=SavedFilter._meta.get_field("name").max_length)
    text = forms.CharField(max_length=MOST_CHARACTERS)
    is_shared = forms.BooleanField(required=False)

    def clean_text(self) -> str:
        try:
            return str(parse(self.cleaned_data["text"], words=True))
        except ExpressionError as error:
            raise forms.ValidationError(str(error)) from None
