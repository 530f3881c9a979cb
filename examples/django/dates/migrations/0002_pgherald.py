from django.db import migrations

from listener.django.operations import Watch


class Migration(migrations.Migration):
    dependencies = [("dates", "0001_initial")]
    operations = [Watch("dateplan_verified", "DatePlan", field="status", becomes="VE")]
