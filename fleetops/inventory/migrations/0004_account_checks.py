import django.db.models.deletion
from django.db import migrations, models

import fleetops.clock


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0003_account_switches"),
    ]

    operations = [
        migrations.CreateModel(
            name="AccountCheck",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("running", "Running"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=8,
                    ),
                ),
                ("asked_by", models.CharField(max_length=150)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "caller_arn",
                    models.CharField(blank=True, help_text="the base credentials, as AWS names them", max_length=256),
                ),
                ("error", models.CharField(blank=True, help_text="why it could not be carried out", max_length=512)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="checks", to="inventory.account"
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="CheckRow",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("region", models.CharField(max_length=32)),
                ("position", models.PositiveSmallIntegerField()),
                ("action", models.CharField(help_text="as IAM writes it", max_length=64)),
                ("purpose", models.CharField(max_length=128)),
                (
                    "result",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("ok", "Ok"),
                            ("denied", "Denied"),
                            ("broken", "Broken"),
                            ("unknown", "Unknown"),
                            ("skipped", "Skipped"),
                        ],
                        default="waiting",
                        max_length=8,
                    ),
                ),
                ("text", models.CharField(blank=True, help_text="what AWS said, and what to do", max_length=1024)),
                ("is_optional", models.BooleanField(default=False)),
                (
                    "parent",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="rows", to="inventory.accountcheck"
                    ),
                ),
            ],
            options={
                "ordering": ["region", "position"],
                "default_permissions": (),
            },
        ),
        migrations.AddConstraint(
            model_name="accountcheck",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["waiting", "running"])),
                fields=("account",),
                name="check_one_at_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="checkrow",
            constraint=models.UniqueConstraint(
                fields=("parent", "region", "action"), name="permission_once_a_region_of_a_check"
            ),
        ),
    ]
