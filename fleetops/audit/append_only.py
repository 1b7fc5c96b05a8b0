"""Triggers that refuse to change or remove what the audit log holds.

They stop a mistake and a curious administrator of the application; whoever owns the database can drop them, and is
found out by the chain. On SQLite a trigger goes when Django rebuilds its table: a migration that alters one of TABLES
has to end with `install`. tests/audit/test_append_only.py holds that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

TABLES = ("audit_auditevent", "audit_auditseal")
_KEYS = {"audit_auditevent": "id", "audit_auditseal": "number"}


def install(connection) -> None:
    with connection.cursor() as cursor:
        for statement in _INSTALL[connection.vendor]():
            cursor.execute(statement)


def remove(connection) -> None:
    with connection.cursor() as cursor:
        for statement in _REMOVE[connection.vendor]():
            cursor.execute(statement)


@contextmanager
def lifted(connection) -> Iterator[None]:
    """Without the triggers inside of the block. For tests, which empty tables."""
    remove(connection)
    try:
        yield
    finally:
        install(connection)


def _sqlite() -> Iterator[str]:
    for table in TABLES:
        for deed in ("UPDATE", "DELETE"):
            yield (
                f"CREATE TRIGGER IF NOT EXISTS {table}_no_{deed.lower()} BEFORE {deed} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'the audit log is append-only: {deed} refused'); END"
            )
        # INSERT OR REPLACE removes a row without asking the trigger on DELETE.
        yield (
            f"CREATE TRIGGER IF NOT EXISTS {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {_KEYS[table]} = NEW.{_KEYS[table]}) "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only: REPLACE refused'); END"
        )


def _sqlite_remove() -> Iterator[str]:
    for table in TABLES:
        for deed in ("update", "delete", "replace"):
            yield f"DROP TRIGGER IF EXISTS {table}_no_{deed}"


def _postgresql() -> Iterator[str]:
    yield (
        "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'the audit log is append-only: % refused', TG_OP "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in TABLES:
        yield (
            f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
        )


def _postgresql_remove() -> Iterator[str]:
    for table in TABLES:
        yield f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}"
    yield "DROP FUNCTION IF EXISTS audit_append_only()"


_INSTALL = {"sqlite": _sqlite, "postgresql": _postgresql}
_REMOVE = {"sqlite": _sqlite_remove, "postgresql": _postgresql_remove}
