"""Secrets at rest: sealed with a key of their own, which is wrapped by a master key that the database never sees.

    sealed = vault.seal("s3cret", context=vault.context_of(row, "sealed_secret"))
    vault.open_sealed(sealed, context=vault.context_of(row, "sealed_secret"))  # b"s3cret"

A value is "v1.KEY.WRAPPED.BODY": KEY names the master key; WRAPPED is the value's own AES-256 key under it, BODY the
secret under that one, both AES-256-GCM with a random nonce of 96 bits before and a tag of 128 bits after, in base64
for URLs. A data key for each value, rather than one derived from the master key, has two reasons: changing the master
key wraps 32 bytes anew and never opens the secret, and a master key that lives in an HSM or in KMS fits the same form.
The random nonces are safe for 2^32 values under one master key [NIST SP 800-38D, section 8.3]; we have thousands.

Both seals are bound to `context`, "table.column:primary key", so that a value that somebody moves to another row, or
to another column, does not open there.

The key ring is the file FLEETOPS_MASTER_KEY_FILE: a JSON object a line, the first key is the one that seals, the others
open what was sealed before. `python -m fleetops.vault FILE` puts a new key in front, and makes the file if there is
none; `manage.py vault_rotate` also wraps every value anew.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from fleetops.clock import now
from fleetops.errors import UserError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
BATCH: Final = 200  # rows wrapped anew in one transaction: some 10 ms of SQLite's one writer
_FORM: Final = re.compile(r"v1\.(?P<key>[A-Za-z0-9-]{1,40})\.(?P<wrapped>[A-Za-z0-9_-]+)\.(?P<body>[A-Za-z0-9_-]+)")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9-]{1,40}")


class VaultError(UserError):
    """A value cannot be opened."""


class UnknownKey(VaultError):
    """The master key of a value is not in the key ring."""


class Tampered(VaultError):
    """A value was changed, or stands where it was not sealed."""


# --- The key ring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One line of the key ring."""

    id: str
    secret: bytes
    made_at: str = ""
    made_by: str = ""  # "start": by the embedded profile itself; "command": by a person

    def line(self) -> str:
        key = base64.b64encode(self.secret).decode()
        return json.dumps({"id": self.id, "key": key, "made_at": self.made_at, "made_by": self.made_by}) + "\n"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys by id; the first seals."""

    path: Path
    keys: tuple[MasterKey, ...]

    @property
    def active(self) -> MasterKey:
        return self.keys[0]

    def find(self, key_id: str) -> MasterKey | None:
        return next((key for key in self.keys if key.id == key_id), None)


def read_key_ring(path: Path) -> KeyRing:
    """The key ring of `path`. Raises ImproperlyConfigured, in words, if it is missing, open to others or malformed."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except OSError as error:
        raise ImproperlyConfigured(
            f"The key ring {path} cannot be read: {error.strerror}. Set FLEETOPS_MASTER_KEY_FILE to one; "
            "make it by: python -m fleetops.vault FILE"
        ) from None
    except UnicodeDecodeError:
        raise ImproperlyConfigured(f"{path} is no key ring: it is not text.") from None
    if mode & 0o077:
        raise ImproperlyConfigured(
            f"The key ring {path} can be read by others (mode {mode & 0o777:04o}); take that away: chmod 600 {path}"
        )
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            secret = base64.b64decode(given["key"], validate=True)
            key_id = given["id"]
            usable = len(secret) == KEY_BYTES and bool(_KEY_ID.fullmatch(key_id))
        except (ValueError, KeyError, TypeError, binascii.Error):
            usable = False
        if not usable:  # without the line, which may hold a key
            raise ImproperlyConfigured(
                f"Line {number} of the key ring {path} is no key: it takes an id and {KEY_BYTES} bytes in base64. "
                "Put the line back as it was; what was sealed with its key cannot be opened without it."
            )
        keys.append(MasterKey(key_id, secret, str(given.get("made_at", "")), str(given.get("made_by", ""))))
    if not keys:
        raise ImproperlyConfigured(f"The key ring {path} holds no key; make one: python -m fleetops.vault {path}")
    if len({key.id for key in keys}) != len(keys):
        raise ImproperlyConfigured(f"The key ring {path} names a key twice; keep one of the lines.")
    return KeyRing(path, tuple(keys))


def required_key_ring(path: Path | None, *, may_make: bool) -> Path:
    """The path of a key ring that can be used, checked at the start.

    With `may_make` (embedded) one that is missing is made. Without it, one that is missing, or whose first key was made
    that way, is refused: it has lain beside the database that it is to protect. Raises ImproperlyConfigured.
    """
    if path is None:
        raise ImproperlyConfigured(
            "Set FLEETOPS_MASTER_KEY_FILE to a key ring outside of the database's backups; "
            "make one: python -m fleetops.vault FILE"
        )
    if may_make and not path.exists():
        add_key(path, made_by="start", only_if_missing=True)
    ring = read_key_ring(path)
    if not may_make and ring.active.made_by == "start":
        raise ImproperlyConfigured(
            f"The first key of {path} was made by an embedded start. Put one of your own before it, "
            f"python -m fleetops.vault {path}, start, and then run: manage.py vault_rotate --keep-key"
        )
    return path


def new_key(made_by: str) -> MasterKey:
    made_at = now()
    key_id = f"{made_at:%Y%m%d}-{os.urandom(4).hex()}"
    return MasterKey(key_id, os.urandom(KEY_BYTES), made_at.isoformat(timespec="seconds"), made_by)


def add_key(path: Path, *, made_by: str = "command", only_if_missing: bool = False) -> KeyRing:
    """Put a new key in front of the ring's others; makes the ring, 0600, if there is none.

    The file is written whole, flushed and then renamed over the old one: whoever dies in between leaves one or the
    other, and a key is on the disk before anything is sealed with it.
    """
    with _locked(path):
        if only_if_missing and path.exists():
            return read_key_ring(path)
        keys = (new_key(made_by), *(read_key_ring(path).keys if path.exists() else ()))
        _write(path, keys)
        return KeyRing(path, keys)


def drop_keys(path: Path, ids: set[str]) -> KeyRing:
    """Take keys off the ring; the caller has seen that nothing is sealed with them. The first one stays."""
    with _locked(path):
        ring = read_key_ring(path)
        keys = (ring.active, *(key for key in ring.keys[1:] if key.id not in ids))
        _write(path, keys)
        return KeyRing(path, keys)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two processes that start, or two rotations, take turns: no key that one has just written is lost to the other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: tuple[MasterKey, ...]) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # of a process of our number that was killed here
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(key.line() for key in keys)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"The key ring {path} cannot be written here: {error.strerror}. Where it is mounted read-only, add the key "
        "where the file comes from (python -m fleetops.vault FILE) and run: manage.py vault_rotate --keep-key"
    )


_cached: tuple[tuple[Path, int, int, int], KeyRing] | None = None


def key_ring() -> KeyRing:
    """The ring of this installation, read again when its file has changed: a rotation needs no restart."""
    global _cached
    path = Path(settings.MASTER_KEY_FILE)
    try:
        stat = path.stat()
    except OSError:
        return read_key_ring(path)  # which says what is wrong
    stamp = (path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    cached = _cached
    if cached is None or cached[0] != stamp:
        cached = (stamp, read_key_ring(path))
        _cached = cached
    return cached[1]


# --- Values ----------------------------------------------------------------------------------------------------------


def seal(plaintext: bytes | str, *, context: str) -> str:
    """`plaintext` as a column may hold it. `context` says where it stands: see `context_of`."""
    secret = plaintext.encode() if isinstance(plaintext, str) else plaintext
    data_key = AESGCM.generate_key(bit_length=8 * KEY_BYTES)
    return _join(key_ring().active, data_key, _encrypt(data_key, secret, _about("value", context)), context)


def open_sealed(value: str, *, context: str) -> bytes:
    """The secret of a sealed value. Raises UnknownKey or Tampered, in words that hold nothing of it."""
    _, data_key, body = _unwrap(value, context)
    return _decrypt(data_key, body, _about("value", context), context)


def reseal(value: str, *, context: str) -> str:
    """The same secret under the ring's first key; it is not opened on the way. Raises as open_sealed does."""
    key, data_key, body = _unwrap(value, context)
    active = key_ring().active
    return value if key.id == active.id else _join(active, data_key, body, context)


def key_id_of(value: str) -> str:
    """Which master key seals a value; "" if it is not a sealed one."""
    found = _FORM.fullmatch(value)
    return found["key"] if found else ""


def context_of(row: Any, field: str) -> str:
    """Where a row's column stands: "table.column:primary key". The row has its key before its secret is sealed."""
    meta = row._meta
    if row.pk is None:
        raise ValueError(f"{meta.label} has no primary key yet, and a secret is sealed for one row")
    return f"{meta.db_table}.{meta.get_field(field).column}:{row.pk}"


def _join(key: MasterKey, data_key: bytes, body: bytes, context: str) -> str:
    wrapped = _encrypt(key.secret, data_key, _about(f"key {key.id}", context))
    return f"v1.{key.id}.{_text(wrapped)}.{_text(body)}"


def _unwrap(value: str, context: str) -> tuple[MasterKey, bytes, bytes]:
    found = _FORM.fullmatch(value)
    if found is None:
        raise Tampered(f"What stands at {context} is not a value of the vault; enter the secret again.")
    ring = key_ring()
    key = ring.find(found["key"])
    if key is None:
        raise UnknownKey(
            f"The secret at {context} was sealed with the master key {found['key']}, which is not in the key ring "
            f"{ring.path}. Put that key's line back, or enter the secret again."
        )
    try:
        wrapped, body = _bytes(found["wrapped"]), _bytes(found["body"])
    except (ValueError, binascii.Error):
        raise _tampered(context) from None
    return key, _decrypt(key.secret, wrapped, _about(f"key {key.id}", context), context), body


def _about(what: str, context: str) -> bytes:
    return f"fleetops vault v1\0{what}\0{context}".encode()


def _encrypt(key: bytes, plaintext: bytes, about: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, about)


def _decrypt(key: bytes, sealed: bytes, about: bytes, context: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise _tampered(context) from None


def _tampered(context: str) -> Tampered:
    return Tampered(
        f"The secret at {context} does not open: it was changed, or was sealed for another place. "
        "Enter it again, and look in the audit log for who had to do with it."
    )


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


# --- Rotation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column that holds sealed values, or nothing ("")."""

    model: str  # "app.Model"
    field: str
    context: Callable[[Any], str]


_columns: dict[tuple[str, str], SealedColumn] = {}


def register(model: str, field: str, *, context: Callable[[Any], str] | None = None) -> None:
    """Name a column of sealed values, in `apps.py` `ready()`, so that a rotation reaches it.

    `context` gives a row's context where it is not context_of(row, field).
    """
    _columns[model, field] = SealedColumn(model, field, context or partial(context_of, field=field))


def columns() -> list[SealedColumn]:
    return [_columns[name] for name in sorted(_columns)]


def count_by_key(column: SealedColumn) -> dict[str, int]:
    """How many values each master key seals; "" counts those that are no sealed values."""
    counts: dict[str, int] = {}
    rows = apps.get_model(column.model)._base_manager.exclude(**{column.field: ""})
    for value in rows.values_list(column.field, flat=True).iterator(chunk_size=2000):
        key_id = key_id_of(value)
        counts[key_id] = counts.get(key_id, 0) + 1
    return counts


def reseal_batch(column: SealedColumn, after: Any) -> tuple[Any, int, list[str]]:
    """Wrap the next BATCH values anew that are not under the first key; `after` is the last primary key seen, or None.

    Returns the last primary key of this batch (None: there are no more), how many were written, and, in words, those
    that do not open. Each row is written only while it holds what was read: a secret that somebody enters meanwhile
    stands. A process that is killed leaves each row whole, under one key or the other, and both are on the ring.
    """
    manager = apps.get_model(column.model)._base_manager
    active = f"v1.{key_ring().active.id}."
    rows = manager.exclude(**{column.field: ""}).exclude(**{f"{column.field}__startswith": active}).order_by("pk")
    if after is not None:
        rows = rows.filter(pk__gt=after)
    batch = list(rows[:BATCH])
    done, failures = 0, []
    with transaction.atomic():
        for row in batch:
            value = getattr(row, column.field)
            try:
                fresh = reseal(value, context=column.context(row))
            except VaultError as error:
                failures.append(str(error))
                continue
            done += manager.filter(pk=row.pk, **{column.field: value}).update(**{column.field: fresh})
    return (batch[-1].pk if batch else None), done, failures


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m fleetops.vault FILE", file=sys.stderr)
        return 2
    try:
        ring = add_key(Path(arguments[0]))
    except (UserError, ImproperlyConfigured) as error:
        print(error, file=sys.stderr)
        return 1
    others = len(ring.keys) - 1
    print(f"{ring.path}: key {ring.active.id} seals from now on; {others} older key{'s' * (others != 1)} stay")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
