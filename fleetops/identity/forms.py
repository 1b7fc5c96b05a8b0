"""Logging in, and what an administrator says of a user."""

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from .models import User
from .roles import ROLE_TEXTS


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
