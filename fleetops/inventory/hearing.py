"""Which rooms above hear of which events of EventBridge, besides what the inventory itself makes of them."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.utils.module_loading import import_string

_listeners: dict[tuple[str, str], str] = {}


def listen(source: str, detail_type: str, path: str) -> None:
    """Name the function, "module.function", that takes a region and the details of its events of that kind.

    For an apps.py, where no model can be imported yet. Events may come twice, late, or in another order.
    """
    _listeners[source, detail_type] = path


def hand_over(bodies: Iterable[str], region: Any) -> None:
    """Give those that listen what messages of a queue tell of `region`; what cannot be read is left out."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for body in bodies:
        try:
            event = json.loads(body)
            is_ours = event["account"] == region.account.account_id and event["region"] == region.name
            path = _listeners.get((event["source"], event["detail-type"]))
            if is_ours and path is not None and isinstance(event["detail"], dict):
                found[path].append(event["detail"])
        except (ValueError, KeyError, TypeError):
            continue
    for path, details in found.items():
        listener: Callable[[Any, list[Mapping[str, Any]]], None] = import_string(path)
        listener(region, details)
