from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0002_saved_filters"),
    ]

    operations = [
        migrations.AddField(
            model_name="account",
            name="enabled",
            field=models.BooleanField(default=True, help_text="it is read, and shells are opened in it"),
        ),
        migrations.AddField(
            model_name="account",
            name="is_embedded",
            field=models.BooleanField(default=False, help_text="the embedded endpoint says where it is, at each start"),
        ),
        migrations.AddField(
            model_name="account",
            name="region_states",
            field=models.JSONField(blank=True, default=dict, help_text="region: whether AWS has it turned on"),
        ),
    ]
