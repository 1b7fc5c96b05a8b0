from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0004_account_checks"),
    ]

    operations = [
        migrations.AddField(
            model_name="region",
            name="reading",
            field=models.JSONField(
                blank=True, default=dict, help_text="where a refresh goes on that took too long for one go"
            ),
        ),
    ]
