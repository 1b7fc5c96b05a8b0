"""Where sealed chunks of recordings are kept for good: by content address, so that a repeat changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from uuid import uuid4

from django.conf import settings

from fleetops.aws import s3
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError
from fleetops.env import Bucket
from fleetops.inventory.models import Account


class RecordingStore(Protocol):
    """A place for sealed chunks. `name` is the SHA-256 of the bytes, in hex: two chunks of one name are the same."""

    def put(self, name: str, path: Path) -> None:
        """Keep the bytes of `path` under `name`; when it returns they are safe. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """Open a chunk for reading. Raises FileNotFoundError if it is not here, OSError if it cannot be read now."""


class DirectoryStore:
    """Chunks as files, in folders by the first digits of their names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / name[:2] / name[2:4] / f"{name}.zst"

    def put(self, name: str, path: Path) -> None:
        target = self.path(name)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(f".{name}.{uuid4().hex}.part")
        try:
            shutil.copyfile(path, part)
            sync(part)
            part.replace(target)  # atomic: a reader sees all of it or nothing
        finally:
            part.unlink(missing_ok=True)
        sync(target.parent)

    def open(self, name: str) -> BinaryIO:
        return self.path(name).open("rb")


# A chunk that is read is kept in memory up to this size, and in a file above it.
_IN_MEMORY = 4 << 20
SESSION_NAME = "fleetops-recordings"


class BucketStore:
    """Chunks as objects of S3, under the same names as those of a directory. S3 checks each against its SHA-256."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def key(self, name: str) -> str:
        return "/".join(filter(None, (self.bucket.prefix, name[:2], name[2:4], f"{name}.zst")))

    def put(self, name: str, path: Path) -> None:
        with path.open("rb") as body, _as_oserror():
            s3.put(
                self._access(),
                self.bucket.region,
                bucket=self.bucket.name,
                key=self.key(name),
                body=body,
                sha256=name,
                session_name=SESSION_NAME,
                content_type="application/zstd",
                kms_key=self.bucket.kms_key,
            )

    def open(self, name: str) -> BinaryIO:
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (its reader closes it)
        try:
            with _as_oserror():
                s3.get(
                    self._access(),
                    self.bucket.region,
                    bucket=self.bucket.name,
                    key=self.key(name),
                    into=file,
                    session_name=SESSION_NAME,
                )
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(BinaryIO, file)

    def _access(self) -> AccountAccess:
        """As whom the bucket is reached: under a linked account's role, or as the base credentials."""
        number = self.bucket.account
        if not number:
            return AccountAccess(
                account_id="",
                connect_timeout_seconds=settings.AWS_CONNECT_TIMEOUT_SECONDS,
                read_timeout_seconds=settings.AWS_READ_TIMEOUT_SECONDS,
                cache_dir=str(settings.HOME / "aws"),
            )
        account = Account.objects.filter(account_id=number).first()
        if account is None:
            raise OSError(errno.ENXIO, f"account {number}, which FLEETOPS_RECORDING_STORE names, is not linked")
        return account.access()


@contextmanager
def _as_oserror() -> Iterator[None]:
    """A store fails as a disk does, whatever is behind it."""
    try:
        yield
    except AwsError as error:
        raise OSError(errno.EIO, str(error)) from error


def recording_store() -> RecordingStore:
    """The store of this installation."""
    if settings.RECORDING_BUCKET is not None:
        return BucketStore(settings.RECORDING_BUCKET)
    return DirectoryStore(settings.RECORDING_DIR)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
