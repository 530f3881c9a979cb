"""Questions to the catalogs, on a database with and without pgherald."""

from collections.abc import Iterator

import pytest

from tests.fixtures.django_project import ConnectDjango
from tests.support.database import Database, install_triggers


@pytest.fixture
def database(bare_database: Database, connect_django: ConnectDjango) -> Iterator[Database]:
    from django.db import connections

    connect_django(bare_database.url)
    bare_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    yield bare_database
    connections.close_all()


@pytest.mark.parametrize("server_side_binding", [True, False])
def test_what_each_role_is_told(database: Database, server_side_binding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    from listener.django.catalog import read_capture, read_rule

    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"server_side_binding": server_side_binding})
    nothing = read_capture(connection, "paid", '"orders"')
    assert (nothing.installed, nothing.may_install, nothing.may_watch, nothing.watched) == (False, True, False, False)
    install_triggers(database.connect())
    database.execute("SELECT pgherald.watch('paid', 'orders')")
    owner = read_capture(connection, "paid", '"orders"')
    assert (owner.installed, owner.may_watch, owner.may_read, owner.watched, owner.lacks) == (
        True,
        True,
        True,
        True,
        None,
    )
    assert read_rule(connection, "unpaid") is None
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE pg_monitor")
    other = read_capture(connection, "paid", '"orders"')
    assert (other.installed, other.may_install, other.may_watch, other.may_read) == (True, False, False, False)
    assert (other.watched, other.role) == (True, "pg_monitor")


def test_triggers_count_on_the_table_itself(database: Database) -> None:
    from django.db import connection

    from listener.django.catalog import read_capture

    install_triggers(database.connect())
    database.execute("SELECT pgherald.watch('paid', 'orders')")
    database.execute("ALTER TABLE orders RENAME TO old; CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    assert read_capture(connection, "paid", '"orders"').triggers == 0
    assert read_capture(connection, "paid", None).triggers == 2
    # A table that does not exist has none of them.
    assert read_capture(connection, "paid", '"nowhere"').triggers == 0
