"""The database itself refuses, whatever the application asks for."""

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from fleetops.audit.append_only import TABLES
from fleetops.audit.chain import Sealer
from fleetops.audit.models import AuditEvent, AuditSeal
from fleetops.audit.record import record


@pytest.fixture
def event(db):
    made = record("sessions.open", actor="worker")
    Sealer().seal()
    return made


@pytest.mark.parametrize(
    "deed",
    [
        lambda event: AuditEvent.objects.filter(pk=event.pk).update(reason="x"),
        lambda event: AuditEvent.objects.filter(pk=event.pk)._raw_delete(using="default"),
        lambda event: event.save(),
        lambda event: AuditSeal.objects.update(number=F("number") + 1),
        lambda event: AuditSeal.objects.all()._raw_delete(using="default"),
    ],
    ids=["update", "delete", "save", "renumber", "unseal"],
)
def test_what_is_written_stays(event, deed):
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        deed(event)
    event.refresh_from_db()
    assert (event.reason, event.seal.number) == ("", 1)


def test_a_row_cannot_be_replaced_by_an_insert(event):
    if connection.vendor != "sqlite":
        return  # INSERT OR REPLACE is SQLite's
    columns = ", ".join(f'"{field.column}"' for field in AuditEvent._meta.concrete_fields)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT OR REPLACE INTO {TABLES[0]} ({columns}) SELECT {columns} FROM {TABLES[0]}")


def test_the_migration_has_a_way_back(transactional_db):
    record("sessions.open", actor="worker")
    call_command("migrate", "audit", "0001", verbosity=0)
    try:
        assert AuditEvent.objects.update(reason="x") == 1
    finally:
        call_command("migrate", "audit", verbosity=0)
    with pytest.raises(IntegrityError, match="append-only"):
        AuditEvent.objects.update(reason="y")
