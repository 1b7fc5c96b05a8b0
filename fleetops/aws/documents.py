"""Systems Manager documents: AWS's and the account's own, their versions and content."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from .clients import AccountAccess, Tags, client
from .errors import aws_call
from .records import Page
from .ssm import USER_TAG

PAGE: Final = 50  # ListDocuments and ListDocumentVersions [botocore's model of ssm]


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """One document: as ListDocuments tells of it, or whole, as DescribeDocument does."""

    name: str
    owner: str  # "Amazon", an account's number, or a publisher
    document_type: str  # Command, Automation, Session, Package, Policy, …
    schema_version: str = ""
    document_format: str = ""  # JSON, YAML, TEXT
    platform_types: tuple[str, ...] = ()  # Windows, Linux, MacOS
    target_type: str = ""
    display_name: str = ""
    version: str = ""  # the default one
    latest_version: str = ""  # DescribeDocument alone
    description: str = ""  # likewise
    status: str = ""  # likewise: Creating, Active, Updating, Deleting, Failed
    created_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of a document."""

    version: str
    version_name: str = ""
    created_at: datetime | None = None
    is_default: bool = False
    document_format: str = ""
    status: str = ""
    status_information: str = ""


def document_pages(access: AccountAccess, region: str, *, session_name: str) -> Iterator[Page[DocumentRecord]]:
    """All documents that the account may use in a region, page by page of at most 50."""
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    while True:
        with aws_call("ssm:ListDocuments", where=f"{access.account_id} {region}"):
            answer = ssm.list_documents(**request)
        page = Page(map(_document, answer.get("DocumentIdentifiers", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def describe_document(access: AccountAccess, region: str, *, name: str, session_name: str) -> DocumentRecord:
    """One document, by its default version. Raises AwsError with code InvalidDocument if there is none."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:DescribeDocument", where=f"{access.account_id} {region}"):
        answer = ssm.describe_document(Name=name)
    return _document(answer["Document"])


def document_versions(access: AccountAccess, region: str, *, name: str, session_name: str) -> list[VersionRecord]:
    """All versions of a document, the newest first."""
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"Name": name, "MaxResults": PAGE}
    found: list[VersionRecord] = []
    while True:
        with aws_call("ssm:ListDocumentVersions", where=f"{access.account_id} {region}"):
            answer = ssm.list_document_versions(**request)
        found += map(_version, answer.get("DocumentVersions", []))
        if not answer.get("NextToken"):
            return found
        request["NextToken"] = answer["NextToken"]


def get_document(
    access: AccountAccess, region: str, *, name: str, version: str, session_name: str
) -> tuple[str, VersionRecord]:
    """The content of one version (a number, "$DEFAULT" or "$LATEST"), as it was written, and which one it is."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:GetDocument", where=f"{access.account_id} {region}"):
        answer = ssm.get_document(Name=name, DocumentVersion=version)
    return answer.get("Content", ""), _version(answer)


def shared_with(access: AccountAccess, region: str, *, name: str, session_name: str) -> list[str]:
    """The accounts that may use a document of this account: their numbers, or "all"."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:DescribeDocumentPermission", where=f"{access.account_id} {region}"):
        answer = ssm.describe_document_permission(Name=name, PermissionType="Share")
    return list(answer.get("AccountIds", []))


def create_document(
    access: AccountAccess,
    region: str,
    *,
    name: str,
    content: str,
    document_type: str,
    document_format: str,
    version_name: str = "",
    session_name: str,
    source_identity: str = "",
) -> DocumentRecord:
    """Make a document with its first version. Raises AwsError with code DocumentAlreadyExists."""
    ssm = _client(access, region, session_name, source_identity, attempts=1)
    request = {"Name": name, "Content": content, "DocumentType": document_type, "DocumentFormat": document_format}
    if version_name:
        request["VersionName"] = version_name
    with aws_call("ssm:CreateDocument", where=f"{access.account_id} {region}"):
        answer = ssm.create_document(**request)
    return _document(answer["DocumentDescription"])


def update_document(
    access: AccountAccess,
    region: str,
    *,
    name: str,
    content: str,
    document_format: str,
    version_name: str = "",
    session_name: str,
    source_identity: str = "",
) -> DocumentRecord:
    """Add a version on top of the latest. Raises AwsError with code DuplicateDocumentContent if nothing differs."""
    ssm = _client(access, region, session_name, source_identity, attempts=1)
    request = {"Name": name, "Content": content, "DocumentFormat": document_format, "DocumentVersion": "$LATEST"}
    if version_name:
        request["VersionName"] = version_name
    with aws_call("ssm:UpdateDocument", where=f"{access.account_id} {region}"):
        answer = ssm.update_document(**request)
    return _document(answer["DocumentDescription"])


def set_default_version(
    access: AccountAccess, region: str, *, name: str, version: str, session_name: str, source_identity: str = ""
) -> None:
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:UpdateDocumentDefaultVersion", where=f"{access.account_id} {region}"):
        ssm.update_document_default_version(Name=name, DocumentVersion=version)


def delete_document(
    access: AccountAccess, region: str, *, name: str, session_name: str, source_identity: str = ""
) -> None:
    """Delete a document with all its versions. Raises AwsError, with code AssociatedInstances if one is in use."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:DeleteDocument", where=f"{access.account_id} {region}"):
        ssm.delete_document(Name=name)


def _client(access: AccountAccess, region: str, session_name: str, source_identity: str = "", **options: Any) -> Any:
    tags: Tags = ((USER_TAG, session_name[:256]),) if source_identity and access.role_arn else ()
    return client(
        "ssm", access, region, session_name=session_name, source_identity=source_identity, tags=tags, **options
    )


def _document(answer: Mapping[str, Any]) -> DocumentRecord:
    return DocumentRecord(
        name=answer["Name"],
        owner=answer.get("Owner", ""),
        document_type=answer.get("DocumentType", ""),
        schema_version=answer.get("SchemaVersion", ""),
        document_format=answer.get("DocumentFormat", ""),
        platform_types=tuple(answer.get("PlatformTypes", ())),
        target_type=answer.get("TargetType") or "",
        display_name=answer.get("DisplayName") or "",
        version=answer.get("DefaultVersion") or answer.get("DocumentVersion", ""),
        latest_version=answer.get("LatestVersion", ""),
        description=answer.get("Description") or "",
        status=answer.get("Status", ""),
        created_at=answer.get("CreatedDate"),
        tags={tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", [])},
    )


def _version(answer: Mapping[str, Any]) -> VersionRecord:
    return VersionRecord(
        version=answer.get("DocumentVersion", ""),
        version_name=answer.get("VersionName") or "",
        created_at=answer.get("CreatedDate"),
        is_default=bool(answer.get("IsDefaultVersion")),
        document_format=answer.get("DocumentFormat", ""),
        status=answer.get("Status", ""),
        status_information=answer.get("StatusInformation") or "",
    )
