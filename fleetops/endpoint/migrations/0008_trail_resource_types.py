"""What CloudTrail calls the resources of an event. The column is added empty: the rows before are append-only."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("endpoint", "0007_inventory_compliance")]

    operations = [
        migrations.AddField(
            model_name="trailevent",
            name="resource_types",
            field=models.TextField(help_text="likewise; null in rows from before there were any", null=True),
        ),
    ]
