"""Many rows of which few columns differ, in one statement: wide rows by `bulk_create` take ten times as long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connections, models, router


def insert(model: type[models.Model], names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows that give the fields `names` their values; the others have their defaults.

    In the caller's transaction. As `bulk_create`, it calls no `save` and sends no signal.
    """
    connection = connections[router.db_for_write(model)]
    quote = connection.ops.quote_name
    given = [model._meta.get_field(name) for name in names]
    others = [field for field in model._meta.concrete_fields if field not in given]
    constants = [field.get_db_prep_save(field.get_default(), connection) for field in others]
    columns = ", ".join(quote(field.column) for field in (*given, *others))
    marks = ", ".join(["%s"] * (len(given) + len(others)))
    prepare = [field.get_db_prep_value for field in given]
    values = [
        (*[ready(value, connection) for ready, value in zip(prepare, row, strict=True)], *constants) for row in rows
    ]
    if values:
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES ({marks})", values)
