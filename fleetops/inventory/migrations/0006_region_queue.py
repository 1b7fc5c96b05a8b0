from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0005_region_reading"),
    ]

    operations = [
        migrations.AddField(
            model_name="region",
            name="queue_url",
            field=models.CharField(
                blank=True, help_text="SQS queue of EventBridge's events; empty: it is only polled", max_length=512
            ),
        ),
        migrations.AddField(
            model_name="region",
            name="queue_claimed_until",
            field=models.DateTimeField(help_text="a worker reads the queue until then", null=True),
        ),
        migrations.AddField(
            model_name="region",
            name="queue_read_at",
            field=models.DateTimeField(help_text="when the queue last answered", null=True),
        ),
        migrations.AddField(
            model_name="region",
            name="queue_error",
            field=models.CharField(blank=True, help_text="why the queue cannot be read", max_length=512),
        ),
    ]
