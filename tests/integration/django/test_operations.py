"""The operations Watch, Unwatch and Rewatch, in migrations that Django applies to a real PostgreSQL."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from listener.config.rules import Rule
from listener.db.install import watch_call
from tests.fixtures.django_project import ConnectDjango
from tests.support.database import Database, install_triggers

APP = "shop"
TRIGGERS = """
    SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname LIKE 'pgherald%' ORDER BY 1, 2"""


class Migrations:
    """Applies lists of operations as migrations, one after another, and keeps the state of the models."""

    def __init__(self) -> None:
        from django.db.migrations.state import ProjectState

        self.state = ProjectState()
        self._applied: list[tuple[Any, Any]] = []

    def apply(self, *operations: Any, atomic: bool = True, collect: bool = False) -> list[str]:
        from django.db import connection, migrations

        kind = type("Migration", (migrations.Migration,), {"operations": list(operations), "atomic": atomic})
        migration = kind("0001_test", APP)
        before = self.state.clone()
        with connection.schema_editor(atomic=atomic, collect_sql=collect) as editor:
            # apply() changes the state that it is given, also when it fails.
            self.state = migration.apply(before.clone(), editor, collect_sql=collect)
        if not collect:
            self._applied.append((before, migration))
        return list(editor.collected_sql) if collect else []

    def reverse(self) -> None:
        from django.db import connection

        self.state, migration = self._applied.pop()
        with connection.schema_editor(atomic=migration.atomic) as editor:
            migration.unapply(self.state, editor)


@pytest.fixture
def database(bare_database: Database, connect_django: ConnectDjango) -> Iterator[Database]:
    from django.db import connections

    connect_django(bare_database.url)
    yield bare_database
    connections.close_all()


@pytest.fixture
def migrations(database: Database) -> Migrations:
    return Migrations()


def order(name: str = "Order", table: str = "", **fields: Any) -> Any:
    from django.db import migrations, models

    every: dict[str, Any] = {
        "id": models.BigAutoField(primary_key=True),
        "status": models.CharField(max_length=2, default="PE", db_default="PE"),
        **fields,
    }
    options = {"db_table": table} if table else {}
    return migrations.CreateModel(name, [(k, v) for k, v in every.items() if v is not None], options)


def watch(model: str = "Order", field: str = "status", becomes: object = "VE", **options: Any) -> Any:
    from listener.django.operations import Watch

    return Watch("order_paid", model, field=field, becomes=becomes, **options)


def as_role(role: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")


def rule(database: Database) -> Any:
    return database.execute(
        'SELECT "table"::text, key, "column", becomes[1], capture, snapshot_done FROM pgherald.rule'
    )


def keys(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


def test_it_does_what_install_does(migrations: Migrations, database: Database) -> None:
    migrations.apply(order())
    migrations.apply(watch())
    made = database.execute(TRIGGERS), rule(database)
    migrations.reverse()
    assert database.execute(TRIGGERS) == [] == rule(database)
    configured = Rule(table="public.shop_order", becomes="VE", template="x", lookup="%(keys)s")
    database.execute(watch_call("order_paid", configured))  # type: ignore[arg-type]
    database.execute("CALL pgherald.snapshot_existing('order_paid')")
    assert (database.execute(TRIGGERS), rule(database)) == made
    assert len(made[0]) == 2


STATES = [
    {"field": "status", "becomes": ["VE", "DE"]},
    {"when": "new.status = 'VE' AND new.total >= 100", "from_": "old.status = 'PE'"},
    {"field": "status", "becomes": "VE", "changes": ["total"], "capture": "statement"},
]


@pytest.mark.parametrize("state", STATES, ids=["list", "when", "changes"])
def test_every_state_is_watched_as_install_does(
    migrations: Migrations, database: Database, state: dict[str, Any]
) -> None:
    from django.db import models

    from listener.django.operations import Watch

    every = 'SELECT key, "column", becomes, "when", "from", changes, capture FROM pgherald.rule'
    migrations.apply(order(total=models.IntegerField(default=0, db_default=0)))
    migrations.apply(Watch("order_paid", "Order", **state))
    made = database.execute(TRIGGERS), database.execute(every)
    assert "order_paid" in Watch("order_paid", "Order", **state).describe()
    database.execute("INSERT INTO shop_order (status, total) VALUES ('PE', 100), ('PE', 99)")
    database.execute("UPDATE shop_order SET status = 'VE'")
    assert keys(database) == (["1"] if "when" in state else ["1", "2"])
    migrations.reverse()
    assert database.execute(TRIGGERS) == []
    named = {{"field": "column", "from_": "from"}.get(key, key): value for key, value in state.items()}
    configured = Rule.model_validate({"table": "public.shop_order", "template": "x", "lookup": "%(keys)s", **named})
    database.execute(watch_call("order_paid", configured))  # type: ignore[arg-type]
    assert (database.execute(TRIGGERS), database.execute(every)) == made


@pytest.mark.parametrize("atomic", [True, False])
def test_one_migration_creates_a_table_and_watches_it(migrations: Migrations, database: Database, atomic: bool) -> None:
    migrations.apply(order(), watch(), atomic=atomic)
    database.execute("INSERT INTO shop_order (status) VALUES ('PE'), ('VE')")
    assert keys(database) == ["2"]
    migrations.reverse()
    assert database.value("SELECT to_regclass('shop_order')") is None
    assert keys(database) == ["2"], "the history was lost"


def test_rows_that_have_the_value_already_need_no_event(migrations: Migrations, database: Database) -> None:
    migrations.apply(order())
    database.execute("INSERT INTO shop_order (status) VALUES ('VE'), ('PE')")
    migrations.apply(watch())
    assert database.execute("SELECT key, why FROM pgherald.handled") == [("1", "existing")]
    assert rule(database) == [("shop_order", ["id"], "status", "VE", "row", True)]


def test_a_migration_that_fails_leaves_nothing(migrations: Migrations, database: Database) -> None:
    from django.db import migrations as django_migrations
    from django.db.utils import DataError

    migrations.apply(order())
    with pytest.raises(DataError):
        migrations.apply(watch(), django_migrations.RunSQL("SELECT 1/0"))
    assert database.execute(TRIGGERS) == []
    assert database.value("SELECT to_regnamespace('pgherald')") is None


def test_an_operation_that_fails_leaves_nothing_without_a_transaction_around_it(
    migrations: Migrations, database: Database
) -> None:
    from django.db import DatabaseError

    migrations.apply(order())
    with pytest.raises(DatabaseError, match='capture is per "row" or per "statement"'):
        migrations.apply(watch(capture="rows"), atomic=False)
    assert database.value("SELECT to_regnamespace('pgherald')") is None


@pytest.mark.parametrize(
    ("becomes", "value"), [(True, "true"), (3, "3"), ("VE", "VE")], ids=["boolean", "number", "text"]
)
def test_values_of_other_types(migrations: Migrations, database: Database, becomes: object, value: str) -> None:
    from django.db import models

    field = {bool: models.BooleanField(), int: models.IntegerField(), str: models.TextField()}[type(becomes)]
    migrations.apply(order(status=field), watch(becomes=becomes))
    database.execute("INSERT INTO shop_order (status) VALUES (%s)", (becomes,))
    assert keys(database) == ["1"]
    assert rule(database)[0][3] == value


def test_names_that_the_model_sets(migrations: Migrations, database: Database) -> None:
    from django.db import models

    database.execute('CREATE SCHEMA "Old Shop"')
    migrations.apply(
        order(
            table='"Old Shop"."100% Orders"',
            id=models.UUIDField(primary_key=True, db_column="Order No"),
            status=models.CharField(max_length=2, db_column="State %s"),
        ),
        watch(),
    )
    assert rule(database) == [('"Old Shop"."100% Orders"', ["Order No"], "State %s", "VE", "row", True)]
    key = uuid.uuid4()
    database.execute("""INSERT INTO "Old Shop"."100% Orders" VALUES ($1, 'VE')""".replace("$1", f"'{key}'"))  # type: ignore[arg-type]
    assert keys(database) == [str(key)]


def test_a_composite_primary_key(migrations: Migrations, database: Database) -> None:
    from django.db import models

    fields = {
        "pk": models.CompositePrimaryKey("tenant", "number"),
        "tenant": models.IntegerField(db_column="tenant_id"),
        "number": models.IntegerField(),
    }
    migrations.apply(order(id=None, **fields), watch(capture="statement"))
    assert rule(database) == [("shop_order", ["tenant_id", "number"], "status", "VE", "statement", True)]


def test_a_field_of_another_table_is_refused(migrations: Migrations) -> None:
    from django.core.management.base import CommandError
    from django.db import migrations as django_migrations
    from django.db import models

    migrations.apply(
        order(tags=models.ManyToManyField("shop.Order")),
        django_migrations.CreateModel("Gift", [("wrapped", models.BooleanField(default=False))], bases=("shop.order",)),
    )
    with pytest.raises(
        CommandError, match=r"shop.Gift.status: is in the table of shop.Order; watch that model instead"
    ):
        migrations.apply(watch("Gift"))
    with pytest.raises(CommandError, match=r"shop.Order.tags: has no column in the table"):
        migrations.apply(watch(field="tags"))


def test_sqlmigrate_shows_all_of_it(migrations: Migrations, database: Database) -> None:
    install_triggers(database.connect())
    migrations.apply(order())
    sql = "\n".join(migrations.apply(watch(), collect=True))
    assert (
        "SELECT pgherald.watch('order_paid', '\"shop_order\"'::regclass, '{id}'::text[], 'status', '{VE}'::text[], NULL, NULL, '{}'::text[], 'row')"
        in sql
    )
    assert "CALL pgherald.snapshot_existing('order_paid')" in sql
    assert database.execute(TRIGGERS) == []


def test_it_can_be_written_and_squashed(django_project: None) -> None:
    from django.db.migrations.optimizer import MigrationOptimizer
    from django.db.migrations.writer import OperationWriter

    from listener.django.operations import Rewatch

    for operation in (watch(), Rewatch("order_paid", [watch()])):
        text, imports = OperationWriter(operation, indentation=0).serialize()
        made: dict[str, Any] = {}
        exec("\n".join([*imports, f"made = {text.rstrip().rstrip(',')}"]), made)
        assert OperationWriter(made["made"], indentation=0).serialize() == (text, imports)
    from django.db import migrations, models

    added = migrations.AddField("Other", "note", models.TextField(default=""))
    # The operation on another model passes it, and none on its own.
    squashed = MigrationOptimizer().optimize([order("Other", "o"), order(), watch(), added], APP)
    assert [type(each).__name__ for each in squashed] == ["CreateModel", "Watch", "CreateModel"]
    kept = [order(), watch(), migrations.RemoveField("Order", "status")]
    assert MigrationOptimizer().optimize(kept, APP) == kept


def test_other_databases_are_left_alone(migrations: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their vendor, or because a router sends the model elsewhere."""
    from django.db import connection, router

    migrations.apply(order())
    with monkeypatch.context() as patch:
        patch.setattr(connection, "vendor", "sqlite")
        migrations.apply(watch())
        migrations.reverse()

    class Elsewhere:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            return app_label != APP

    monkeypatch.setattr(router, "routers", [Elsewhere()])
    migrations.apply(watch())
    migrations.reverse()
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('pgherald')")
        assert cursor.fetchone() == (None,)


class TestRights:
    """The role of the migrations owns the tables, and no more."""

    @pytest.fixture(autouse=True)
    def owner(self, migrations: Migrations, database: Database) -> None:
        migrations.apply(order())
        database.execute("ALTER TABLE shop_order OWNER TO pg_monitor")
        as_role("pg_monitor")

    def test_without_the_schema_the_error_says_to_install(self, migrations: Migrations) -> None:
        from django.core.management.base import CommandError

        with pytest.raises(CommandError, match=r"^rule order_paid: schema pgherald is missing, and role pg_monitor may not create it; run `pgherald install`"):  # fmt: skip
            migrations.apply(watch())

    def test_after_install_the_migration_has_nothing_to_do(self, migrations: Migrations, database: Database) -> None:
        from django.core.management.base import CommandError

        install_triggers(database.connect())
        with pytest.raises(CommandError, match=r"^rule order_paid: role pg_monitor may not watch it; run `pgherald install`"):  # fmt: skip
            migrations.apply(watch())
        database.execute("SELECT pgherald.watch('order_paid', 'shop_order')")
        migrations.apply(watch())
        with pytest.raises(CommandError, match=r"may not drop its triggers; run SELECT pgherald.unwatch\('order_paid'\)"):  # fmt: skip
            migrations.reverse()

    def test_a_change_without_the_triggers_is_refused(self, migrations: Migrations, database: Database) -> None:
        from django.core.management.base import CommandError
        from django.db import migrations as django_migrations
        from django.db import models

        from listener.django.operations import Rewatch

        install_triggers(database.connect())
        database.execute("SELECT pgherald.watch('order_paid', 'shop_order')")
        longer = django_migrations.AlterField("Order", "status", models.CharField(max_length=20))
        with pytest.raises(CommandError, match=r'may not drop its triggers; .* `pgherald rewatch order_paid --alter "STATEMENT"`.* `sqlmigrate shop MIGRATION` .*`migrate shop MIGRATION --fake`'):  # fmt: skip
            migrations.apply(Rewatch("order_paid", [longer]))
        as_printed = migrations.apply(Rewatch("order_paid", [longer]), collect=True)
        assert "-- by `pgherald rewatch order_paid --alter`:" in as_printed
        assert 'ALTER TABLE "shop_order" ALTER COLUMN "status" TYPE varchar(20)' in "".join(as_printed)

    def test_the_schemas_owner_may_do_all(self, migrations: Migrations, database: Database) -> None:
        database.execute("GRANT CREATE ON DATABASE " + database.value("SELECT quote_ident(current_database())") + " TO pg_monitor")  # type: ignore[operator]  # fmt: skip
        migrations.apply(watch())
        assert database.value("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'pgherald'") == "pg_monitor"  # fmt: skip
        database.execute("INSERT INTO shop_order (status) VALUES ('VE')")
        assert keys(database) == ["1"]


class TestChanges:
    @pytest.fixture(autouse=True)
    def paused(self, migrations: Migrations, database: Database) -> None:
        """A rule with something to lose: it is paused, and has a row that needs no event."""
        migrations.apply(order())
        database.execute("INSERT INTO shop_order (status) VALUES ('VE')")
        migrations.apply(watch())
        database.execute("UPDATE pgherald.rule SET paused_at = now()")

    @pytest.fixture
    def kept(self, database: Database) -> Callable[[], bool]:
        def check() -> bool:
            paused = database.value("SELECT paused_at IS NOT NULL FROM pgherald.rule")
            return bool(paused) and database.execute("SELECT key FROM pgherald.handled") == [("1",)]

        return check

    def test_another_type(self, migrations: Migrations, database: Database, kept: Callable[[], bool]) -> None:
        from django.db import migrations as django_migrations
        from django.db import models
        from django.db.utils import NotSupportedError

        from listener.django.operations import Rewatch

        wider = django_migrations.AlterField("Order", "status", models.CharField(max_length=9))
        with pytest.raises(NotSupportedError, match="cannot alter type of a column used in a trigger definition"):
            migrations.apply(wider)
        migrations.apply(Rewatch("order_paid", [wider]))
        database.execute("INSERT INTO shop_order (status) VALUES ('VE')")
        assert keys(database) == ["2"]
        assert kept()
        migrations.reverse()
        assert len(database.execute(TRIGGERS)) == 2
        assert kept()

    def test_other_names(self, migrations: Migrations, database: Database, kept: Callable[[], bool]) -> None:
        from django.db import migrations as django_migrations

        from listener.django.operations import Rewatch

        renames = [
            django_migrations.RenameField("Order", "status", "phase"),
            django_migrations.RenameField("Order", "id", "number"),
            django_migrations.RenameModel("Order", "Purchase"),
        ]
        migrations.apply(Rewatch("order_paid", renames))
        assert rule(database) == [("shop_purchase", ["number"], "phase", "VE", "row", True)]
        database.execute("INSERT INTO shop_purchase (phase) VALUES ('VE')")
        assert keys(database) == ["2"]
        assert kept()
        migrations.reverse()
        assert rule(database) == [("shop_order", ["id"], "status", "VE", "row", True)]
        assert kept()

    def test_a_rule_that_nothing_watches(self, migrations: Migrations, database: Database) -> None:
        from django.db import migrations as django_migrations

        from listener.django.operations import Rewatch

        migrations.reverse()
        migrations.apply(Rewatch("order_paid", [django_migrations.RenameField("Order", "status", "phase")]))
        assert rule(database) == []

    def test_unwatch_and_its_reverse(self, migrations: Migrations, database: Database) -> None:
        from listener.django.operations import Unwatch

        migrations.apply(Unwatch("order_paid", "Order", field="status", becomes="VE"))
        assert database.execute(TRIGGERS) == [] == rule(database)
        migrations.reverse()
        assert len(database.execute(TRIGGERS)) == 2
        assert len(rule(database)) == 1
