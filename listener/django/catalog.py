"""The database's catalogs: they say how a rule is watched, to a role without any privilege on the schema too."""

from dataclasses import dataclass
from typing import Any

# Each rule has these two triggers. A partitioned table has more, which `pgherald doctor` checks.
MIN_TRIGGERS = 2

_CAPTURE = """
    SELECT schema.oid IS NOT NULL,
           has_database_privilege(current_database(), 'CREATE'),
           coalesce((SELECT bool_and(pg_has_role(proowner, 'USAGE'))
                       FROM pg_proc WHERE pronamespace = schema.oid AND proname = 'watch'), false),
           coalesce(has_schema_privilege(schema.oid, 'USAGE')
                    AND has_table_privilege(rule.oid, 'SELECT'), false),
           (SELECT count(*) FROM pg_trigger
             WHERE tgfoid = capture.oid AND tgenabled IN ('O', 'A')
               AND (%(table)s::text IS NULL OR tgrelid = to_regclass(%(table)s::text))
               AND tgname IN ('pgherald_' || %(rule)s::text || '_update', 'pgherald_' || %(rule)s::text || '_insert')),
           CASE WHEN NOT has_schema_privilege(capture.proowner, schema.oid, 'USAGE')
                THEN 'USAGE ON SCHEMA pgherald TO ' || capture.proowner::regrole
                WHEN NOT has_table_privilege(capture.proowner, inbox.oid, 'INSERT')
                THEN 'INSERT ON pgherald.inbox TO ' || capture.proowner::regrole END,
           quote_ident(current_user)
      FROM (SELECT) AS one_row
      LEFT JOIN pg_namespace AS schema ON schema.nspname = 'pgherald'
      LEFT JOIN pg_class AS rule ON rule.relnamespace = schema.oid AND rule.relname = 'rule'
      LEFT JOIN pg_class AS inbox ON inbox.relnamespace = schema.oid AND inbox.relname = 'inbox'
      LEFT JOIN pg_proc AS capture ON capture.pronamespace = schema.oid AND capture.proname = 'capture_' || %(rule)s::text"""

_RULE = """
    SELECT "column", becomes, "when", snapshot_done,
           (SELECT min(name)
              FROM unnest(key || "column" || changes) AS name
             WHERE name IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute
                                WHERE attrelid = "table" AND attname = name AND NOT attisdropped))
      FROM pgherald.rule WHERE rule = %(rule)s"""

# A rule as `REWATCH` takes it: with the numbers of its table and columns, which stay when these are renamed.
_NUMBERS = """
    SELECT rule,
           ARRAY(SELECT attnum::integer
                   FROM unnest(key) WITH ORDINALITY AS part (name, i)
                   JOIN pg_attribute ON attrelid = "table" AND attname = name ORDER BY i),
           (SELECT attnum::integer FROM pg_attribute WHERE attrelid = "table" AND attname = "column"),
           becomes, "when", "from",
           ARRAY(SELECT attnum::integer
                   FROM unnest(changes) WITH ORDINALITY AS part (name, i)
                   JOIN pg_attribute ON attrelid = "table" AND attname = name ORDER BY i),
           capture, "table"::oid::bigint
      FROM pgherald.rule WHERE rule = %s"""

REWATCH = """
    SELECT pgherald.rewatch(
               %s, class.oid::regclass,
               ARRAY(SELECT attname::text
                       FROM unnest(%s::integer[]) WITH ORDINALITY AS part (number, i)
                       JOIN pg_attribute ON attrelid = class.oid AND attnum = number ORDER BY i),
               (SELECT attname::text FROM pg_attribute WHERE attrelid = class.oid AND attnum = %s),
               %s::text[], %s, %s,
               ARRAY(SELECT attname::text
                       FROM unnest(%s::integer[]) WITH ORDINALITY AS part (number, i)
                       JOIN pg_attribute ON attrelid = class.oid AND attnum = number ORDER BY i), %s)
      FROM pg_class AS class WHERE class.oid = %s"""


@dataclass(frozen=True, slots=True)
class Capture:
    """How a rule is captured, as far as every role may know.

    Attributes:
        installed: The schema `pgherald` exists.
        may_install: This role may create a schema.
        may_watch: This role has the rights of the owner of the schema's functions.
        may_read: This role may read `pgherald.rule`.
        triggers: How many of the rule's two triggers exist on the table and are enabled.
        lacks: A right that the owner of the capture function has lost, as a GRANT says it.
        role: This role, quoted.
    """

    installed: bool
    may_install: bool
    may_watch: bool
    may_read: bool
    triggers: int
    lacks: str | None
    role: str

    @property
    def watched(self) -> bool:
        """Return whether the rule's triggers exist and are enabled."""
        return self.triggers >= MIN_TRIGGERS


@dataclass(frozen=True, slots=True)
class WatchedRule:
    """A row of `pgherald.rule`. `gone` is a column that the rule names and its table no longer has."""

    column: str | None
    becomes: list[str] | None
    when: str | None
    snapshot_done: bool
    gone: str | None


def read_capture(connection: Any, rule: str, table: str | None) -> Capture:
    """Return how a rule is captured on `table`, a quoted name. Without a table, its triggers on any table count."""
    with connection.cursor() as cursor:
        cursor.execute(_CAPTURE, {"rule": rule, "table": table})
        return Capture(*cursor.fetchone())


def read_rule(connection: Any, rule: str) -> WatchedRule | None:
    """Return the rule as `watch()` has recorded it, or None. The role must have the right `may_read`."""
    with connection.cursor() as cursor:
        cursor.execute(_RULE, {"rule": rule})
        row = cursor.fetchone()
    return None if row is None else WatchedRule(*row)


def read_numbers(connection: Any, rule: str) -> tuple[Any, ...] | None:
    """Return the parameters of `REWATCH` for a rule as it is now, or None if it is not watched."""
    with connection.cursor() as cursor:
        cursor.execute(_NUMBERS, [rule])
        row: tuple[Any, ...] | None = cursor.fetchone()
    return row
