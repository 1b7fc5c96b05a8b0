"""Which features an account makes use of: rooms above say it here, so that no more is asked for than is used."""

from collections.abc import Callable, Collection
from typing import Any

from django.utils.module_loading import import_string

from fleetops.aws.permissions import PERMISSIONS

_told: dict[str, list[str]] = {}


def tell_use(feature: str, path: str) -> None:
    """Name a function, "module.function", that says of an account whether it uses a feature of aws/permissions.py.

    It is used if one of several says so. For an apps.py, where no model can be imported yet.
    """
    if path not in _told.setdefault(feature, []):
        _told[feature].append(path)


def used(account: Any) -> list[str]:
    """The features that `account` uses; those of which nobody tells are taken to be used."""
    return [feature for feature in all_features() if feature not in _told or _is_used(feature, account)]


def _is_used(feature: str, account: Any) -> bool:
    answers: list[Callable[[Any], bool]] = [import_string(path) for path in _told[feature]]
    return any(answer(account) for answer in answers)


def all_features() -> list[str]:
    return list(dict.fromkeys(each.feature for each in PERMISSIONS))


def actions_of(features: Collection[str]) -> list[str]:
    """What they call."""
    return [each.action for each in PERMISSIONS if each.feature in features]
