"""The rules of the AWS Security Finding Format that botocore's model does not hold, and what a finding becomes by them.

Source: Security Hub user guide, "AWS Security Finding Format (ASFF) syntax", "Required attributes", "Types taxonomy",
"Severity" and "Using BatchImportFindings".
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

LARGEST: Final = 240 * 1024  # bytes of one finding
SCHEMA: Final = "2018-10-08"
# What belongs to those who read findings, and a provider says at the first time at most.
READERS: Final = ("Note", "UserDefinedFields", "VerificationState", "Workflow")
_LONGEST: Final = {"Id": 512, "ProductArn": 2048, "GeneratorId": 512, "Title": 256, "Description": 1024}
_MOMENTS: Final = ("CreatedAt", "UpdatedAt", "FirstObservedAt", "LastObservedAt")
_MOMENT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:?\d{2})", re.ASCII | re.IGNORECASE
)
_NAMESPACES: Final = {
    *("Software and Configuration Checks", "Software & Configuration Checks", "TTPs", "Effects"),
    *("Unusual Behaviors", "Sensitive Data Identifications"),
}
_MOST: Final = {"Types": 50, "Resources": 32, "RelatedFindings": 10}
_MOST_FIELDS: Final = 50
_NORMALIZED: Final = {"INFORMATIONAL": 0, "LOW": 1, "MEDIUM": 40, "HIGH": 70, "CRITICAL": 90}

Body = dict[str, Any]


def refusal(body: Mapping[str, Any], *, account_id: str, product_arn: str) -> str:
    """Why a finding that its account sends is not taken; "" if it is."""
    told = _refusal(body, account_id, product_arn)
    return f"Finding does not adhere to Amazon Finding Format. {told}" if told else ""


def _refusal(body: Mapping[str, Any], account_id: str, product_arn: str) -> str:
    if len(orjson.dumps(body)) > LARGEST:
        return f"It is larger than {LARGEST // 1024} KB."
    if any("\0" in text for text in texts(body)):
        return "It holds the character zero."
    if body["SchemaVersion"] != SCHEMA:
        return f"data.SchemaVersion should be {SCHEMA}."
    if body["AwsAccountId"] != account_id:
        return f"data.AwsAccountId should be the account that sends it, {account_id}."
    if body["ProductArn"] != product_arn:
        return f"data.ProductArn should be {product_arn}, the account's own product."
    for name, longest in _LONGEST.items():
        if len(body[name]) > longest:
            return f"data.{name} should NOT be longer than {longest} characters."
    for name in _MOMENTS:
        if name in body and not is_moment(body[name]):
            return f"data.{name} should match format date-time."
    provided = body.get("FindingProviderFields", {})
    if not (body.get("Severity") or provided.get("Severity")):
        return "data should have one of the properties Severity and FindingProviderFields.Severity."
    types = body.get("Types") or provided.get("Types")
    if not types:
        return "data should have one of the properties Types and FindingProviderFields.Types."
    if wrong := next((one for one in types if not _is_type(one)), ""):
        return f"data.Types: {wrong} should be namespace/category/classifier."
    for name, most in _MOST.items():
        if len(body.get(name, ())) > most:
            return f"data.{name} should NOT have more than {most} items."
    if not body["Resources"]:
        return "data.Resources should NOT have fewer than 1 items."
    for name in ("ProductFields", "UserDefinedFields"):
        fields = body.get(name, {})
        if len(fields) > _MOST_FIELDS or any(len(key) > 128 or len(value) > 2048 for key, value in fields.items()):
            return f"data.{name} should have at most {_MOST_FIELDS} pairs of at most 128 and 2,048 characters."
    return ""


def _is_type(name: str) -> bool:
    parts = name.split("/")
    return 1 <= len(parts) <= 3 and parts[0] in _NAMESPACES and all(parts)


def is_moment(text: str) -> bool:
    if not _MOMENT.fullmatch(text):
        return False
    try:
        moment(text)
    except ValueError:
        return False
    return True


def moment(text: str) -> datetime:
    """A moment as the format has it. Raises ValueError."""
    whole, dot, rest = text.upper().partition(".")
    if dot:  # more digits than a datetime takes
        digits = re.match(r"\d+", rest)
        assert digits is not None
        whole += f".{digits[0][:6].ljust(6, '0')}{rest[digits.end() :]}"
    found = datetime.fromisoformat(whole)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def severity(given: Mapping[str, Any], *, prefers: Mapping[str, Any] | None = None) -> Body:
    """A severity with its label and number, of which one may be missing or older than the other."""
    source = prefers if prefers is not None else given
    made = dict(given)
    if "Label" in source:
        made["Normalized"] = source.get("Normalized", _NORMALIZED[source["Label"]])
    elif "Normalized" in source:
        made["Label"] = _label(source["Normalized"])
    else:
        made |= {"Label": "INFORMATIONAL", "Normalized": 0}
    return made


def _label(normalized: int) -> str:
    return next(name for name, least in reversed(_NORMALIZED.items()) if normalized >= least)


def completed(body: Body, before: Body, *, region: str, now: datetime) -> Body:
    """A finding with what is said of it twice: top-level values follow the provider's fields."""
    provided = dict(body.get("FindingProviderFields", {}))
    had = before.get("FindingProviderFields", {})
    if "Severity" not in provided:
        given = body.get("Severity") or had.get("Severity", {})
        whole = severity(given)
        provided["Severity"] = {
            "Label": whole["Label"],
            **({"Original": given["Original"]} if "Original" in given else {}),
        }
    provided.setdefault("Types", body.get("Types") or had.get("Types", []))
    top = body["Severity"] if "Severity" in body and "FindingProviderFields" not in body else provided["Severity"]
    return {
        **body,
        "FindingProviderFields": provided,
        "Severity": severity(top),
        "Types": provided["Types"],
        "RecordState": body.get("RecordState", "ACTIVE"),
        "Region": region,
        "ProcessedAt": written(now),
    }


def begins_anew(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether who has dealt with a finding has to look again: it was archived, or had passed, and is back."""
    if not before:
        return False
    if (before.get("RecordState"), after["RecordState"]) == ("ARCHIVED", "ACTIVE"):
        return True
    had, has = (one.get("Compliance", {}).get("Status", "") for one in (before, after))
    return had == "PASSED" and has in {"FAILED", "WARNING", "NOT_AVAILABLE"}


def texts(body: Any) -> Sequence[str]:
    """Every text within a value."""
    if isinstance(body, str):
        return [body]
    if isinstance(body, Mapping):
        return [text for value in body.values() for text in texts(value)]
    if isinstance(body, list):
        return [text for value in body for text in texts(value)]
    return []
