import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import fleetops.clock


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0003_second_factor"),
    ]

    operations = [
        migrations.CreateModel(
            name="AccessKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(help_text="what it is for, in the owner's words", max_length=64)),
                (
                    "key_id",
                    models.CharField(
                        help_text="FOAK and 16 letters; what AWS_ACCESS_KEY_ID holds", max_length=20, unique=True
                    ),
                ),
                ("sealed_secret", models.TextField(help_text="sealed by the vault")),
                (
                    "networks",
                    models.JSONField(blank=True, default=list, help_text="networks it may be used from; empty: any"),
                ),
                ("created_at", models.DateTimeField(default=fleetops.clock.now, editable=False)),
                ("expires_at", models.DateTimeField()),
                ("last_used_at", models.DateTimeField(help_text="to the minute", null=True)),
                ("last_used_address", models.CharField(blank=True, max_length=64)),
                ("revoked_at", models.DateTimeField(null=True)),
                ("revoked_by", models.CharField(blank=True, max_length=150)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="access_keys",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": (),
                "indexes": [models.Index(fields=["user", "revoked_at"], name="accesskey_user")],
            },
        ),
    ]
