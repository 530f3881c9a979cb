"""A field in the database: its table, column and key, and its value as text."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db import router


def applies(connection: Any, model: Any) -> bool:
    """Return whether an operation on `model` has to do anything in this database."""
    return connection.vendor == "postgresql" and bool(router.allow_migrate_model(connection.alias, model))


def names(connection: Any, model: Any, field: str | None) -> tuple[str, str | None, Sequence[str]]:
    """Return a model's table as SQL writes it, the column of a field if one is named, and the primary key's columns.

    Raises:
        CommandError: The field has no column in the model's own table.
    """
    options = model._meta
    key = [part.column for part in options.pk_fields]
    if field is None:
        return connection.ops.quote_name(options.db_table), None, key
    found = options.get_field(field)
    # A many-to-many field has a name of a column, and a table of its own.
    if getattr(found, "column", None) is None or found.many_to_many:
        raise CommandError(f"{options.label}.{field}: has no column in the table; watch a field that has one")
    if found.model._meta.db_table != options.db_table:
        raise CommandError(
            f"{options.label}.{field}: is in the table of {found.model._meta.label}; watch that model instead"
        )
    return connection.ops.quote_name(options.db_table), found.column, key


def as_sql(value: object) -> str:
    """Return a value of a field as PostgreSQL writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
