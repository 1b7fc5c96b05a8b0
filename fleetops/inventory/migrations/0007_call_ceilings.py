import django.db.models.deletion
from django.db import migrations, models

import fleetops.clock


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0006_region_queue"),
    ]

    operations = [
        migrations.CreateModel(
            name="CallCeiling",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("region", models.CharField(max_length=32)),
                ("operation", models.CharField(help_text="as IAM writes it: ssm:StartSession", max_length=96)),
                (
                    "per_second",
                    models.FloatField(
                        help_text="calls a second; null: taken away, the governor is to be told", null=True
                    ),
                ),
                ("set_by", models.CharField(max_length=150)),
                ("set_at", models.DateTimeField()),
                (
                    "told_at",
                    models.DateTimeField(
                        help_text="when the governor was told of it; null: it is yet to be", null=True
                    ),
                ),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="call_ceilings",
                        to="inventory.account",
                    ),
                ),
            ],
            options={
                "ordering": ["account__name", "region", "operation"],
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("account", "region", "operation"), name="call_ceiling_once")
                ],
            },
        ),
    ]
