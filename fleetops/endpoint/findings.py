"""Security Hub's findings as the endpoint keeps them: taken from providers, told by filters, changed by their readers.

A finding has two authors. What its provider says is the body; what the people who work on it say (note, workflow,
severity of their own) stands beside it and wins when the finding is told. Source: Security Hub user guide, "Using
BatchImportFindings" and "Using BatchUpdateFindings"; the rules of the format are in finding_rules.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from django.db import transaction

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import finding_filters, finding_rules
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Finding, SecurityHub

KEPT: Final = timedelta(days=90)  # without an update [Security Hub user guide, quotas]
MOST_AT_ONCE: Final = 100  # of one BatchUpdateFindings
_PRUNE_SECONDS: Final = 3600.0
_DEFAULT_NAMES: Final = {"CompanyName": "Personal", "ProductName": "Default"}

Place = tuple[str, str]  # account id, region
Body = dict[str, Any]


def product_arn(place: Place) -> str:
    """The product under which an account sends findings of its own."""
    return f"arn:aws:securityhub:{place[1]}:{place[0]}:product/{place[0]}/default"


class Findings:
    """The findings' rows, and whether an account has Security Hub in a region."""

    def __init__(self, writer: Executor, reader: Executor) -> None:
        self._writer = writer
        self._reader = reader
        self._pruned_at = 0.0

    # The hub itself

    async def hub(self, place: Place) -> SecurityHub | None:
        """The hub of an account and region; None where it is not enabled."""
        return await in_database(self._reader, lambda: _hub(place))

    async def enable(self, place: Place, *, generator: str, tags: Mapping[str, str], now: datetime) -> None:
        """Raises ApiError (ResourceConflictException)."""

        def write() -> None:
            with transaction.atomic():
                row, _ = SecurityHub.objects.get_or_create(account_id=place[0], region=place[1])
                if row.subscribed_at is not None:
                    raise ApiError("ResourceConflictException", "Account is already subscribed to Security Hub", 409)
                row.subscribed_at, row.generator, row.tags = now, generator, dict(tags)
                row.save()

        await in_database(self._writer, write)

    async def disable(self, place: Place) -> None:
        """Take the hub away, and its findings with it. Raises ApiError (InvalidAccessException)."""

        def write() -> None:
            with transaction.atomic():
                row = _hub(place)
                if row is None:
                    raise no_access(place)
                row.subscribed_at = None
                row.save(update_fields=["subscribed_at"])
                _rows(place).delete()

        await in_database(self._writer, write)

    async def enable_first(self, places: Iterable[Place], now: datetime) -> None:
        """Enable the hub where nobody has ever decided about it."""

        def write() -> None:
            for account_id, region in places:
                SecurityHub.objects.get_or_create(account_id=account_id, region=region, defaults={"subscribed_at": now})

        await in_database(self._writer, write)

    # Findings

    async def take(self, place: Place, bodies: Sequence[Body], now: datetime) -> list[tuple[str, str]]:
        """Take what a provider sends; of each that is refused its id, and why. Raises ApiError."""
        own = product_arn(place)
        failed: list[tuple[str, str]] = []
        sound: list[Body] = []
        for body in bodies:
            reason = finding_rules.refusal(body, account_id=place[0], product_arn=own)
            if reason:
                failed.append((body["Id"], reason))
            else:
                sound.append(body)

        def write() -> None:
            with transaction.atomic():
                if _hub(place) is None:
                    raise no_access(place)
                for body in sound:
                    if reason := keep(place, body | _DEFAULT_NAMES, now):
                        failed.append((body["Id"], reason))
            if clock.monotonic() - self._pruned_at > _PRUNE_SECONDS:
                self._pruned_at = clock.monotonic()
                Finding.objects.filter(updated_at__lt=now - KEPT).delete()

        await in_database(self._writer, write)
        return failed

    async def change(
        self, place: Place, identifiers: Sequence[Mapping[str, str]], changes: Mapping[str, Any], now: datetime
    ) -> list[Mapping[str, str]]:
        """Change what the readers of findings say of them; the identifiers of which there is no finding."""

        def write() -> list[Mapping[str, str]]:
            missing = []
            with transaction.atomic():
                if _hub(place) is None:
                    raise no_access(place)
                for one in identifiers:
                    row = _rows(place).filter(product_arn=one["ProductArn"], finding_id=one["Id"]).first()
                    if row is None:
                        missing.append(one)
                        continue
                    row.said = row.said | _said(changes, row.said, now)
                    _fill(row)
                    row.save()
            return missing

        return await in_database(self._writer, write)

    async def page(
        self,
        place: Place,
        filters: Mapping[str, Sequence[Mapping[str, Any]]],
        order: Sequence[Mapping[str, str]],
        *,
        start: int,
        size: int,
        now: datetime,
    ) -> tuple[list[Body], bool]:
        """The findings that meet all filters from a place on, and whether there are more. Raises ApiError."""
        wanted = finding_filters.read(filters, now)
        sorting = finding_filters.sorting(order)

        def look() -> tuple[list[Body], bool]:
            if _hub(place) is None:
                raise no_access(place)
            rows = _rows(place).filter(wanted.rows)
            if sorting.columns and not wanted.tests:
                found = list(rows.order_by(*sorting.columns, "pk")[start : start + size + 1])
                return [told(row) for row in found[:size]], len(found) > size
            bodies = [body for body in map(told, rows.order_by("pk").iterator(chunk_size=200)) if wanted.hold(body)]
            bodies = sorting.sorted(bodies)
            return bodies[start : start + size], len(bodies) > start + size

        return await in_database(self._reader, look)


def _hub(place: Place) -> SecurityHub | None:
    return SecurityHub.objects.filter(account_id=place[0], region=place[1], subscribed_at__isnull=False).first()


def _rows(place: Place) -> Any:
    return Finding.objects.filter(account_id=place[0], region=place[1])


def no_access(place: Place) -> ApiError:
    return ApiError("InvalidAccessException", f"Account {place[0]} is not subscribed to AWS Security Hub", 401)


def has_hub(place: Place) -> bool:
    """Whether Security Hub is enabled; for one who is in the database already."""
    return _hub(place) is not None


def keep(place: Place, body: Body, now: datetime) -> str:
    """Keep a finding that is sound, within a transaction of the writer's; why not, or "".

    Of one that is there already, an older word changes nothing, and what its readers say stays theirs.
    """
    key = {"product_arn": body["ProductArn"], "finding_id": body["Id"]}
    row = _rows(place).filter(**key).first()
    before: Body = orjson.loads(row.body) if row is not None else {}
    updated_at = finding_rules.moment(body["UpdatedAt"])
    if row is not None and updated_at < row.updated_at:
        return "Invalid parameter: UpdatedAt is older than that of the finding that is there."
    made = finding_rules.completed(body, before, region=place[1], now=now)
    if row is None:
        row = Finding(account_id=place[0], region=place[1], **key)
        row.said = {name: made.pop(name) for name in finding_rules.READERS if name in made}
    for name in finding_rules.READERS:
        made.pop(name, None)
    if finding_rules.begins_anew(before, made):
        status = row.said.get("Workflow", {}).get("Status", "NEW")
        if status in {"NOTIFIED", "RESOLVED"}:
            row.said = row.said | {"Workflow": {"Status": "NEW"}}
    row.body = orjson.dumps(made).decode()
    _fill(row)
    row.save()
    return ""


def _said(changes: Mapping[str, Any], before: Mapping[str, Any], now: datetime) -> Body:
    """What BatchUpdateFindings says, in the members of a finding."""
    said = dict(changes)
    if note := changes.get("Note"):
        said["Note"] = {**note, "UpdatedAt": finding_rules.written(now)}
    if severity := changes.get("Severity"):
        said["Severity"] = finding_rules.severity(before.get("Severity", {}) | severity, prefers=severity)
    return said


def told(row: Finding) -> Body:
    """A finding as it is told: its provider's word, and its readers' over it."""
    return _joined(orjson.loads(row.body), row.said)


def _joined(body: Body, said: Mapping[str, Any]) -> Body:
    shown = body | said
    shown.setdefault("Workflow", {"Status": "NEW"})
    shown["WorkflowState"] = "RESOLVED" if shown["Workflow"]["Status"] == "RESOLVED" else "NEW"
    return shown


def _fill(row: Finding) -> None:
    """The columns that findings are found and sorted by."""
    shown = _joined(orjson.loads(row.body), row.said)
    for column, of in COLUMNS.items():
        setattr(row, column, of(shown))


COLUMNS: Final[Mapping[str, Callable[[Body], Any]]] = {
    "generator_id": lambda body: body["GeneratorId"],
    "title": lambda body: body["Title"],
    "resource_id": lambda body: body["Resources"][0]["Id"],
    "record_state": lambda body: body["RecordState"],
    "workflow_status": lambda body: body["Workflow"]["Status"],
    "compliance_status": lambda body: body.get("Compliance", {}).get("Status", ""),
    "severity_label": lambda body: body["Severity"]["Label"],
    "severity_normalized": lambda body: body["Severity"]["Normalized"],
    "created_at": lambda body: finding_rules.moment(body["CreatedAt"]),
    "updated_at": lambda body: finding_rules.moment(body["UpdatedAt"]),
}
