"""Lists of patches in S3, where nodes read them: AWS-RunPatchBaseline's InstallOverrideList is an address.

An account names its bucket (`ListStore`); those of the embedded endpoint have one from its seed. A list lies under the
digest of its text, so that one address always means the same patches, and putting it again changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any, Final

from django.db import transaction

from fleetops.audit.record import record
from fleetops.aws import s3
from fleetops.clock import now
from fleetops.errors import FieldError, UserError
from fleetops.inventory.models import Account

from .models import ListStore

logger = logging.getLogger(__name__)

EMBEDDED_BUCKET: Final = "fleetops-patch-lists-{}"  # by account; the endpoint's seed makes it
# S3 user guide, "Bucket naming rules".
_BUCKET: Final = re.compile(r"(?!\d+\.\d+\.\d+\.\d+\Z)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
MOST_CHARACTERS: Final = 256  # of an address, as AWS-RunPatchBaseline takes it
NODES_READ: Final = (
    "Each node reads the list with the permissions of its own role (s3:GetObject on it), which FleetOps cannot know; "
    "one that may not fails."
)


def bucket_of(account: Account) -> str:
    """The bucket for lists of an account; empty: it names none."""
    found = ListStore.objects.filter(account=account).first()
    if found is not None:
        return str(found.bucket)
    return EMBEDDED_BUCKET.format(account.account_id) if account.is_embedded else ""


def address_for(account: Account, region: str) -> str:
    """Under which address lists for the nodes of a region are put: s3://BUCKET/FOLDER/. Raises UserError."""
    bucket = bucket_of(account)
    if not bucket:
        raise UserError(
            f"{account} names no bucket for lists of patches, which its nodes would read. Name one: Patching, Lists."
        )
    return f"s3://{bucket}/patch-lists/{region}/"


def put(account: Account, region: str, text: str, *, session_name: str) -> str:
    """Put a list for the nodes of a region; its address. Putting the same again changes nothing.

    Raises UserError if the account names no bucket, AwsError if S3 refuses.
    """
    body = text.encode()
    digest = hashlib.sha256(body).hexdigest()
    address = f"{address_for(account, region)}{digest}.yaml"
    bucket, _, key = address.removeprefix("s3://").partition("/")
    s3.put(
        account.access(),
        region,
        bucket=bucket,
        key=key,
        body=body,
        sha256=digest,
        session_name=session_name,
        content_type="application/yaml",
    )
    logger.info("list put account=%s region=%s digest=%s", account.account_id, region, digest)
    return address


def choose(account: Account, bucket: str, *, actor: Any) -> bool:
    """Name the bucket of an account, or none; True if that changed anything. Raises FieldError."""
    bucket = bucket.strip()
    if bucket and not _BUCKET.fullmatch(bucket):
        raise FieldError("bucket", "A bucket's name has 3 to 63 small letters, digits, dots and hyphens.")
    with transaction.atomic():
        before = bucket_of(Account.objects.select_for_update().get(pk=account.pk))
        if before == bucket:
            return False
        ListStore.objects.update_or_create(account=account, defaults={"bucket": bucket, "changed_at": now()})
        record(
            "patching.lists.change",
            actor=actor,
            target=account,
            account_id=account.account_id,
            before={"bucket": before},
            after={"bucket": bucket},
        )
    logger.info("bucket for lists chosen account=%s", account.account_id)
    return True


def uses(account: Account) -> bool:
    """Whether lists are put with the account's role: for what its permissions are checked."""
    return bool(bucket_of(account))
