"""Patch baselines as the endpoint keeps them: an account's own, AWS's, and which of them a node obeys."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import orjson
from django.db import transaction

from fleetops.awsapi import json11, models
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import PatchBaseline, PatchRegistration
from fleetops.endpoint.nodes import Managed, Nodes
from fleetops.endpoint.patch import checks, shapes
from fleetops.endpoint.patch.facts import Baseline
from fleetops.endpoint.patch.operating_systems import of_platform
from fleetops.endpoint.patch.predefined import CREATED_AT, Predefined, default, predefined

MOST_BASELINES: Final = 50  # of an account and region [AWS General Reference, Systems Manager quotas]
MOST_GROUPS: Final = 25  # of one baseline [the same]
GROUP_TAGS: Final = ("Patch Group", "PatchGroup")  # exactly so [user guide, patch groups]

Place = tuple[str, str]  # account id, region

_CODEC: Final = json11.Codec()


@dataclass(frozen=True, slots=True)
class Stored:
    """One baseline, and what is said of it in its account and region."""

    baseline_id: str  # an ARN where it is AWS's own
    name: str
    operating_system: str
    description: str
    content: Mapping[str, Any]  # in CreatePatchBaseline's members, without those that were not given
    created_at: datetime
    modified_at: datetime
    is_own: bool = True
    is_default: bool = False
    groups: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    order: int = 0  # of an own one: the later it was made, the higher

    @property
    def facts(self) -> Baseline:
        return shapes.read(
            self.content, baseline_id=self.baseline_id, name=self.name, operating_system=self.operating_system
        )


def patch_group_of(node: Managed) -> str:
    """The patch group that a node's tags say; "" for none."""
    return next((node.tags[tag] for tag in GROUP_TAGS if node.tags.get(tag)), "")


class Baselines:
    """The baselines' rows. They are written in the writer's one thread, read in the reader's."""

    def __init__(self, writer: Executor, reader: Executor, nodes: Nodes) -> None:
        self._writer = writer
        self._reader = reader
        self._nodes = nodes

    # Reading

    async def listed(self, place: Place) -> list[Stored]:
        """All baselines of a region: AWS's by their operating systems, then the account's own, the oldest first."""
        return await self._read(lambda: _listed(place))

    async def find(self, place: Place, baseline_id: str) -> Stored:
        """A baseline by its id or ARN; AWS's by their ARNs alone. Raises ApiError (DoesNotExistException)."""
        return await self._read(lambda: _find(place, baseline_id))

    async def default(self, place: Place, system: str) -> str:
        """The id of the default baseline of an operating system."""
        return await self._read(lambda: _default_id(place, system))

    async def of_group(self, place: Place, group: str, system: str) -> str | None:
        """The id of the baseline that is registered for a group on an operating system."""
        return await self._read(lambda: _group_id(place, group, system))

    async def effective(self, key: NodeKey, *, override: Mapping[str, Any] | None = None) -> Baseline:
        """The baseline that a node obeys: its group's on its operating system, or else the default there.

        `override`: in its place, in the members of the API's BaselineOverride, or of GetPatchBaseline.
        Raises ApiError: InvalidInstanceId; UnsupportedOperatingSystem; ValidationException for an override that is
        unsound, or one for another operating system.
        """
        node = self._nodes.find(key)
        if node is None or node.registered_at is None:
            raise ApiError("InvalidInstanceId", f"{key[2]} is not a managed instance of this account.")
        system = of_platform(node.information)
        if not system:
            name = node.information.get("PlatformName", "an unknown platform")
            raise ApiError("UnsupportedOperatingSystem", f"{key[2]} runs {name}, which Patch Manager does not know.")
        if override is not None:
            return _overridden(override, system)
        group = patch_group_of(node)

        def read() -> Baseline:
            baseline_id = (_group_id(key[:2], group, system) if group else None) or _default_id(key[:2], system)
            return _find(key[:2], baseline_id).facts

        return await self._read(read)

    # Changing

    async def create(self, place: Place, request: Mapping[str, Any], *, now: datetime) -> str:
        """Make a baseline; its id, or the one that was made with this ClientToken before. Raises ApiError."""
        system = request.get("OperatingSystem", "WINDOWS")
        content = _content(request)
        checks.check(content, system)
        _check_text(request)
        client_token = request.get("ClientToken")
        wanted = {name: value for name, value in request.items() if name != "ClientToken"}
        digest = hashlib.sha256(orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS)).hexdigest()

        def write() -> str:
            with transaction.atomic():
                rows = _rows(place)
                before = rows.filter(client_token=client_token).first() if client_token else None
                if before is not None:
                    if before.request_digest != digest:
                        raise ApiError(
                            "IdempotentParameterMismatch", "The ClientToken was used for another baseline's request."
                        )
                    return before.baseline_id
                if rows.count() >= MOST_BASELINES:
                    raise ApiError(
                        "ResourceLimitExceededException", f"There are {MOST_BASELINES} patch baselines already."
                    )
                row = PatchBaseline.objects.create(
                    account_id=place[0],
                    region=place[1],
                    baseline_id=f"pb-0{secrets.token_hex(8)}",
                    name=request["Name"],
                    operating_system=system,
                    description=request.get("Description", ""),
                    content=content,
                    tags={item["Key"]: item["Value"] for item in request.get("Tags", [])},
                    client_token=client_token or None,
                    request_digest=digest if client_token else "",
                    created_at=now,
                    modified_at=now,
                )
                return row.baseline_id

        return await self._write(write)

    async def update(self, place: Place, request: Mapping[str, Any], *, now: datetime) -> Stored:
        """Change a baseline: what is given, or with Replace all of it. Raises ApiError."""
        replaces = request.get("Replace", False)
        if replaces and "Name" not in request:
            raise checks.invalid("Name is required where Replace is true.")
        _check_text(request)

        def write() -> Stored:
            with transaction.atomic():
                row = _own(place, request["BaselineId"])
                content = _content(request) if replaces else row.content | _content(request)
                checks.check(content, row.operating_system)
                row.content, row.modified_at = content, now
                row.name = request.get("Name", row.name)
                row.description = request.get("Description", "" if replaces else row.description)
                row.save(update_fields=["content", "name", "description", "modified_at"])
            return _find(place, row.baseline_id)

        return await self._write(write)

    async def delete(self, place: Place, baseline_id: str) -> None:
        """Take a baseline away; one that is not there is no error. Raises ApiError (ResourceInUseException)."""
        plain = _plain(place, baseline_id)

        def write() -> None:
            with transaction.atomic():
                used = _registrations(place).filter(baseline_id=plain).order_by("patch_group").first()
                if used is not None:
                    what = f"the patch group {used.patch_group}" if used.patch_group else "the default"
                    raise ApiError(
                        "ResourceInUseException", f"{plain} is registered as {what} of {used.operating_system}."
                    )
                _rows(place).filter(baseline_id=plain).delete()

        if plain in predefined(place[1]):
            raise checks.invalid(f"{plain} belongs to AWS and cannot be deleted.")
        await self._write(write)

    async def register_default(self, place: Place, baseline_id: str) -> str:
        """Make a baseline the default of its operating system. Raises ApiError (DoesNotExistException)."""

        def write() -> str:
            with transaction.atomic():
                found = _find(place, baseline_id)
                here = _registrations(place).filter(operating_system=found.operating_system, patch_group="")
                if not found.is_own and found.baseline_id == default(place[1], found.operating_system).baseline_id:
                    here.delete()  # as if nobody had ever said otherwise
                elif not here.update(baseline_id=found.baseline_id):
                    _register(place, found, "")
                return found.baseline_id

        return await self._write(write)

    async def register_group(self, place: Place, baseline_id: str, group: str) -> str:
        """Make a baseline that of a group on its operating system. Raises ApiError."""

        def write() -> str:
            with transaction.atomic():
                found = _find(place, baseline_id)
                held = _group_id(place, group, found.operating_system)
                if held is not None and held != found.baseline_id:
                    raise ApiError(
                        "AlreadyExistsException",
                        f"The patch group {group} is registered with {held} for {found.operating_system}; a group has "
                        "one baseline for each operating system.",
                    )
                if held is None:
                    if len(found.groups) >= MOST_GROUPS:
                        raise ApiError(
                            "ResourceLimitExceededException",
                            f"{found.baseline_id} is registered for {MOST_GROUPS} patch groups already.",
                        )
                    _register(place, found, group)
                return found.baseline_id

        return await self._write(write)

    async def deregister_group(self, place: Place, baseline_id: str, group: str) -> str:
        """Take a baseline away from a group; one that it has not is no error."""
        plain = _plain(place, baseline_id)
        rows = _registrations(place).filter(baseline_id=plain, patch_group=group)
        await self._write(rows.delete)
        return plain

    async def set_tags(self, place: Place, baseline_id: str, tags: Mapping[str, str]) -> None:
        def write() -> None:
            row = _own(place, baseline_id)
            row.tags = dict(tags)
            row.save(update_fields=["tags"])

        await self._write(write)

    async def _read(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._reader, work)

    async def _write(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._writer, work)


def _check_text(request: Mapping[str, Any]) -> None:
    """PostgreSQL's columns hold no zero."""
    if any("\0" in request.get(name, "") for name in ("Description", "ClientToken")):
        raise checks.invalid("A text holds the character zero.")


def _content(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in shapes.MEMBERS if name in request}


def _overridden(override: Mapping[str, Any], system: str) -> Baseline:
    for_system = override.get("OperatingSystem", system)
    if for_system != system:
        raise checks.invalid(f"The BaselineOverride is for {for_system}, and the node runs {system}.")
    # It may come from a file in somebody's bucket: nobody has held it to the model yet.
    shape = models.service("ssm").model.shape_for("BaselineOverride")
    content = _content(_CODEC.check(shape, dict(override)))
    checks.check(content, system)
    return shapes.read(
        content,
        baseline_id=str(override.get("BaselineId") or "BaselineOverride")[:128],
        name=str(override.get("Name") or "BaselineOverride")[:128],
        operating_system=system,
    )


def _rows(place: Place) -> Any:
    return PatchBaseline.objects.filter(account_id=place[0], region=place[1])


def _registrations(place: Place) -> Any:
    return PatchRegistration.objects.filter(account_id=place[0], region=place[1])


def _register(place: Place, baseline: Stored, group: str) -> None:
    PatchRegistration.objects.create(
        account_id=place[0],
        region=place[1],
        operating_system=baseline.operating_system,
        patch_group=group,
        baseline_id=baseline.baseline_id,
    )


def _plain(place: Place, baseline_id: str) -> str:
    """An own baseline's id, also where its ARN is given; AWS's ARNs as they are."""
    return baseline_id.removeprefix(f"arn:aws:ssm:{place[1]}:{place[0]}:patchbaseline/")


def _missing(baseline_id: str) -> ApiError:
    return ApiError("DoesNotExistException", f"Patch baseline {baseline_id} does not exist.")


def _own(place: Place, baseline_id: str) -> PatchBaseline:
    plain = _plain(place, baseline_id)
    if plain in predefined(place[1]):
        raise checks.invalid(f"{plain} belongs to AWS and cannot be changed.")
    row = _rows(place).filter(baseline_id=plain).first()
    if row is None:
        raise _missing(baseline_id)
    return row


def _default_id(place: Place, system: str) -> str:
    row = _registrations(place).filter(operating_system=system, patch_group="").first()
    return row.baseline_id if row is not None else default(place[1], system).baseline_id


def _group_id(place: Place, group: str, system: str) -> str | None:
    row = _registrations(place).filter(operating_system=system, patch_group=group).first()
    return row.baseline_id if row is not None else None


def _listed(place: Place) -> list[Stored]:
    groups: dict[str, list[str]] = {}
    defaults = {}
    for row in _registrations(place).order_by("patch_group"):
        if row.patch_group:
            groups.setdefault(row.baseline_id, []).append(row.patch_group)
        else:
            defaults[row.operating_system] = row.baseline_id
    found = [_of_aws(one) for one in predefined(place[1]).values()]
    found += [_of_row(row) for row in _rows(place).order_by("pk")]
    return [_with(one, groups.get(one.baseline_id, ()), defaults, place[1]) for one in found]


def _find(place: Place, baseline_id: str) -> Stored:
    plain = _plain(place, baseline_id)
    ours = predefined(place[1]).get(plain)
    if ours is not None:
        found = _of_aws(ours)
    else:
        row = _rows(place).filter(baseline_id=plain).first()
        if row is None:
            raise _missing(baseline_id)
        found = _of_row(row)
    groups, defaults = [], {}
    for registration in _registrations(place).filter(operating_system=found.operating_system).order_by("patch_group"):
        if not registration.patch_group:
            defaults[found.operating_system] = registration.baseline_id
        elif registration.baseline_id == found.baseline_id:
            groups.append(registration.patch_group)
    return _with(found, groups, defaults, place[1])


def _of_aws(one: Predefined) -> Stored:
    return Stored(
        one.baseline_id,
        one.name,
        one.operating_system,
        one.description,
        one.content,
        CREATED_AT,
        CREATED_AT,
        is_own=False,
    )


def _of_row(row: PatchBaseline) -> Stored:
    return Stored(
        row.baseline_id,
        row.name,
        row.operating_system,
        row.description,
        row.content,
        row.created_at,
        row.modified_at,
        tags=row.tags,
        order=row.pk,
    )


def _with(one: Stored, groups: Any, defaults: Mapping[str, str], region: str) -> Stored:
    system = one.operating_system
    default_id = defaults.get(system) or default(region, system).baseline_id
    return replace(one, groups=tuple(groups), is_default=one.baseline_id == default_id)
