"""Security Hub: findings of ours, and Patch Manager's own. In ASFF; the second generation of calls has no import."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call
from .records import Page

MOST_IMPORTED: Final = 100  # findings of one BatchImportFindings, and of one BatchUpdateFindings
MOST_ASKED: Final = 20  # ids in one filter [botocore's model of securityhub, StringFilterList is AWS's limit of 20]
PAGE: Final = 100
PATCH_MANAGER: Final = "/aws/ssm-patch-manager"  # how the ARN of that product ends


@dataclass(frozen=True, slots=True)
class Refusal:
    """A finding that was not taken."""

    finding_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """One finding as Security Hub has it."""

    finding_id: str
    product_arn: str
    title: str
    severity: str  # INFORMATIONAL, LOW, MEDIUM, HIGH, CRITICAL
    status: str  # Compliance.Status: PASSED, FAILED, WARNING, NOT_AVAILABLE
    workflow: str  # NEW, NOTIFIED, RESOLVED, SUPPRESSED
    record_state: str  # ACTIVE, ARCHIVED
    resource_ids: tuple[str, ...]
    updated_at: datetime | None


def import_findings(
    access: AccountAccess, region: str, *, findings: Sequence[Mapping[str, Any]], session_name: str
) -> list[Refusal]:
    """Write at most MOST_IMPORTED findings; those that were refused. Raises AwsError if the call is."""
    hub = client("securityhub", access, region, session_name=session_name)
    with aws_call("securityhub:BatchImportFindings", where=f"{access.account_id} {region}"):
        answer = hub.batch_import_findings(Findings=list(findings))
    return [
        Refusal(each.get("Id", ""), each.get("ErrorCode", ""), each.get("ErrorMessage", ""))
        for each in answer.get("FailedFindings", [])
    ]


def set_workflow(
    access: AccountAccess, region: str, *, product_arn: str, finding_ids: Sequence[str], status: str, session_name: str
) -> list[Refusal]:
    """Set Workflow.Status, which an import must not touch, of at most MOST_IMPORTED findings; those refused."""
    hub = client("securityhub", access, region, session_name=session_name)
    with aws_call("securityhub:BatchUpdateFindings", where=f"{access.account_id} {region}"):
        answer = hub.batch_update_findings(
            FindingIdentifiers=[{"Id": each, "ProductArn": product_arn} for each in finding_ids],
            Workflow={"Status": status},
        )
    return [
        Refusal(each["FindingIdentifier"]["Id"], each.get("ErrorCode", ""), each.get("ErrorMessage", ""))
        for each in answer.get("UnprocessedFindings", [])
    ]


def findings(
    access: AccountAccess, region: str, *, filters: Mapping[str, Any], session_name: str
) -> Iterator[Page[FindingRecord]]:
    """Findings that meet AWS's `filters`, page by page of at most 100."""
    hub = client("securityhub", access, region, session_name=session_name)
    request: dict[str, Any] = {"Filters": dict(filters), "MaxResults": PAGE}
    while True:
        with aws_call("securityhub:GetFindings", where=f"{access.account_id} {region}"):
            answer = hub.get_findings(**request)
        page = Page(map(_finding, answer.get("Findings", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def by_ids(
    access: AccountAccess, region: str, *, product_arn: str, finding_ids: Sequence[str], session_name: str
) -> dict[str, FindingRecord]:
    """Those of these findings that there are, by id: a call for each MOST_ASKED of them."""
    found: dict[str, FindingRecord] = {}
    for start in range(0, len(finding_ids), MOST_ASKED):
        filters = {
            "Id": [{"Value": each, "Comparison": "EQUALS"} for each in finding_ids[start : start + MOST_ASKED]],
            "ProductArn": [{"Value": product_arn, "Comparison": "EQUALS"}],
        }
        for page in findings(access, region, filters=filters, session_name=session_name):
            found |= {each.finding_id: each for each in page}
    return found


def _finding(answer: Mapping[str, Any]) -> FindingRecord:
    updated = answer.get("UpdatedAt", "")
    return FindingRecord(
        finding_id=answer["Id"],
        product_arn=answer.get("ProductArn", ""),
        title=answer.get("Title", ""),
        severity=(answer.get("Severity") or {}).get("Label", ""),
        status=(answer.get("Compliance") or {}).get("Status", ""),
        workflow=(answer.get("Workflow") or {}).get("Status", ""),
        record_state=answer.get("RecordState", ""),
        resource_ids=tuple(each.get("Id", "") for each in answer.get("Resources", [])),
        updated_at=datetime.fromisoformat(updated.replace("Z", "+00:00")) if updated else None,
    )
