import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import fleetops.clock


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("identity", "0002_api_tokens"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="needs_second_factor",
            field=models.BooleanField(
                default=False, editable=False, help_text="a role of theirs asks for it; identity.services keeps it so"
            ),
        ),
        migrations.CreateModel(
            name="RoleSetting",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("requires_second_factor", models.BooleanField(default=False)),
                (
                    "group",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="setting", to="auth.group"
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="SecondFactor",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("sealed_secret", models.TextField(help_text="sealed by the vault")),
                ("created_at", models.DateTimeField(default=fleetops.clock.now, editable=False)),
                (
                    "confirmed_at",
                    models.DateTimeField(help_text="when a first code proved that the app has the secret", null=True),
                ),
                (
                    "last_step",
                    models.BigIntegerField(
                        default=0, help_text="time step of the last code taken; none up to it counts again"
                    ),
                ),
                (
                    "failures",
                    models.PositiveSmallIntegerField(default=0, help_text="wrong codes since the last right one"),
                ),
                ("locked_until", models.DateTimeField(null=True)),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="second_factor",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="RecoveryCode",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("digest", models.CharField(help_text="SHA-256, in hex", max_length=64)),
                ("used_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="recovery_codes",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("user", "digest"), name="recovery_code_once_a_user")],
            },
        ),
    ]
