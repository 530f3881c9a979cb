"""Install pgherald's triggers, from the same file that `pgherald install` and psql run.

This is the only place in the project that knows pgherald. It reads a file and imports nothing of pgherald.
"""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from django.db import migrations

RULE = "dateplan_verified"


def triggers_sql() -> str:
    """Return the text of triggers.sql: from the installed package, or in a checkout from the folder sql/."""
    name = "sql/triggers.sql"
    if find_spec("listener") is not None and (shipped := files("listener") / name).is_file():
        return shipped.read_text(encoding="utf-8")
    return (Path(__file__).parents[4] / name).read_text(encoding="utf-8")


def install(apps, schema_editor):
    table = apps.get_model("dates", "DatePlan")._meta.db_table
    # Without params=None, psycopg would read each % in the file as a parameter.
    schema_editor.execute(triggers_sql(), params=None)
    schema_editor.execute("SELECT pgherald.watch(%s, %s::regclass)", [RULE, table])


def uninstall(apps, schema_editor):
    # The outbox stays, with the history of the emails that were sent. `pgherald uninstall` removes it, too.
    schema_editor.execute("SELECT pgherald.unwatch(%s)", [RULE])


def snapshot(apps, schema_editor):
    """Record the plans that are verified already, so that a later `pgherald backfill` does not create events for them."""
    more = True
    while more:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("CALL pgherald.snapshot_existing(%s)", [RULE])
            [more] = cursor.fetchone()


class Migration(migrations.Migration):
    # The snapshot reads the table in pages, each in its own transaction, so that no lock is held for long.
    atomic = False
    dependencies = [("dates", "0001_initial")]
    operations = [
        migrations.RunPython(install, uninstall, atomic=True),
        migrations.RunPython(snapshot, migrations.RunPython.noop),
    ]
