"""Documents: read from AWS into our rows, and changed in AWS, with their audit events."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from fleetops.audit.models import Outcome
from fleetops.audit.record import Target, record
from fleetops.aws import documents as aws
from fleetops.aws.documents import DocumentRecord, VersionRecord
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Region

from . import content as contents
from .models import Document, DocumentVersion, Shelf

logger = logging.getLogger(__name__)

# As whom the worker calls AWS; CloudTrail shows it as the role session's name.
SESSION_NAME = "fleetops-library"
# Longer than the reading task may live, so that a claim never ends under its worker.
CLAIM = timedelta(seconds=120)
# A document that was read so lately is not read again for a page.
FRESH = timedelta(seconds=20)
CHANGE_PERMISSION = "library.change_document"
VIEW_PERMISSION = "library.view_document"
NAME = re.compile(r"[A-Za-z0-9_.-]{3,128}")  # [botocore's model of ssm, CreateDocument]
_RESERVED = ("aws", "amazon", "amzn")  # beginnings of names [SSM, CreateDocument]
_ROWS = 500  # documents that are written together

_LISTED = (
    "owner",
    "document_type",
    "schema_version",
    "document_format",
    "platform_types",
    "target_type",
    "display_name",
    "default_version",
    "tags",
    "made_at",
    "gone_at",
)


# --- the mirror ------------------------------------------------------------------------------------------------------


def claim_due_shelves(*, now: datetime) -> list[int]:
    """Take the regions whose documents are due, for a worker each; another call does not take them again."""
    on = Region.objects.filter(enabled=True, account__enabled=True)
    Shelf.objects.bulk_create([Shelf(region=region) for region in on.filter(shelf=None)], ignore_conflicts=True)
    due = Q(read_at=None) | Q(read_at__lte=now - timedelta(seconds=settings.LIBRARY_SECONDS))
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    taken = []
    for pk in Shelf.objects.filter(due & free, region__in=on).values_list("pk", flat=True):
        if Shelf.objects.filter(free, pk=pk).update(claimed_until=now + CLAIM):
            taken.append(pk)
    return taken


def read_shelf(shelf_id: int, *, now: datetime) -> None:
    """Read all documents of one claimed region into our rows; what AWS lists no more is gone."""
    shelf = Shelf.objects.select_related("region__account").get(pk=shelf_id)
    region = shelf.region
    access = region.account.access()
    try:
        found = [each for page in aws.document_pages(access, region.name, session_name=SESSION_NAME) for each in page]
    except AwsError as error:
        fail_shelf(shelf_id, str(error))
        return
    with transaction.atomic():
        _write(region, found, now=now)
        listed = {each.name for each in found}
        present = Document.objects.filter(account=region.account, region=region).present()
        gone = [pk for pk, name in present.values_list("pk", "name") if name not in listed]
        # One that was made while AWS was listing is not gone.
        Document.objects.filter(pk__in=gone).exclude(read_at__gte=now).update(gone_at=now)
        Shelf.objects.filter(pk=shelf_id).update(claimed_until=None, read_at=now, error="")
    logger.info("documents read account=%s region=%s count=%d", region.account.account_id, region.name, len(found))


def fail_shelf(shelf_id: int, error: str) -> None:
    """Write down why a reading failed. It is tried again after a minute."""
    later = clock_now() + timedelta(seconds=60)
    Shelf.objects.filter(pk=shelf_id).update(claimed_until=later, error=error[:512])
    logger.warning("documents not read shelf=%s error=%s", shelf_id, error)


def _write(region: Region, found: list[DocumentRecord], *, now: datetime) -> None:
    known = {row.name: row for row in Document.objects.filter(account=region.account, region=region)}
    made, changed = [], []
    for each in found:
        facts = _listed(each)
        row = known.get(each.name)
        if row is None:
            made.append(Document(account=region.account, region=region, name=each.name, **facts))
        elif any(getattr(row, name) != value for name, value in facts.items()):
            _forget_if_made_anew(row, each)
            for name, value in facts.items():
                setattr(row, name, value)
            changed.append(row)
    Document.objects.bulk_create(made, batch_size=_ROWS)
    Document.objects.bulk_update(changed, _LISTED, batch_size=_ROWS)


def _listed(each: DocumentRecord) -> dict[str, Any]:
    return {
        "owner": each.owner,
        "document_type": each.document_type,
        "schema_version": each.schema_version,
        "document_format": each.document_format,
        "platform_types": list(each.platform_types),
        "target_type": each.target_type,
        "display_name": each.display_name,
        "default_version": each.version,
        "tags": dict(each.tags),
        "made_at": each.created_at,
        "gone_at": None,
    }


def _forget_if_made_anew(row: Document, each: DocumentRecord) -> None:
    """A document that was deleted and made again under its name has other versions under the same numbers."""
    is_same = row.default_version == each.version
    if row.gone_at is not None or (is_same and row.made_at and each.created_at and row.made_at != each.created_at):
        row.versions.all().delete()
        row.read_at = None
        Document.objects.filter(pk=row.pk).update(read_at=None)


def look(document: Document, *, actor: User, now: datetime) -> str:
    """Read one document anew, with its versions, unless it was a moment ago; why that failed, or "".

    The page shows what was read before, and says so.
    """
    if document.read_at is not None and document.read_at > now - FRESH:
        return ""
    region, access = document.region.name, document.account.access()
    who = {"name": document.name, "session_name": actor.username}
    try:
        told = aws.describe_document(access, region, **who)
        versions = aws.document_versions(access, region, **who)
    except AwsError as error:
        if error.code == "InvalidDocument":
            Document.objects.filter(pk=document.pk, gone_at=None).update(gone_at=now)
            document.gone_at = document.gone_at or now
        return str(error)
    shared = []
    if document.is_own:
        try:
            shared = aws.shared_with(access, region, **who)
        except (AccessDenied, Unavailable):
            shared = document.shared_with
    with transaction.atomic():
        _forget_if_made_anew(document, told)
        for name, value in _listed(told).items():
            setattr(document, name, value)
        document.latest_version = told.latest_version
        document.description, document.shared_with, document.read_at = told.description, shared, now
        document.save(update_fields=[*_LISTED, "latest_version", "description", "shared_with", "read_at"])
        _write_versions(document, versions)
    return ""


def _write_versions(document: Document, found: list[VersionRecord]) -> None:
    known = {row.number: row for row in document.versions.defer("content")}
    for each in found:
        number = _number(each.version)
        row = known.pop(number, None) or DocumentVersion(document=document, number=number)
        facts = {
            "name": each.version_name,
            "status": each.status,
            "document_format": each.document_format,
            "made_at": each.created_at,
        }
        if row.pk is None or any(getattr(row, name) != value for name, value in facts.items()):
            for name, value in facts.items():
                setattr(row, name, value)
            row.save(update_fields=list(facts) if row.pk else None)
    document.versions.filter(number__in=list(known)).delete()


def version(document: Document, which: str = "", *, actor: User | str) -> DocumentVersion:
    """One version with its content: a number, or the default one. Read from AWS if it never was.

    Raises UserError if there is no such version, AwsError if it cannot be read.
    """
    which = which or document.default_version or "$DEFAULT"
    if which.isdigit():
        kept = document.versions.filter(number=_number(which)).exclude(content="").first()
        if kept is not None:
            return kept
    session_name = actor if isinstance(actor, str) else actor.username
    try:
        text, told = aws.get_document(
            document.account.access(),
            document.region.name,
            name=document.name,
            version=which,
            session_name=session_name,
        )
    except AwsError as error:
        if error.code in {"InvalidDocument", "InvalidDocumentVersion"}:
            raise UserError(f"{document} has no version {which} in {document.region}. Choose another.") from None
        raise
    row, _ = DocumentVersion.objects.update_or_create(
        document=document,
        number=_number(told.version),
        defaults={
            "content": text,
            "document_format": told.document_format,
            "made_at": told.created_at,
            "name": told.version_name,
            "status": told.status,
        },
    )
    return row


def read(version: DocumentVersion) -> contents.Read:
    """What a version says. Raises ContentError if it is none of the documents that we read."""
    return contents.read(
        version.content,
        document_type=version.document.document_type,
        document_format="YAML" if version.document_format == "YAML" else "JSON",
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


# --- changing --------------------------------------------------------------------------------------------------------


def create(
    region: Region,
    *,
    name: str,
    text: str,
    document_type: str,
    document_format: str,
    version_name: str = "",
    actor: User,
) -> Document:
    """Make a document in AWS. Checked by us first, so that an error says where it is.

    Raises ContentError or UserError if it is wrong, AwsError if AWS refuses it.
    """
    if not NAME.fullmatch(name):
        raise UserError("A document's name has 3 to 128 letters, digits, dots, dashes and underscores.")
    if name.lower().startswith(_RESERVED):
        raise UserError("AWS keeps names that begin with aws, amazon or amzn for itself. Choose another.")
    if document_type not in contents.TYPES:
        raise UserError(f"FleetOps makes documents of the types {' and '.join(contents.TYPES)}.")
    contents.read(text, document_type=document_type, document_format=document_format)
    account = region.account
    about = Target("library.document", "", name)
    facts = {"version": "1", "sha256": _digest(text), "document_type": document_type}
    with _recorded("library.document.create", about, account, region, actor, facts):
        told = aws.create_document(
            account.access(),
            region.name,
            name=name,
            content=text,
            document_type=document_type,
            document_format=document_format,
            version_name=version_name,
            **_as(actor),
        )
        with transaction.atomic():
            row, _ = Document.objects.update_or_create(
                account=account, region=region, name=told.name, defaults=_listed(told) | {"read_at": None}
            )
            row.versions.all().delete()  # of one that had the name before
            _keep(row, told.version or "1", text, document_format, version_name, told.created_at)
            record("library.document.create", actor=actor, target=row, **facts)
    logger.info("document made name=%s account=%s region=%s", name, account.account_id, region.name)
    return row


def add_version(
    document: Document, *, text: str, document_format: str, version_name: str = "", make_default: bool, actor: User
) -> DocumentVersion:
    """Add a version on top of the latest, and make it the default if asked. Raises as create does."""
    _require_own(document)
    contents.read(text, document_type=document.document_type, document_format=document_format)
    facts = {"sha256": _digest(text), "after": document.latest_version}
    with _recorded("library.version.create", document, document.account, document.region, actor, facts):
        told = aws.update_document(
            document.account.access(),
            document.region.name,
            name=document.name,
            content=text,
            document_format=document_format,
            version_name=version_name,
            **_as(actor),
        )
        number = told.latest_version or told.version
        with transaction.atomic():
            row = _keep(document, number, text, document_format, version_name, None)
            Document.objects.filter(pk=document.pk).update(latest_version=number, read_at=None)
            document.latest_version, document.read_at = number, None
            record("library.version.create", actor=actor, target=document, version=number, **facts)
    if make_default:
        set_default(document, row.number, actor=actor)
    return row


def set_default(document: Document, number: int, *, actor: User) -> None:
    """Say which version is run where none is named. Raises UserError if it is not the account's own, AwsError."""
    _require_own(document)
    if document.default_version == str(number):
        return
    facts = {"before": document.default_version, "after": str(number)}
    with _recorded("library.version.default", document, document.account, document.region, actor, facts):
        aws.set_default_version(
            document.account.access(), document.region.name, name=document.name, version=str(number), **_as(actor)
        )
        with transaction.atomic():
            Document.objects.filter(pk=document.pk).update(default_version=str(number), read_at=None)
            record("library.version.default", actor=actor, target=document, **facts)
    document.default_version, document.read_at = str(number), None


def delete(document: Document, *, actor: User) -> None:
    """Delete a document with all its versions, for good. Raises UserError if it is not the account's own, AwsError."""
    _require_own(document)
    facts = {"versions": document.versions.count(), "default_version": document.default_version}
    with _recorded("library.document.delete", document, document.account, document.region, actor, facts):
        try:
            aws.delete_document(document.account.access(), document.region.name, name=document.name, **_as(actor))
        except AwsError as error:
            if error.code != "InvalidDocument":  # it is gone: so be it
                raise
        with transaction.atomic():
            Document.objects.filter(pk=document.pk).update(gone_at=clock_now())
            record("library.document.delete", actor=actor, target=document, **facts)
    logger.info("document deleted document=%s name=%s", document.pk, document.name)


@contextmanager
def _recorded(
    action: str, about: Document | Target, account: Account, region: Region, actor: User, facts: dict[str, Any]
) -> Iterator[None]:
    """A deed at AWS whose answer was lost is in the audit log too: it may have happened."""
    try:
        yield
    except Unavailable as error:
        if error.is_outcome_unknown:
            where = {"account_id": account.account_id, "region": region.name}
            reason = "AWS did not answer: it may have happened"
            with transaction.atomic():
                record(action, actor=actor, target=about, outcome=Outcome.FAILED, reason=reason, **where, **facts)
            Document.objects.filter(account=account, region=region, name=about.name).update(read_at=None)
        raise


def _keep(
    document: Document, number: str, text: str, document_format: str, version_name: str, made_at: datetime | None
) -> DocumentVersion:
    row, _ = DocumentVersion.objects.update_or_create(
        document=document,
        number=_number(number),
        defaults={"content": text, "document_format": document_format, "name": version_name, "made_at": made_at},
    )
    return row


def _require_own(document: Document) -> None:
    if not document.is_own:
        raise UserError(f"{document} is {document.owner or 'somebody else'}'s, so it cannot be changed here.")


def _as(actor: User) -> dict[str, str]:
    return {"session_name": actor.username, "source_identity": actor.username}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
