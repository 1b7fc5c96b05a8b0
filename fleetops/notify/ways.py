"""Which class sends which kind of channel, by name: rooms above this one add theirs in apps.py's ready()."""

from typing import Any

from django.utils.module_loading import import_string

from fleetops.errors import UserError

_ways = {
    "email": "fleetops.notify.senders.Email",
    "webhook": "fleetops.notify.senders.Webhook",
    "slack": "fleetops.notify.senders.Slack",
}


def register(kind: str, dotted_name: str) -> None:
    """Have the class of that name, a `senders.Sender`, carry channels of `kind`."""
    _ways[kind] = dotted_name


def sender(kind: str) -> Any:
    """A `senders.Sender`. Raises UserError if nobody has registered this kind."""
    if kind not in _ways:
        raise UserError(f"Channels of the kind “{kind}” cannot be used in this installation.")
    return import_string(_ways[kind])()
