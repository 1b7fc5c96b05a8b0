"""What people write about channels and silences."""

from django import forms

from .models import SEVERITY_CHOICES, TOPIC_CHOICES, ChannelKind


class ChannelForm(forms.Form):
    """A new channel."""

    name = forms.CharField(max_length=80)
    kind = forms.ChoiceField(choices=ChannelKind.choices)
    address = forms.CharField(max_length=1000)
    topic = forms.ChoiceField(choices=TOPIC_CHOICES)
    severity = forms.ChoiceField(choices=SEVERITY_CHOICES)


class ChangeChannelForm(forms.Form):
    """What of a channel can be changed; its address cannot: another address is another channel."""

    topic = forms.ChoiceField(choices=TOPIC_CHOICES)
    severity = forms.ChoiceField(choices=SEVERITY_CHOICES)
    enabled = forms.BooleanField(required=False)


class SilenceForm(forms.Form):
    """A silence, for so many hours from now."""

    topic = forms.ChoiceField(choices=TOPIC_CHOICES)
    match = forms.CharField(max_length=200, required=False)
    reason = forms.CharField(max_length=256)
    hours = forms.IntegerField(min_value=1, max_value=720)
