"""SSM documents as the endpoint keeps them: AWS's own, and those of its accounts, version by version."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml
from django.db import IntegrityError, transaction
from django.db.models import F

from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.documents import InvalidDocument, automation, command, session
from fleetops.documents.parameters import Parameter, read_parameters
from fleetops.endpoint.aws_documents import AWS_DOCUMENTS
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Document, DocumentVersion
from fleetops.endpoint.plain_yaml import PlainLoader

MOST_DOCUMENTS = 500  # active ones of an account and region [SSM, DocumentLimitExceeded]
MOST_VERSIONS = 1_000  # [SSM, DocumentVersionLimitExceeded]
MOST_SHARES = 1_000  # accounts that one document is shared with [user guide, sharing documents]
LONGEST = command.LONGEST
AMAZON = "Amazon"
PREFERENCES = "SSM-SessionManagerRunShell"

_AWS_CREATED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_RESERVED = ("aws", "amazon", "amzn")  # beginnings of names [SSM, CreateDocument]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One version of a document, and what is said of the whole of it."""

    name: str  # as its owner knows it
    owner: str  # an account id, or Amazon
    region: str
    document_type: str
    version: int
    default_version: int
    latest_version: int
    text: str
    document_format: str
    digest: str
    created_at: datetime
    version_name: str = ""
    display_name: str = ""
    target_type: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        return load(self.text, self.document_format)

    @property
    def schema_version(self) -> str:
        return str(self.content["schemaVersion"])

    @property
    def description(self) -> str:
        return str(self.content.get("description", ""))

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        if self.document_type == "Automation":
            try:
                return automation.parse(self.content).parameters
            except InvalidDocument:  # kept from before runbooks were read whole
                return {}
        return read_parameters(self.content.get("parameters"))

    @property
    def platform_types(self) -> tuple[str, ...]:
        return _platforms(self.document_type, self.content)

    def arn(self) -> str:
        account = "" if self.owner == AMAZON else self.owner
        return f"arn:aws:ssm:{self.region}:{account}:document/{self.name}"

    def text_as(self, wanted: str) -> str:
        """The content in another format than it was given in: "JSON" or "YAML"."""
        if wanted == self.document_format or wanted not in {"JSON", "YAML"}:
            return self.text
        if wanted == "JSON":
            return json.dumps(self.content, indent=2)
        return yaml.safe_dump(self.content, sort_keys=False)


def load(text: str, document_format: str) -> dict[str, Any]:
    """A document's text as an object. Raises ApiError (InvalidDocumentContent)."""
    try:
        content = yaml.load(text, PlainLoader) if document_format == "YAML" else json.loads(text)
        # What YAML alone has (moments, bytes, numbers as keys) could not be sent to a node.
        content = json.loads(json.dumps(content))
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ApiError("InvalidDocumentContent", f"The document is not {document_format}: {words}") from None
    if not isinstance(content, dict):
        raise ApiError("InvalidDocumentContent", "The document is not an object.")
    return content


def check(text: str, document_format: str, document_type: str) -> None:
    """Return if a text is a sound document of its type. Raises ApiError."""
    if len(text.encode()) > LONGEST:
        raise ApiError("MaxDocumentSizeExceeded", f"A document has at most {LONGEST // 1024} KB.")
    if document_type not in _CHECKS:
        raise not_implemented(f"documents of the type {document_type}")
    try:
        _CHECKS[document_type](load(text, document_format))
    except InvalidDocument as error:
        code = "InvalidDocumentSchemaVersion" if error.path == "schemaVersion" else "InvalidDocumentContent"
        raise ApiError(code, str(error)) from None


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "Command": command.parse,
    "Session": session.parse,
    "Automation": automation.parse,
}


def _platforms(document_type: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    if document_type == "Command":
        return command.parse(content).platform_types
    return ("Windows", "Linux", "MacOS")


class Documents:
    """The documents' rows. The database is asked in the executor's thread, never on the event loop."""

    def __init__(self, writer: Executor, reader: Executor) -> None:
        self._writer = writer
        self._reader = reader

    # Reading

    async def find(self, account_id: str, region: str, name: str, version: str = "$DEFAULT") -> StoredDocument:
        """A document by its name or ARN, as an account may use it: its own, one shared with it, or AWS's.

        `version` is a number, $DEFAULT or $LATEST. Raises ApiError: InvalidDocument, InvalidDocumentVersion.
        """
        owner, owner_region, plain = split_arn(name, account_id, region)
        if owner == AMAZON or plain in AWS_DOCUMENTS:
            return _of_aws(plain, version, region)
        if owner_region != region:
            raise _missing(name)
        return await self._read(lambda: self._find(account_id, owner, region, plain, version))

    async def find_by_version_name(self, account_id: str, region: str, name: str, version_name: str) -> StoredDocument:
        """The version that bears a name. Raises ApiError as `find` does."""
        _, _, plain = split_arn(name, account_id, region)

        def read() -> StoredDocument:
            rows = DocumentVersion.objects.select_related("document")
            row = rows.filter(
                document__account_id=account_id,
                document__region=region,
                document__name=plain,
                version_name=version_name,
            ).first()
            if row is None:
                raise ApiError("InvalidDocumentVersion", f"Document version {version_name} does not exist.")
            return _stored(row.document, row)

        return await self._read(read)

    async def listed(self, account_id: str, region: str) -> list[StoredDocument]:
        """Every document that an account sees in a region, in its default version, by name."""

        def read() -> list[StoredDocument]:
            rows = DocumentVersion.objects.select_related("document").filter(
                document__region=region, number=F("document__default_version")
            )
            own = rows.filter(document__account_id=account_id)
            others = rows.exclude(document__account_id=account_id).exclude(document__shared_with={})
            return [
                *(_stored(row.document, row) for row in own),
                *(_stored(row.document, row) for row in others.iterator() if _share(row.document, account_id)),
            ]

        own = await self._read(read)
        aws = [_of_aws(name, "$DEFAULT", region) for name in AWS_DOCUMENTS]
        return sorted([*own, *aws], key=lambda document: document.name)

    async def versions(self, account_id: str, region: str, name: str) -> list[StoredDocument]:
        """All versions of a document, the newest first. Raises ApiError (InvalidDocument)."""
        owner, _, plain = split_arn(name, account_id, region)
        if owner == AMAZON or plain in AWS_DOCUMENTS:
            return [_of_aws(plain, "$DEFAULT", region)]

        def read() -> list[StoredDocument]:
            row = _row(owner, region, plain)
            if row is None or not (owner == account_id or _share(row, account_id)):
                raise _missing(name)
            return [_stored(row, version) for version in row.versions.order_by("-number")]

        return await self._read(read)

    async def shares(self, account_id: str, region: str, name: str) -> dict[str, str]:
        """With whom an account's own document is shared, and which version of it. Raises ApiError."""
        return await self._read(lambda: dict(_own(account_id, region, name).shared_with))

    async def tags(self, account_id: str, region: str, name: str) -> dict[str, str]:
        return await self._read(lambda: dict(_own(account_id, region, name).tags))

    # Changing

    async def create(
        self,
        account_id: str,
        region: str,
        name: str,
        *,
        text: str,
        document_format: str,
        document_type: str,
        version_name: str,
        display_name: str,
        target_type: str,
        tags: Mapping[str, str],
        now: datetime,
    ) -> StoredDocument:
        """Make a document, with its first version as the default. Raises ApiError."""
        if name.lower().startswith(_RESERVED):
            raise ApiError("ValidationException", f"The document name {name} is reserved: it begins as AWS's do.")
        check(text, document_format, document_type)

        def write() -> StoredDocument:
            if Document.objects.filter(account_id=account_id, region=region).count() >= MOST_DOCUMENTS:
                raise ApiError("DocumentLimitExceeded", f"There are {MOST_DOCUMENTS} documents already.")
            try:
                with transaction.atomic():
                    row = Document.objects.create(
                        account_id=account_id,
                        region=region,
                        name=name,
                        document_type=document_type,
                        tags=dict(tags),
                        created_at=now,
                    )
                    version = _add_version(row, 1, text, document_format, version_name, display_name, target_type, now)
            except IntegrityError:
                raise ApiError("DocumentAlreadyExists", f"Document with name {name} already exists.") from None
            return _stored(row, version)

        return await self._write(write)

    async def update(
        self,
        account_id: str,
        region: str,
        name: str,
        *,
        text: str,
        document_format: str,
        based_on: str,
        version_name: str,
        display_name: str | None,
        target_type: str | None,
        now: datetime,
    ) -> StoredDocument:
        """Add a version to a document; the default stays. `based_on` must be $LATEST or its number. Raises ApiError."""
        owner, _, plain = split_arn(name, account_id, region)
        if owner == AMAZON or plain in AWS_DOCUMENTS:
            raise ApiError("InvalidDocumentOperation", f"{name} belongs to Amazon and cannot be changed.")
        found = await self._read(lambda: _own(account_id, region, name))
        check(text, document_format, found.document_type)

        def write() -> StoredDocument:
            with transaction.atomic():
                row = _own(account_id, region, name)
                latest = row.versions.order_by("-number").first()
                assert latest is not None
                if based_on not in {"$LATEST", str(row.latest_version)}:
                    raise ApiError(
                        "InvalidDocumentVersion",
                        f"The latest version is {row.latest_version}; a document is updated from it.",
                    )
                if latest.digest == _digest(text) and latest.document_format == document_format:
                    raise ApiError("DuplicateDocumentContent", "The content is that of the latest version.")
                if row.versions.count() >= MOST_VERSIONS:
                    raise ApiError("DocumentVersionLimitExceeded", f"There are {MOST_VERSIONS} versions already.")
                if version_name and row.versions.filter(version_name=version_name).exists():
                    raise ApiError("DuplicateDocumentVersionName", f"A version is named {version_name} already.")
                row.latest_version += 1
                row.save(update_fields=["latest_version"])
                version = _add_version(
                    row,
                    row.latest_version,
                    text,
                    document_format,
                    version_name,
                    latest.display_name if display_name is None else display_name,
                    latest.target_type if target_type is None else target_type,
                    now,
                )
            return _stored(row, version)

        return await self._write(write)

    async def set_default(self, account_id: str, region: str, name: str, number: int) -> StoredDocument:
        """Make a version the default. Raises ApiError (InvalidDocument, InvalidDocumentVersion)."""

        def write() -> StoredDocument:
            row = _own(account_id, region, name)
            version = row.versions.filter(number=number).first()
            if version is None:
                raise ApiError("InvalidDocumentVersion", f"Document version {number} does not exist.")
            row.default_version = number
            row.save(update_fields=["default_version"])
            return _stored(row, version)

        return await self._write(write)

    async def delete(self, account_id: str, region: str, name: str, *, version: str, version_name: str) -> None:
        """Take a document away, or one version that is not the default. Raises ApiError."""

        def write() -> None:
            row = _own(account_id, region, name)
            if not version and not version_name:
                if row.shared_with:
                    raise ApiError("InvalidDocumentOperation", "Must unshare document first before deleting")
                row.delete()
                return
            rows = row.versions.filter(version_name=version_name) if version_name else row.versions
            found = rows.filter(number=_number(version, row)) if version else rows.all()
            target = found.first()
            if target is None:
                raise ApiError("InvalidDocumentVersion", f"Document version {version or version_name} does not exist.")
            if target.number == row.default_version:
                raise ApiError("InvalidDocumentOperation", "The default version of a document cannot be deleted.")
            target.delete()

        await self._write(write)

    async def share(
        self, account_id: str, region: str, name: str, *, add: Sequence[str], remove: Sequence[str], version: str
    ) -> None:
        """Share a document with accounts ("all": with everybody), or share it no more. Raises ApiError."""

        def write() -> None:
            row = _own(account_id, region, name)
            gone = {key.lower() for key in remove}
            shared = {key: value for key, value in row.shared_with.items() if key not in gone}
            shared |= {key.lower(): version for key in add}
            if len(shared) > MOST_SHARES:
                raise ApiError("DocumentPermissionLimit", f"A document is shared with {MOST_SHARES} accounts at most.")
            row.shared_with = shared
            row.save(update_fields=["shared_with"])

        await self._write(write)

    async def set_tags(self, account_id: str, region: str, name: str, tags: Mapping[str, str]) -> None:
        def write() -> None:
            row = _own(account_id, region, name)
            row.tags = dict(tags)
            row.save(update_fields=["tags"])

        await self._write(write)

    # Small things

    def _find(self, account_id: str, owner: str, region: str, name: str, version: str) -> StoredDocument:
        row = _row(owner, region, name)
        allowed = "$ALL" if owner == account_id else _share(row, account_id) if row is not None else ""
        if row is None or not allowed:
            raise _missing(name)
        number = _number(version, row)
        if allowed != "$ALL" and number != _number(allowed, row):
            raise ApiError("InvalidDocumentVersion", f"Document version {version} is not shared with this account.")
        found = row.versions.filter(number=number).first()
        if found is None:
            raise ApiError("InvalidDocumentVersion", f"Document version {version} does not exist.")
        return _stored(row, found)

    async def _read(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._reader, work)

    async def _write(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._writer, work)


def split_arn(name: str, account_id: str, region: str) -> tuple[str, str, str]:
    """(owner, region, plain name) of a document's name or ARN, for a caller of `account_id` in `region`."""
    if not name.startswith("arn:"):
        return account_id, region, name
    parts = name.split(":", 5)
    if len(parts) != 6 or not parts[5].startswith("document/"):
        raise _missing(name)
    return parts[4] or AMAZON, parts[3] or region, parts[5].removeprefix("document/").partition(":")[0]


def _missing(name: str) -> ApiError:
    return ApiError("InvalidDocument", f"Document with name {name} does not exist.")


def _row(owner: str, region: str, name: str) -> Document | None:
    return Document.objects.filter(account_id=owner, region=region, name=name).first()


def _own(account_id: str, region: str, name: str) -> Document:
    owner, owner_region, plain = split_arn(name, account_id, region)
    if owner == AMAZON or plain in AWS_DOCUMENTS:
        raise ApiError("InvalidDocument", f"Document with name {name} belongs to Amazon.")
    row = _row(owner, region, plain) if (owner, owner_region) == (account_id, region) else None
    if row is None:
        raise _missing(name)
    return row


def _share(row: Document, account_id: str) -> str:
    """Which version of a document another account may use; "" for none."""
    return str(row.shared_with.get(account_id) or row.shared_with.get("all") or "")


def _number(version: str, row: Document) -> int:
    if version == "$DEFAULT":
        return row.default_version
    if version == "$LATEST":
        # Its number may be that of a version that was deleted, and is given to no other.
        return row.versions.order_by("-number").values_list("number", flat=True).first() or row.latest_version
    return int(version[:9])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _add_version(
    row: Document,
    number: int,
    text: str,
    document_format: str,
    version_name: str,
    display_name: str,
    target_type: str,
    now: datetime,
) -> DocumentVersion:
    return DocumentVersion.objects.create(
        document=row,
        number=number,
        version_name=version_name or None,
        display_name=display_name,
        target_type=target_type,
        text=text,
        document_format=document_format,
        digest=_digest(text),
        created_at=now,
    )


def _stored(row: Document, version: DocumentVersion) -> StoredDocument:
    return StoredDocument(
        name=row.name,
        owner=row.account_id,
        region=row.region,
        document_type=row.document_type,
        version=version.number,
        default_version=row.default_version,
        latest_version=row.latest_version,
        text=version.text,
        document_format=version.document_format,
        digest=version.digest,
        created_at=version.created_at,
        version_name=version.version_name or "",
        display_name=version.display_name,
        target_type=version.target_type,
        tags=row.tags,
    )


def _of_aws(name: str, version: str, region: str) -> StoredDocument:
    found = AWS_DOCUMENTS.get(name)
    if found is None:
        raise _missing(name)
    if version not in {"$DEFAULT", "$LATEST", "1"}:
        raise ApiError("InvalidDocumentVersion", f"Document version {version} does not exist.")
    document_type, content = found
    text = json.dumps(content, indent=2)
    return StoredDocument(
        name=name,
        owner=AMAZON,
        region=region,
        document_type=document_type,
        version=1,
        default_version=1,
        latest_version=1,
        text=text,
        document_format="JSON",
        digest=_digest(text),
        created_at=_AWS_CREATED_AT,
    )
