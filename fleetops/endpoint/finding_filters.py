"""GetFindings' filters and sorting. Within one attribute what includes is joined by OR and what excludes by AND; the
attributes are joined by AND. What has a column is asked of the database, the rest of each finding.

Source: Security Hub API reference, AwsSecurityFindingFilters, StringFilter, MapFilter, DateFilter, SortCriterion.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Q

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import finding_rules

MOST_VALUES: Final = 20  # of one attribute
MOST_ATTRIBUTES: Final = 10

Body = Mapping[str, Any]
Test = Callable[[Body], bool]


@dataclass(slots=True)
class Wanted:
    """Filters, as far as the database can answer them and the rest."""

    rows: Q = field(default_factory=Q)
    tests: list[Test] = field(default_factory=list)

    def hold(self, body: Body) -> bool:
        return all(test(body) for test in self.tests)


@dataclass(frozen=True, slots=True)
class Sorting:
    """An order: the columns that give it, or () where each finding has to be looked at."""

    columns: tuple[str, ...]
    criteria: tuple[tuple[str, bool], ...]  # attribute, whether the largest goes first

    def sorted(self, bodies: list[Any]) -> list[Any]:
        for name, is_descending in reversed(self.criteria):
            bodies = sorted(bodies, key=lambda body, name=name: _sort_key(_values(body, name)), reverse=is_descending)  # type: ignore[misc]
        return bodies


_COLUMNS: Final = {
    "ProductArn": "product_arn",
    "Id": "finding_id",
    "GeneratorId": "generator_id",
    "Title": "title",
    "RecordState": "record_state",
    "WorkflowStatus": "workflow_status",
    "ComplianceStatus": "compliance_status",
    "SeverityLabel": "severity_label",
}
_MOMENTS: Final = {"CreatedAt": "created_at", "UpdatedAt": "updated_at"}
_SORTED: Final = _COLUMNS | _MOMENTS | {"SeverityNormalized": "severity_normalized"}
# Attributes of filters that are not simply a member of the finding: where they stand.
_PATHS: Final = {
    "Type": "Types",
    "SeverityProduct": "Severity.Product",
    "SeverityNormalized": "Severity.Normalized",
    "SeverityLabel": "Severity.Label",
    "RecommendationText": "Remediation.Recommendation.Text",
    "ResourceType": "Resources.Type",
    "ResourceId": "Resources.Id",
    "ResourcePartition": "Resources.Partition",
    "ResourceRegion": "Resources.Region",
    "ResourceTags": "Resources.Tags",
    "ResourceApplicationName": "Resources.ApplicationName",
    "ResourceApplicationArn": "Resources.ApplicationArn",
    "ResourceDetailsOther": "Resources.Details.Other",
    "ResourceAwsEc2InstanceType": "Resources.Details.AwsEc2Instance.Type",
    "ResourceAwsEc2InstanceImageId": "Resources.Details.AwsEc2Instance.ImageId",
    "ResourceAwsEc2InstanceVpcId": "Resources.Details.AwsEc2Instance.VpcId",
    "ResourceAwsEc2InstanceSubnetId": "Resources.Details.AwsEc2Instance.SubnetId",
    "ComplianceStatus": "Compliance.Status",
    "ComplianceSecurityControlId": "Compliance.SecurityControlId",
    "WorkflowStatus": "Workflow.Status",
    "RelatedFindingsProductArn": "RelatedFindings.ProductArn",
    "RelatedFindingsId": "RelatedFindings.Id",
    "NoteText": "Note.Text",
    "NoteUpdatedAt": "Note.UpdatedAt",
    "NoteUpdatedBy": "Note.UpdatedBy",
    "FindingProviderFieldsSeverityLabel": "FindingProviderFields.Severity.Label",
    "FindingProviderFieldsSeverityOriginal": "FindingProviderFields.Severity.Original",
    "FindingProviderFieldsTypes": "FindingProviderFields.Types",
    "FindingProviderFieldsConfidence": "FindingProviderFields.Confidence",
    "FindingProviderFieldsCriticality": "FindingProviderFields.Criticality",
}
_PLAIN: Final = {
    *("ProductArn", "AwsAccountId", "Id", "GeneratorId", "Region", "FirstObservedAt", "LastObservedAt", "CreatedAt"),
    *("UpdatedAt", "Confidence", "Criticality", "Title", "Description", "SourceUrl", "ProductFields", "ProductName"),
    *("CompanyName", "UserDefinedFields", "VerificationState", "WorkflowState", "RecordState", "AwsAccountName"),
    "Sample",
}
_INCLUDING: Final = {"EQUALS", "PREFIX", "CONTAINS"}
_TEXT: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "EQUALS": operator.eq,
    "PREFIX": str.startswith,
    "CONTAINS": operator.contains,
}
_NUMBER: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "Gte": operator.ge,
    "Lte": operator.le,
    "Eq": operator.eq,
    "Gt": operator.gt,
    "Lt": operator.lt,
}


def invalid(message: str) -> ApiError:
    return ApiError("InvalidInputException", message, 400)


def read(filters: Mapping[str, Sequence[Mapping[str, Any]]], now: datetime) -> Wanted:
    """Filters as the API takes them. Raises ApiError (InvalidInputException)."""
    if len(filters) > MOST_ATTRIBUTES:
        raise invalid(f"A request has at most {MOST_ATTRIBUTES} attributes to filter by.")
    wanted = Wanted()
    for name, given in filters.items():
        if len(given) > MOST_VALUES:
            raise invalid(f"Filters.{name} has more than {MOST_VALUES} values.")
        if name != "Keyword" and name not in _PATHS and name not in _PLAIN:
            raise ApiError("NotImplemented", f"This endpoint does not filter by {name}.", 501)
        if not given:
            continue
        _read_one(wanted, name, given, now)
    return wanted


def _read_one(wanted: Wanted, name: str, given: Sequence[Mapping[str, Any]], now: datetime) -> None:
    first = given[0]
    if name == "Keyword":
        words = [one.get("Value", "").casefold() for one in given]
        wanted.tests.append(
            lambda body: any(word in text.casefold() for text in finding_rules.texts(body) for word in words)
        )
    elif "Key" in first:
        wanted.tests.append(_map_test(name, given))
    elif name.endswith("At"):
        spans = [_span(name, one, now) for one in given]
        if name in _MOMENTS:
            either = Q()
            for start, end in spans:
                either |= _between(_MOMENTS[name], start, end)
            wanted.rows &= either
        else:
            wanted.tests.append(
                lambda body: any(_is_between(text, span) for text in _values(body, name) for span in spans)
            )
    elif isinstance(first.get("Value"), bool):
        allowed = {one["Value"] for one in given}
        wanted.tests.append(lambda body: bool(body.get(name, False)) in allowed)
    elif first.keys() & _NUMBER.keys():
        wanted.tests.append(
            lambda body: any(
                all(_NUMBER[how](value, limit) for how, limit in one.items())
                for value in _values(body, name)
                for one in given
            )
        )
    else:
        including, excluding = _sorted_out(name, given)
        if name in _COLUMNS:
            wanted.rows &= _condition(_COLUMNS[name], including, excluding)
        else:
            wanted.tests.append(lambda body: _holds(_values(body, name), including, excluding))


Comparisons = list[tuple[str, str]]  # of including kind, and values


def _sorted_out(name: str, given: Iterable[Mapping[str, Any]]) -> tuple[Comparisons, Comparisons]:
    """Text comparisons that include, and those that exclude, the latter in the words of the former."""
    including: Comparisons = []
    excluding: Comparisons = []
    for one in given:
        how = one.get("Comparison", "EQUALS")
        if "Value" not in one:
            raise invalid(f"Filters.{name}: a filter has no Value.")
        if how in _INCLUDING:
            including.append((how, one["Value"]))
        elif how.replace("NOT_", "") in _INCLUDING:
            excluding.append((how.replace("NOT_", ""), one["Value"]))
        else:
            raise invalid(f"Filters.{name}: GetFindings does not take the comparison {how}.")
    ins, outs = {how for how, _ in including}, {how for how, _ in excluding}
    if ("EQUALS" in ins and outs) or ("CONTAINS" in ins | outs and (ins and outs)):
        raise invalid(f"Filters.{name}: filters that include and filters that exclude cannot be combined so.")
    if any("CONTAINS" in kinds and len(kinds) > 1 for kinds in (ins, outs)):
        raise invalid(f"Filters.{name}: CONTAINS can only be used with other CONTAINS filters.")
    return including, excluding


def _holds(values: Sequence[Any], including: Comparisons, excluding: Comparisons) -> bool:
    texts = [str(value) for value in values]
    if including and not any(_TEXT[how](text, value) for how, value in including for text in texts):
        return False
    return not any(_TEXT[how](text, value) for how, value in excluding for text in texts)


def _condition(column: str, including: Comparisons, excluding: Comparisons) -> Q:
    lookups = {"EQUALS": "exact", "PREFIX": "startswith", "CONTAINS": "contains"}
    either, none = Q(), Q()
    for how, value in including:
        either |= Q(**{f"{column}__{lookups[how]}": value.replace("\0", "")})
    for how, value in excluding:
        none &= ~Q(**{f"{column}__{lookups[how]}": value.replace("\0", "")})
    return either & none


def _map_test(name: str, given: Sequence[Mapping[str, Any]]) -> Test:
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for one in given:
        by_key.setdefault(one.get("Key", ""), []).append(one)
    sorted_out = {key: _sorted_out(name, items) for key, items in by_key.items()}
    path = _PATHS.get(name, name)

    def holds(body: Body) -> bool:
        maps = [held for held in _at(body, path.split(".")) if isinstance(held, Mapping)]
        for key, (including, excluding) in sorted_out.items():
            if not _holds([held[key] for held in maps if key in held], including, excluding):
                return False
        return True

    return holds


Span = tuple[datetime | None, datetime | None]


def _span(name: str, one: Mapping[str, Any], now: datetime) -> Span:
    if (given := one.get("DateRange")) is not None:
        edge = now - timedelta(days=min(int(given.get("Value", 0)), 36_500))
        return (None, edge) if given.get("Comparison") == "OLDER_THAN" else (edge, None)
    edges = []
    for key in ("Start", "End"):
        text = one.get(key)
        if text is not None and not finding_rules.is_moment(text):
            raise invalid(f"Filters.{name}.{key}: {text} is not a moment in the format of RFC 3339.")
        edges.append(finding_rules.moment(text) if text is not None else None)
    if edges == [None, None]:
        raise invalid(f"Filters.{name}: a filter has no Start, no End and no DateRange.")
    return edges[0], edges[1]


def _between(column: str, start: datetime | None, end: datetime | None) -> Q:
    found = Q()
    if start is not None:
        found &= Q(**{f"{column}__gte": start})
    if end is not None:
        found &= Q(**{f"{column}__lte": end})
    return found


def _is_between(text: Any, span: Span) -> bool:
    if not isinstance(text, str) or not finding_rules.is_moment(text):
        return False
    at, (start, end) = finding_rules.moment(text), span
    return (start is None or at >= start) and (end is None or at <= end)


def _values(body: Body, name: str) -> list[Any]:
    """All values of an attribute: resources, types and related findings may be many."""
    return _at(body, _PATHS.get(name, name).split("."))


def _at(body: Body, path: Sequence[str]) -> list[Any]:
    held: list[Any] = [body]
    for part in path:
        found = [item[part] for item in held if isinstance(item, Mapping) and part in item]
        held = [one for item in found for one in (item if isinstance(item, list) else [item])]
    return held


def sorting(order: Sequence[Mapping[str, str]]) -> Sorting:
    """An order as the API takes it; without one the last updated goes first. Raises ApiError."""
    if not order:
        return Sorting(("-updated_at",), (("UpdatedAt", True),))
    criteria = []
    for one in order:
        name = one.get("Field", "")
        if name not in _PATHS and name not in _PLAIN:
            raise invalid(f"SortCriteria: {name} is not a field to sort by.")
        criteria.append((name, one.get("SortOrder") == "desc"))
    columns = [f"{'-' if is_descending else ''}{_SORTED.get(name, '')}" for name, is_descending in criteria]
    is_answered = all(column.strip("-") for column in columns)
    return Sorting(tuple(columns) if is_answered else (), tuple(criteria))


def _sort_key(values: Sequence[Any]) -> tuple[int, Any]:
    """The first value; numbers before texts, and nothing before both."""
    if not values:
        return (0, 0)
    value = values[0]
    return (1, value) if isinstance(value, int | float) else (2, str(value))
