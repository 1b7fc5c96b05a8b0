"""What tests of the chain share: rows to seal, and the hand of somebody who owns the database."""

from contextlib import contextmanager

from django.db import connection

from fleetops.audit import append_only
from fleetops.audit.models import AuditEvent, AuditSeal
from fleetops.audit.record import record


def make_events(count: int) -> list[AuditEvent]:
    return [record("sessions.open", actor="worker", place=n) for n in range(count)]


def numbers() -> list[int]:
    return list(AuditSeal.objects.order_by("number").values_list("number", flat=True))


@contextmanager
def tampering():
    """As whoever owns the database: without triggers, without foreign keys."""
    with append_only.lifted(connection), connection.constraint_checks_disabled():
        yield
