import django.db.models.fields.json
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("patching", "0001_baselines_groups_and_pinned_sets"),
    ]

    operations = [
        migrations.AddField(
            model_name="write",
            name="changed_at",
            field=models.DateTimeField(help_text="since when AWS has at least a part of it", null=True),
        ),
        migrations.AddConstraint(
            model_name="write",
            constraint=models.UniqueConstraint(
                models.F("region"),
                models.F("name"),
                django.db.models.fields.json.KeyTextTransform("operating_system", "argument"),
                condition=models.Q(("deed", "create"), ("state", "open")),
                name="one_open_making_a_name",
            ),
        ),
    ]
