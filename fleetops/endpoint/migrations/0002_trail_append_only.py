"""The database itself refuses to change an event of the trail, and to delete a young one."""

from django.db import migrations

_SQLITE = [
    """CREATE TRIGGER trail_no_update BEFORE UPDATE ON endpoint_trailevent
       BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
    """CREATE TRIGGER trail_no_delete BEFORE DELETE ON endpoint_trailevent
       WHEN OLD.happened_at > datetime('now', '-1 day')
       BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
]
_POSTGRESQL = [
    """CREATE FUNCTION endpoint_trail_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         IF TG_OP = 'DELETE' AND OLD.happened_at <= now() - interval '1 day' THEN RETURN OLD; END IF;
         RAISE EXCEPTION 'the trail is append-only';
       END $$""",
    """CREATE TRIGGER trail_append_only BEFORE UPDATE OR DELETE ON endpoint_trailevent
       FOR EACH ROW EXECUTE FUNCTION endpoint_trail_refuse()""",
]


def protect(apps, schema_editor):
    statements = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}[schema_editor.connection.vendor]
    for statement in statements:
        schema_editor.execute(statement)


def expose(apps, schema_editor):
    if schema_editor.connection.vendor == "sqlite":
        for name in ("trail_no_update", "trail_no_delete"):
            schema_editor.execute(f"DROP TRIGGER {name}")
    else:
        schema_editor.execute("DROP TRIGGER trail_append_only ON endpoint_trailevent")
        schema_editor.execute("DROP FUNCTION endpoint_trail_refuse()")


class Migration(migrations.Migration):
    dependencies = [("endpoint", "0001_initial")]
    operations = [migrations.RunPython(protect, expose)]
