import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import fleetops.clock


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                (
                    "id",
                    models.UUIDField(default=fleetops.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(help_text="what it is for, in the owner's words", max_length=64)),
                (
                    "prefix",
                    models.CharField(help_text="how it begins, to find it and know it by", max_length=16, unique=True),
                ),
                ("digest", models.CharField(help_text="SHA-256 of the whole token, in hex", max_length=64)),
                ("scopes", models.JSONField(default=list)),
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
                        on_delete=django.db.models.deletion.CASCADE, related_name="tokens", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": (),
                "indexes": [models.Index(fields=["user", "revoked_at"], name="apitoken_user")],
            },
        ),
    ]
