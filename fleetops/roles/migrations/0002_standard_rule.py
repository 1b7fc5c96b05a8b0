from django.db import migrations

# The role with which an instance is reached at all: without this rule a new installation could not attach it.
NAME = "Every instance may have the standard role"


def make(apps, schema_editor):
    apps.get_model("roles", "RoleRule").objects.get_or_create(
        name=NAME, defaults={"targets": "all", "profile_name": "fleetops-ssm-core", "changed_by": "fleetops"}
    )


def drop(apps, schema_editor):
    apps.get_model("roles", "RoleRule").objects.filter(name=NAME, version=1).delete()


class Migration(migrations.Migration):
    dependencies = [("roles", "0001_roles")]

    operations = [migrations.RunPython(make, drop)]
