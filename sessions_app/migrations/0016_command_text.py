"""An index for searches in the text of commands, where PostgreSQL's pg_trgm is there or may be had; without it they scan."""

from django.db import DatabaseError, migrations, transaction


def add(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    try:
        with transaction.atomic(), schema_editor.connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            cursor.execute(
                "CREATE INDEX IF NOT EXISTS command_text ON sessions_app_command USING gin (UPPER(text) gin_trgm_ops)"
            )
    except DatabaseError:
        return  # it is not installed, or this role may not create it


def remove(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX IF EXISTS command_text")


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0015_session_documents")]

    operations = [migrations.RunPython(add, remove)]
