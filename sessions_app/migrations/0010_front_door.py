import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0004_access_keys"),
        ("sessions_app", "0009_delivery"),
    ]

    operations = [
        migrations.AddField(
            model_name="terminalsession",
            name="bytes_from_instance",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="terminalsession",
            name="bytes_to_instance",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="terminalsession",
            name="connections",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="terminalsession",
            name="exit_code",
            field=models.IntegerField(blank=True, null=True),
        ),
        migrations.CreateModel(
            name="StreamToken",
            fields=[
                (
                    "digest",
                    models.CharField(help_text="SHA-256, in hex", max_length=64, primary_key=True, serialize=False),
                ),
                ("source_address", models.CharField(blank=True, max_length=64)),
                (
                    "is_ours",
                    models.BooleanField(default=False, help_text="for `fleetops connect`, which takes longer messages"),
                ),
                ("expires_at", models.DateTimeField()),
                (
                    "access_key",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="identity.accesskey",
                    ),
                ),
                (
                    "api_token",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="identity.apitoken"
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to="sessions_app.terminalsession"
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["expires_at"], name="streamtoken_end")],
            },
        ),
    ]
