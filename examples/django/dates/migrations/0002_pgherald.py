"""Puts pgherald's triggers into the database, from the very file that `pgherald install` and psql run.

This is the only place that knows of pgherald, and it only reads a file: at run time nothing of it is imported.
"""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from django.db import migrations

RULE = "dateplan_verified"


def triggers_sql() -> str:
    """Out of the installed package, or, in a checkout, from beside it."""
    name = "sql/triggers.sql"
    if find_spec("listener") is not None and (shipped := files("listener") / name).is_file():
        return shipped.read_text(encoding="utf-8")
    return (Path(__file__).parents[4] / name).read_text(encoding="utf-8")


def install(apps, schema_editor):
    table = apps.get_model("dates", "DatePlan")._meta.db_table
    # Without parameters nothing in the file is taken for one.
    schema_editor.execute(triggers_sql(), params=None)
    schema_editor.execute("SELECT pgherald.watch(%s, %s::regclass)", [RULE, table])


def uninstall(apps, schema_editor):
    # The outbox stays, with what it says about mails already sent; `pgherald uninstall` takes that too.
    schema_editor.execute("SELECT pgherald.unwatch(%s)", [RULE])


def remember(apps, schema_editor):
    """Plans verified before today were never missed: a later `pgherald backfill` leaves them out."""
    more = True
    while more:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("CALL pgherald.remember(%s)", [RULE])
            [more] = cursor.fetchone()


class Migration(migrations.Migration):
    # Remembering reads the table in pages, each in a transaction of its own, so that nothing is held for long.
    atomic = False
    dependencies = [("dates", "0001_initial")]
    operations = [
        migrations.RunPython(install, uninstall, atomic=True),
        migrations.RunPython(remember, migrations.RunPython.noop),
    ]
