"""The patches that the service itself knows: Windows' and Amazon Linux's, as AWS lists them.

Of other systems the nodes' own repositories decide, and DescribeAvailablePatches lists none of theirs. Windows' are a
small believable list (windows.py); Amazon Linux's are those of the demo nodes (catalogue.py).
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.patch import catalogue, windows
from fleetops.endpoint.patch.decide import holds
from fleetops.endpoint.patch.facts import Candidate, Filter
from fleetops.endpoint.patch.operating_systems import WINDOWS

_OF_WINDOWS: Final = ("PATCH_SET", "PRODUCT", "PRODUCT_FAMILY", "MSRC_SEVERITY", "CLASSIFICATION", "PATCH_ID")
_OF_LINUX: Final = (
    *("PRODUCT", "NAME", "SEVERITY", "CLASSIFICATION", "EPOCH", "VERSION", "RELEASE", "ARCH"),
    *("ADVISORY_ID", "CVE_ID", "BUGZILLA_ID"),
)
_LISTED_LINUX: Final = ("AMAZON_LINUX", "AMAZON_LINUX_2", "AMAZON_LINUX_2022", "AMAZON_LINUX_2023")
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMESPACE: Final = uuid.UUID("6f1d5a0c-3c5b-4c7e-9a43-4a57c0ffee00")


def of_system(system: str, now: datetime) -> list[Candidate]:
    """What is known of an operating system's patches, the newest first."""
    known = windows.patches(now) if system == WINDOWS else catalogue.candidates(system, now)
    return sorted(known, key=lambda patch: (patch.released_at or _LONG_AGO, patch.name), reverse=True)


def id_of(patch: Candidate) -> str:
    """What names a patch of Windows beside its article's number."""
    return str(uuid.uuid5(_NAMESPACE, f"{patch.name}/{patch.product}"))


def matching(filters: Sequence[Mapping[str, Any]], now: datetime) -> list[Candidate]:
    """What meets DescribeAvailablePatches' filters. Raises ApiError (ValidationException).

    Those of Linux are found by a PRODUCT alone: without one, or with Windows' keys, it is Windows' that are meant.
    """
    wanted = [Filter(one.get("Key", ""), tuple(one.get("Values", ()))) for one in filters]
    keys = {one.key for one in wanted}
    if unknown := sorted(keys - {*_OF_WINDOWS, *_OF_LINUX}):
        raise ApiError("ValidationException", f"Invalid filter key: {unknown[0]}.")
    if keys - set(_OF_WINDOWS) and "PRODUCT" not in keys:
        raise ApiError("ValidationException", "Filters for patches of Linux must name a PRODUCT.")
    known = of_system(WINDOWS, now) if keys <= set(_OF_WINDOWS) else []
    if "PRODUCT" in keys:
        known += [patch for system in _LISTED_LINUX for patch in of_system(system, now)]
    return [patch for patch in known if all(holds(one, patch) for one in wanted)]
