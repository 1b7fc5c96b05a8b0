"""Logging in, and what an administrator says of a user."""

import re

from django import forms
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from .models import User
from .roles import ROLE_TEXTS
from .scopes import SCOPES

DAYS = ((1, "1 day"), (7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "365 days"))


class KeyForm(forms.Form):
    """A new access key."""

    name = forms.CharField(max_length=64, error_messages={"required": "Say what it is for."})
    days = forms.TypedChoiceField(coerce=int, initial=30)
    networks = forms.CharField(required=False, max_length=1000)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["days"].choices = [(days, text) for days, text in DAYS if days <= settings.TOKEN_LONGEST_DAYS]

    def clean_networks(self) -> list[str]:
        return [text for text in re.split(r"[\s,]+", self.cleaned_data["networks"]) if text]


class TokenForm(KeyForm):
    """A new API token."""

    scopes = forms.MultipleChoiceField(
        choices=[(name, scope.title) for name, scope in SCOPES.items()],
        error_messages={"required": "Choose at least one scope."},
    )


class CodeForm(forms.Form):
    """A code of the authenticator app, or a recovery code."""

    code = forms.CharField(max_length=64, error_messages={"required": "Enter the code."})


class ConfirmForm(forms.Form):
    """The password once more, of who is logged in."""

    password = forms.CharField(strip=False, max_length=4096, error_messages={"required": "Enter your password."})


class RemoveForm(ConfirmForm, CodeForm):
    """Both, to take the second factor away."""


class LoginForm(AuthenticationForm):
    """Django's, with its one message for every cause, so that nobody learns which names exist."""

    error_messages = AuthenticationForm.error_messages | {"invalid_login": "Username and password do not match."}


class _RolesForm(forms.ModelForm):
    roles = forms.MultipleChoiceField(
        choices=[(role, title) for role, (title, _) in ROLE_TEXTS.items()],
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    class Meta:
        model = User
        fields = ("first_name", "last_name", "email")


class CreateUserForm(_RolesForm):
    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}), strip=False)

    class Meta(_RolesForm.Meta):
        fields = ("username", *_RolesForm.Meta.fields)

    def clean(self):
        cleaned = super().clean()
        if password := cleaned.get("password"):
            try:
                validate_password(password, User(username=cleaned.get("username", "")))
            except ValidationError as error:
                self.add_error("password", error)
        return cleaned


class ChangeUserForm(_RolesForm):
    pass


class PasswordForm(forms.Form):
    """A new password for `user`."""

    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}), strip=False)

    def __init__(self, *args, user: User, **kwargs):
        self.user = user
        super().__init__(*args, **kwargs)

    def clean_password(self):
        password = self.cleaned_data["password"]
        validate_password(password, self.user)
        return password
