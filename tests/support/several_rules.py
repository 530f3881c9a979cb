"""A configuration of several rules, each with a table of its own, and emails whose addresses name the rule."""

from collections import Counter
from collections.abc import Mapping

from psycopg import sql

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

_FROM_TABLE = "public.{table}"
# Without reading the table, so that the lookup of a backlog costs nothing.
_FROM_KEYS = "(SELECT unnest(%(keys)s::bigint[]) AS id, 'VE' AS status)"
_RULE = """
[rules.{rule}]
table = "public.{table}"
becomes = "VE"
template = "dateplan_verified"
share = {share}
lookup = \"\"\"
SELECT t.id AS key, t.status AS current, '{rule}.' || t.id || '@example.org' AS email, true AS consent, 'x' AS place
  FROM {source} AS t WHERE t.id = ANY (%(keys)s::bigint[])\"\"\"
"""


def configure(
    database: Database,
    pgherald: Pgherald,
    shares: Mapping[str, int],
    *,
    tables: Mapping[str, str] | None = None,
    rows: bool = False,
) -> None:
    """Create the rules' tables and install the rules. `shares` are by rule; each watches a table of its name, or the one in
    `tables`.

    `rows`: the lookup reads the table. Otherwise it makes up a row for each key.
    """
    text = ""
    for rule, share in shares.items():
        name = (tables or {}).get(rule, rule)
        create = "CREATE TABLE IF NOT EXISTS public.{} (id bigint PRIMARY KEY, status text)"
        database.execute(sql.SQL(create).format(sql.Identifier(name)))
        source = _FROM_TABLE.format(table=name) if rows else _FROM_KEYS
        text += _RULE.format(rule=rule, share=share, table=name, source=source)
    (pgherald.folder / "pgherald.toml").write_text(text, encoding="utf-8")
    pgherald("install", check=True)


def add_backlog(database: Database, rule: str, number: int, *, first: int = 1) -> None:
    """Let events of this rule wait, as if captured an hour ago. Its table, of the rule's name, gets the rows, uncaptured."""
    rows = sql.SQL("INSERT INTO public.{} SELECT generate_series({}, {}), 'VE'")
    with database.connect() as conn, conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(rows.format(sql.Identifier(rule), first, first + number - 1))
        conn.execute(sql.SQL("ANALYZE public.{}").format(sql.Identifier(rule)))
    database.execute(
        """INSERT INTO pgherald.outbox (rule, key, scheduled_at, captured_at)
           SELECT %s, n, now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(%s::integer, %s::integer) AS n""",
        (rule, first, first + number - 1),
    )


def rules_of(mail: MailServer) -> list[str]:
    """Return the rule of each email, in the order of arrival."""
    return [recipient.partition(".")[0] for recipient in mail.recipients]


def count_by_rule(mail: MailServer) -> Counter[str]:
    return Counter(rules_of(mail))
