"""S3: objects are put and read. A put is idempotent where the same key always means the same bytes, as ours do."""

from __future__ import annotations

import base64
import contextlib
import errno
import shutil
from typing import IO, BinaryIO, Final

from .clients import AccountAccess, client
from .errors import AwsError, aws_call

MOST_BYTES: Final = 5 << 30  # of one PutObject [S3 user guide, "Uploading objects"]
_NOT_THERE: Final = frozenset({"NoSuchKey", "404", "NotFound"})


def put(
    access: AccountAccess,
    region: str,
    *,
    bucket: str,
    key: str,
    body: BinaryIO | bytes,
    sha256: str,
    session_name: str,
    content_type: str = "application/octet-stream",
    kms_key: str = "",
) -> None:
    """Put an object whose bytes have this SHA-256, in hex: S3 takes no others.

    It is encrypted under `kms_key` if one is named, else as the bucket says. Raises AwsError.
    """
    s3 = client("s3", access, region, session_name=session_name)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    with aws_call("s3:PutObject", where=f"{access.account_id} {bucket}"):
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            ContentType=content_type,
            ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
            **encryption,
        )


def get(access: AccountAccess, region: str, *, bucket: str, key: str, into: IO[bytes], session_name: str) -> None:
    """Copy an object's bytes. Raises FileNotFoundError, AwsError."""
    s3 = client("s3", access, region, session_name=session_name)
    try:
        with aws_call("s3:GetObject", where=f"{access.account_id} {bucket}"):
            body = s3.get_object(Bucket=bucket, Key=key)["Body"]
            with contextlib.closing(body):
                shutil.copyfileobj(body, into)
    except AwsError as error:
        if error.code in _NOT_THERE:
            raise FileNotFoundError(errno.ENOENT, "the bucket has no such object", f"{bucket}/{key}") from None
        raise
