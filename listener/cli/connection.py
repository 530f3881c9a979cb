"""The connection of the commands that read or change the outbox."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from listener.config.settings import Settings
from listener.db.connection import connect
from listener.db.schema_version import check_version


@contextmanager
def outbox_connection(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """Connect as the daemon does, to a database whose schema this pgherald can use.

    Raises:
        SchemaError: The schema is missing, or this pgherald cannot use it.
        DatabaseUnavailable: The database does not answer.
    """
    with connect(settings.database.url) as conn:
        check_version(conn)
        yield conn
