"""The system check: the rules that applied migrations watch are watched in the database."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import Error, connections, router
from django.db.migrations.loader import MigrationLoader

from listener.django.catalog import read_capture, read_rule
from listener.django.operations import Unwatch, Watch
from listener.django.target import as_sql

_INSTALL = "Run `pgherald install`, then look for missed rows: `pgherald backfill {rule} --dry-run`."


def check_rules(
    app_configs: Any = None, databases: Sequence[str] | None = None, **options: Any
) -> list[checks.CheckMessage]:
    """Return a warning for each fault of a rule. No error, because `migrate` refuses to start after one.

    Ids: pgherald.W001 the schema is missing; W002 triggers are missing or disabled; W003 the owner of the capture function
    lacks a right; W004 the database watches something else; W005 a watched column is gone; W006 the rows that had the
    value before are not recorded; W007 the field's choices lack the value.
    """
    messages: list[checks.CheckMessage] = []
    for alias in databases or []:
        connection = connections[alias]
        if connection.vendor != "postgresql":
            continue
        try:
            for app_label, watch in watched_rules(connection):
                messages += _faults(connection, app_label, watch)
        except Error:
            # Django reports a database that it cannot read. A check that fails would keep `migrate` from running.
            continue
    return messages


def watched_rules(connection: Any) -> list[tuple[str, Watch]]:
    """Return the last `Watch` of each rule that the migrations applied in this database still watch, with its app."""
    loader = MigrationLoader(connection, ignore_no_migrations=True)
    watched: dict[str, tuple[str, Watch]] = {}
    order = dict.fromkeys(node for leaf in loader.graph.leaf_nodes() for node in loader.graph.forwards_plan(leaf))
    for node in order:
        if node in loader.applied_migrations:
            for operation in _flat(loader.graph.nodes[node].operations):
                watched.pop(operation.rule, None)
                if not isinstance(operation, Unwatch):
                    watched[operation.rule] = (node[0], operation)
    return list(watched.values())


def _flat(operations: Iterable[Any]) -> Iterator[Watch]:
    """Yield the operations that watch, also those inside SeparateDatabaseAndState."""
    for operation in operations:
        if isinstance(operation, Watch):
            yield operation
        yield from _flat(getattr(operation, "database_operations", ()))


def _faults(connection: Any, app_label: str, watch: Watch) -> Iterator[checks.CheckMessage]:
    try:
        model = apps.get_model(watch.label(app_label))
    except LookupError:
        # It was renamed or removed later. The triggers are looked for on any table.
        model = None
    if model is not None and not router.allow_migrate_model(connection.alias, model):
        return
    yield from _strange_value(watch, model)
    rule = watch.rule
    table = None if model is None else connection.ops.quote_name(model._meta.db_table)
    found = read_capture(connection, rule, table)
    install = _INSTALL.format(rule=rule)
    if not found.installed:
        yield checks.Warning(f"rule {rule}: schema pgherald is missing.", hint=install, obj=model, id="pgherald.W001")
        return
    if not found.watched:
        where = f" on {model._meta.db_table}" if model is not None else ""
        yield checks.Warning(
            f"rule {rule}: its triggers{where} are missing or disabled, so changes are not captured.",
            hint=install, obj=model, id="pgherald.W002",
        )  # fmt: skip
    elif found.lacks is not None:
        yield checks.Warning(
            f"rule {rule}: the owner of its capture function has lost a right, so changes are not captured.",
            hint=f"As the owner of schema pgherald, run GRANT {found.lacks}.", obj=model, id="pgherald.W003",
        )  # fmt: skip
    if found.may_read:
        yield from _differences(connection, watch, model)


def _strange_value(watch: Watch, model: Any) -> Iterator[checks.CheckMessage]:
    """Warn of a value that Django's own forms could never store, such as a label instead of its value."""
    try:
        choices = [] if model is None or watch.field is None else model._meta.get_field(watch.field).flatchoices
    except FieldDoesNotExist:
        return
    known = [as_sql(value) for value, _ in choices]
    for value in [each for each in watch.values if known and each not in known]:
        yield checks.Warning(
            f"rule {watch.rule}: {value!r} is not among the choices of {watch.field}: {', '.join(known)}.",
            hint="Watch the stored value, not its label.", obj=model, id="pgherald.W007",
        )  # fmt: skip


def _differences(connection: Any, watch: Watch, model: Any) -> Iterator[checks.CheckMessage]:
    rule = watch.rule
    watched = read_rule(connection, rule)
    if watched is None:
        return
    try:
        by_field = model is not None and watch.field is not None
        column = model._meta.get_field(watch.field).column if by_field else watched.column
    except FieldDoesNotExist:
        # It was renamed or removed later.
        column = watched.column
    if watched.gone is not None:
        yield checks.Warning(
            f"rule {rule}: its table no longer has column {watched.gone}.",
            hint=f"Correct [rules.{rule}] in pgherald.toml, then run `pgherald rewatch {rule}`. "
            "In migrations, rename a watched field within Rewatch.",
            obj=model, id="pgherald.W005",
        )  # fmt: skip
    elif (watched.column, watched.becomes or [], watched.when) != (column, watch.values, watch.when):
        yield checks.Warning(
            f"rule {rule}: the database watches {_state(watched.column, watched.becomes, watched.when)}, and the "
            f"migrations {_state(column, watch.values, watch.when)}.",
            hint=f"Run `pgherald rewatch {rule}` if pgherald.toml agrees with the migrations; or correct them.",
            obj=model, id="pgherald.W004",
        )  # fmt: skip
    if not watched.snapshot_done:
        yield checks.Warning(
            f"rule {rule}: the rows that had the value before it was watched are not recorded, so "
            "`pgherald backfill` does not run.",
            hint="Run `pgherald install`.", obj=model, id="pgherald.W006",
        )  # fmt: skip


def _state(column: str | None, becomes: Sequence[str] | None, when: str | None) -> str:
    return when or f"{column} = {' or '.join(map(repr, becomes or []))}"
