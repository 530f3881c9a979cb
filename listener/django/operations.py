"""Operations of Django's migrations that watch a model's field, as `pgherald install` does for a rule."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction
from django.db.migrations.operations.base import Operation, OperationCategory

from listener.django.catalog import REWATCH, Capture, read_capture, read_numbers
from listener.django.target import applies, as_sql, names
from listener.resources import resource

_WATCH = "SELECT pgherald.watch(%s, %s::regclass, %s::text[], %s, %s::text[], %s, %s, %s::text[], %s)"
_UNWATCH = "SELECT pgherald.unwatch(%s)"
_SNAPSHOT = "CALL pgherald.snapshot_existing(%s)"


class Watch(Operation):
    """Create the triggers of a rule: an event each time that `field` of a row of `model` reaches the value `becomes`.

    `becomes` may be a list of values. `when` says the state in SQL instead of `field` and `becomes`. `from_` and `changes`
    are `from` and `changes` of docs/configuration.md, and so is `capture`; `changes` names fields. The key is the model's
    primary key. `model` may name one of another app, as `auth.User`. All must be those of the rule in pgherald.toml.

    If the schema `pgherald` is missing, the operation installs it. After the commit it records the rows that have the value
    already, so that `pgherald backfill` does not take them for missed. In reverse it drops the triggers, and events stay.
    Databases other than PostgreSQL are left as they are.

    Raises:
        CommandError: The role may not install or watch. The message says what to run.
    """

    category = OperationCategory.SQL
    # Also in a migration with `atomic = False`: the triggers exist as a whole or not at all.
    atomic = True

    def __init__(
        self,
        rule: str,
        model: str,
        field: str | None = None,
        becomes: object = None,
        capture: str = "row",
        *,
        when: str | None = None,
        from_: str | None = None,
        changes: Sequence[str] = (),
    ) -> None:
        if (when is None) == (field is None or becomes is None):
            raise TypeError(f"rule {rule}: the state must be either `field` and `becomes`, or `when`")
        self.rule = rule
        self.model = model
        self.field = field
        self.becomes = becomes
        self.capture = capture
        self.when = when
        self.from_ = from_
        self.changes = changes

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave the models' state as it is."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Watch the field."""
        self._watch(schema_editor, self._model(app_label, to_state))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop the triggers and forget the rule."""
        self._unwatch(schema_editor, self._model(app_label, from_state))

    def describe(self) -> str:
        """Return the line that `migrate --plan` and `sqlmigrate` print."""
        if self.when is not None:
            return f"Watch {self.model} where {self.when} (rule {self.rule})"
        return f"Watch {self.model}.{self.field} for {' or '.join(map(repr, self.values))} (rule {self.rule})"

    @property
    def migration_name_fragment(self) -> str:
        """Return the operation's part of a generated file name."""
        return f"watch_{self.rule}"

    @property
    def values(self) -> list[str]:
        """Return the values of `becomes` as PostgreSQL writes them."""
        values = self.becomes if isinstance(self.becomes, list | tuple) else [self.becomes]
        return [as_sql(value) for value in values] if self.when is None else []

    def label(self, app_label: str) -> str:
        """Return the model's name with its app. `app_label` is the app of the migration."""
        return self.model if "." in self.model else f"{app_label}.{self.model}"

    def references_model(self, name: str, app_label: str) -> bool:
        """Return whether `squashmigrations` must keep an operation on this model on its side of this one."""
        return self.label(app_label).lower() == f"{app_label}.{name}".lower()

    def _model(self, app_label: str, state: Any) -> Any:
        return state.apps.get_model(self.label(app_label))

    def _watch(self, schema_editor: Any, model: Any) -> None:
        connection = schema_editor.connection
        if not applies(connection, model):
            return
        table, column, key = names(connection, model, self.field)
        changes = [names(connection, model, field)[1] for field in self.changes]
        found = read_capture(connection, self.rule, table)
        if not found.installed:
            if not (found.may_install or schema_editor.collect_sql):
                raise self._refusal(found, f"schema pgherald is missing, and role {found.role} may not create it")
            # Without params=None, the driver would read each % in the file as a parameter.
            schema_editor.execute(resource("sql/triggers.sql").read_text(encoding="utf-8"), params=None)
        elif not (found.may_watch or schema_editor.collect_sql):
            if found.watched:
                return
            raise self._refusal(found, f"role {found.role} may not watch it")
        state = [column, self.values or None, self.when, self.from_, changes, self.capture]
        schema_editor.execute(_WATCH, [self.rule, table, key, *state])
        self._snapshot(schema_editor)

    def _unwatch(self, schema_editor: Any, model: Any) -> None:
        connection = schema_editor.connection
        if not applies(connection, model):
            return
        found = read_capture(connection, self.rule, None)
        if found.may_watch or schema_editor.collect_sql:
            schema_editor.execute(_UNWATCH, [self.rule])
        elif found.triggers:
            raise CommandError(
                f"rule {self.rule}: role {found.role} may not drop its triggers; run "
                f"SELECT pgherald.unwatch('{self.rule}') as the owner of schema pgherald, then migrate again"
            )

    def _snapshot(self, schema_editor: Any) -> None:
        """Record the rows that have the value already, page by page, each page in a transaction of its own."""
        connection = schema_editor.connection
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(
                f"-- after COMMIT, until it returns false: {_SNAPSHOT % repr(self.rule)};"
            )
            return

        def snapshot() -> None:
            more = True
            while more:
                with connection.cursor() as cursor:
                    cursor.execute(_SNAPSHOT, [self.rule])
                    [more] = cursor.fetchone()

        # An error here must not keep Django from recording the migration, which is committed. The check reports it.
        transaction.on_commit(snapshot, using=connection.alias, robust=True)

    def _refusal(self, found: Capture, what: str) -> CommandError:
        return CommandError(
            f"rule {self.rule}: {what}; run `pgherald install` as a role that may, then migrate again (docs/django.md)"
        )


class Unwatch(Watch):
    """Drop the triggers of a rule that an earlier migration watches. Its arguments are those of `Watch`, for the reverse.

    Events stay. The pause of the rule and its record of rows that need no event are lost.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop the triggers and forget the rule."""
        self._unwatch(schema_editor, self._model(app_label, from_state))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Watch the field again."""
        self._watch(schema_editor, self._model(app_label, to_state))

    def describe(self) -> str:
        """Return the line that `migrate --plan` and `sqlmigrate` print."""
        return f"Stop to watch {self.model}.{self.field} (rule {self.rule})"

    @property
    def migration_name_fragment(self) -> str:
        """Return the operation's part of a generated file name."""
        return f"unwatch_{self.rule}"


class Rewatch(Operation):
    """Run operations that rename or change a watched table or field, without the triggers of a rule.

    PostgreSQL refuses to change the type of a column that a trigger names. So the triggers are dropped before `operations`
    and created after them, for the table and columns as they are then called. Unlike `Unwatch` and `Watch`, this keeps
    the pause of the rule and its record of rows that need no event. The reverse runs the operations in reverse.

    Raises:
        CommandError: The role may not drop the triggers. The message says what to run.
    """

    category = OperationCategory.SQL
    atomic = True
    serialization_expand_args = ("operations",)

    def __init__(self, rule: str, operations: Sequence[Operation]) -> None:
        self.rule = rule
        self.operations = list(operations)

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change the models' state as the operations do."""
        for operation in self.operations:
            operation.state_forwards(app_label, state)

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the operations."""
        watched = self._drop(app_label, schema_editor)
        state = from_state
        for operation in self.operations:
            after = state.clone()
            operation.state_forwards(app_label, after)
            operation.database_forwards(app_label, schema_editor, state, after)
            state = after
        if watched is not None:
            schema_editor.execute(REWATCH, watched)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the operations in reverse. `to_state` is the state before them."""
        watched = self._drop(app_label, schema_editor)
        states = [to_state]
        for operation in self.operations:
            states.append(states[-1].clone())
            operation.state_forwards(app_label, states[-1])
        for operation in reversed(self.operations):
            after = states.pop()
            operation.database_backwards(app_label, schema_editor, after, states[-1])
        if watched is not None:
            schema_editor.execute(REWATCH, watched)

    def describe(self) -> str:
        """Return the line that `migrate --plan` and `sqlmigrate` print."""
        return f"Without the triggers of rule {self.rule}: {'; '.join(each.describe() for each in self.operations)}"

    def _drop(self, app_label: str, schema_editor: Any) -> tuple[Any, ...] | None:
        """Drop the rule's triggers. Return its table and the numbers of its columns, which outlive a new name."""
        connection = schema_editor.connection
        if connection.vendor != "postgresql":
            return None
        found = read_capture(connection, self.rule, None)
        if found.may_watch:
            if (watched := read_numbers(connection, self.rule)) is not None:
                schema_editor.execute("SELECT pgherald.drop_triggers(%s)", [self.rule])
            return watched
        if found.triggers:
            # `sqlmigrate` must print the statements that the remedy asks for.
            if not schema_editor.collect_sql:
                raise CommandError(
                    f"rule {self.rule}: role {found.role} may not drop its triggers; let the owner of schema pgherald run "
                    f'`pgherald rewatch {self.rule} --alter "STATEMENT"`, with the statement of '
                    f"`sqlmigrate {app_label} MIGRATION` and the schema before each table; "
                    f"then run `migrate {app_label} MIGRATION --fake`"
                )
            schema_editor.collected_sql.append(f"-- by `pgherald rewatch {self.rule} --alter`:")
        return None
