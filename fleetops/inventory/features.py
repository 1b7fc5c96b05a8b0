"""Which features an account makes use of: rooms above say it here, so that no more is asked for than is used."""

from collections.abc import Callable, Collection
from typing import Any

from django.utils.module_loading import import_string

from fleetops.aws.permissions import PERMISSIONS

_told: dict[str, str] = {}


def tell_use(feature: str, path: str) -> None:
    """Name the function, "module.function", that says of an account whether it uses a feature of aws/permissions.py.

    For an apps.py, where no model can be imported yet.
    """
    _told[feature] = path


def used(account: Any) -> list[str]:
    """The features that `account` uses; those of which nobody tells are taken to be used."""
    return [feature for feature in all_features() if feature not in _told or _is_used(feature, account)]


def _is_used(feature: str, account: Any) -> bool:
    answer: Callable[[Any], bool] = import_string(_told[feature])
    return answer(account)


def all_features() -> list[str]:
    return list(dict.fromkeys(each.feature for each in PERMISSIONS))


def actions_of(features: Collection[str]) -> list[str]:
    """What they call."""
    return [each.action for each in PERMISSIONS if each.feature in features]
