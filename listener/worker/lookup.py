"""A rule's lookup: one query for a batch returns the recipients, their consent, and the columns for the template."""

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8

from listener.address import parse_address
from listener.config.keys import array_literal, key_text, value_text
from listener.config.rules import OWN_COLUMNS, Rule
from listener.db.errors import ON_STANDBY, is_by_data, is_unavailable, lookup_failure, summary, unavailable
from listener.db.owner import execute_as_owner
from listener.db.pool import Pool
from listener.errors import BadData, DatabaseUnavailable, PgheraldError, RuleBroken
from listener.outbox.event import Event, row_name
from listener.worker.decision import NotToSend, ToSend
from listener.worker.lookup_result import LookupResult, TooManyRows
from listener.worker.row_budget import MAX_BATCH_BYTES, MAX_ROW_BYTES, MAX_ROWS, limit_rows
from listener.worker.row_security import require_visible_rows
from listener.worker.watched_state import HAS_VALUE, IN_STATE, WatchedState
from listener.worker.watched_value import broken

Cursor = psycopg.AsyncCursor[Any]
_STANDBY = "it reached a standby, which may not have the row yet; point [database] lookup_url, or url, at the primary"


class Lookup:
    """A rule's query.

    `as_owner`: run it with the rights of the table's owner if the role is a superuser. The commands do that. The daemon
    does not: it would need one more statement for each batch. Its role is not a superuser, or it has a login for lookups.
    """

    def __init__(self, name: str, rule: Rule, *, as_owner: bool = False) -> None:
        self.name = name
        self.rule = rule
        self._as_owner = as_owner
        self._query = f"-- name: lookup {name}\n{rule.lookup.strip().rstrip(';')}"
        self._columns: list[str] = []
        self._bounded: str | None = None
        self._state: WatchedState | None = None

    async def check(self, lookups: Pool) -> frozenset[str]:
        """Return the lookup's columns.

        Raises:
            RuleBroken: The query fails, or does not return a column that is needed.
            DatabaseUnavailable: The database cannot be reached.
        """
        try:
            async with lookups.connection() as session:
                return await self._learn_columns(session)
        except (psycopg.Error, OSError, TimeoutError) as exc:
            raise self._failure(exc) from exc

    async def _learn_columns(self, conn: psycopg.AsyncConnection[Any]) -> frozenset[str]:
        """Run the query without a key, and build the bounded query from the columns and types that it returns."""
        cursor = conn.cursor()
        await self._execute(cursor, self._query, [], 0)
        described = cursor.description or []
        columns = frozenset(column.name for column in described)
        for column in (*OWN_COLUMNS, *filter(None, [self.rule.each]), *self.rule.require):
            if column not in columns:
                raise RuleBroken(f"the lookup of rule {self.name} returns no column {column!r}; add it to the SELECT")
        comment, _, lookup = self._query.partition("\n")
        self._state = await WatchedState.read(conn, self.name, self.rule)
        query = f"{comment}\n{limit_rows(lookup, described, self._state, self.rule.each)}"
        try:
            await self._run_bounded(cursor, query, [], 0)
        except psycopg.errors.SyntaxError as exc:
            raise RuleBroken(
                f"the lookup of rule {self.name} cannot be used as a subquery ({summary(exc)}); "
                "write a single SELECT without a semicolon inside"
            ) from exc
        self._columns, self._bounded = [column.name for column in described], query
        return columns

    async def _execute(
        self, cursor: Cursor, query: str, of: Sequence[str], budget: int, people: Collection[str] | None = None
    ) -> None:
        if self._as_owner:
            # Commands read the rows of all people.
            query = query.replace("%(budget)s", str(budget)).replace("%(people)s", "NULL")
            await execute_as_owner(cursor, self.rule.table, query, of)
        else:
            wanted = array_literal(list(people)) if people is not None else None
            await cursor.execute(query, {"keys": list(of), "budget": Int8(budget), "people": wanted})

    async def rows(
        self, pool: Pool, of: Sequence[str], budget: int = MAX_BATCH_BYTES, people: Collection[str] | None = None
    ) -> LookupResult:
        """Return the rows of these keys: up to `budget` octets, and the first row in any case.

        `people` are those whose rows are wanted, of a rule with `each`; None: all.

        Raises:
            TooManyRows: There are more rows than fit into one answer. Ask for fewer keys.
            RuleBroken: The query fails for every key.
            BadData: The query fails on the data of these keys.
            DatabaseUnavailable: The database cannot be reached.
        """
        try:
            async with pool.connection() as conn:
                try:
                    rows = await self._fetch(conn, of, budget, people)
                except (psycopg.ProgrammingError, psycopg.NotSupportedError) as exc:
                    if self._bounded is None or is_by_data(exc):
                        raise
                    # A column may have another type now than when the query was prepared. Read the columns again.
                    await conn.execute("DEALLOCATE ALL", prepare=False)
                    self._bounded = None
                    rows = await self._fetch(conn, of, budget, people)
                # Rows may be missing in the lookup's answer, or in the rule's table.
                if len(rows) < len(of) or any(given and state is None for _, given, state, *_ in rows):
                    await require_visible_rows(conn, self.name, self.rule)
        except (psycopg.Error, OSError, TimeoutError) as exc:
            if is_by_data(exc) and of:
                if len(of) == 1:
                    # Without a key it fails only if the query itself is the cause.
                    await self.rows(pool, [])
                # The server's message may quote the row.
                raise BadData("lookup_error", f"{type(exc).__name__} (SQLSTATE {exc.sqlstate})") from exc
            raise self._failure(exc) from exc
        except PgheraldError:
            raise
        except Exception as exc:
            # For example text that is not UTF-8, a number too long for Python, or JSON nested too deeply.
            raise BadData("lookup_error", f"a value cannot be read ({type(exc).__name__})") from exc
        if len(rows) > MAX_ROWS and len(of) > 1:
            raise TooManyRows("lookup_error", f"more than {MAX_ROWS} rows")
        return self._found(of, rows)

    async def _fetch(
        self, conn: psycopg.AsyncConnection[Any], of: Sequence[str], budget: int, people: Collection[str] | None = None
    ) -> list[tuple[Any, ...]]:
        if self._bounded is None:
            await self._learn_columns(conn)
        assert self._bounded is not None
        async with conn.cursor(row_factory=tuple_row) as cursor:
            return await self._run_bounded(cursor, self._bounded, of, budget, people)

    async def _run_bounded(
        self, cursor: Cursor, query: str, of: Sequence[str], budget: int, people: Collection[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the bounded query's rows. On a standby, close the session: the next one may lead to the primary."""
        await self._execute(cursor, query, of, budget, people)
        rows = await cursor.fetchall()
        standby, value_exists, *_ = rows[0]
        if standby:
            await cursor.connection.close()
            raise psycopg.OperationalError(ON_STANDBY)
        if not value_exists:
            values = self._state.values if self._state else ()
            raise broken(self.name, self.rule, " or ".join(self.rule.becomes), values[0].type if values else None)
        return [tuple(rest) for _, _, *rest in rows if rest[0] is not None]

    def _found(self, of: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> LookupResult:
        position = len(self._columns) - 1 - self._columns[::-1].index("key")
        found = LookupResult({key: [] for key in of})
        for octets, given, state, *values in rows:
            key = key_text(values[position])
            # A char(n) key is captured without its trailing blanks, and the lookup returns it with them.
            key = key if key in found.rows else key.rstrip(" ")
            name = key
            if self.rule.each:
                person = values.pop()
                found.people.setdefault(key, []).append(person)
                name = row_name(key, person)
            found.octets[name] = found.octets.get(name, 0) + octets
            if given:
                found.rows.setdefault(name, []).append(dict(zip(self._columns, values, strict=True)))
                if state is None:
                    found.gone.add(key)
                elif state != IN_STATE:
                    found.reverted[key] = self._present(state)
            elif octets > MAX_ROW_BYTES:
                found.too_large[name] = octets
            else:
                found.later.add(name)
        return found

    def _present(self, state: str) -> str:
        """Return how a row is now that is not in the state. `state` is the answer of `WatchedState`."""
        if self.rule.when:
            return "the row no longer matches `when`"
        shown = state.removeprefix(HAS_VALUE) if state.startswith(HAS_VALUE) else "NULL"
        return f"{self.rule.column} is now {shown}"

    def decide(self, event: Event, found: LookupResult) -> ToSend | NotToSend:
        """Decide whether to send, and to whom, by the row as it is now."""
        if event.person is not None and not self.rule.each:
            detail = "the event is for one person of the row, and the rule has no `each`; restore it, and retry"
            return NotToSend(event, "ambiguous", detail, failed=True)
        rows = found.rows.get(event.row_name, [])
        if not rows or event.key in found.gone:
            return NotToSend(event, "row_gone")
        if len(rows) > 1:
            return NotToSend(event, "ambiguous", self._several(len(rows)), failed=True)
        row = rows[0]
        if event.key in found.reverted:
            return NotToSend(event, "reverted", found.reverted[event.key])
        email = row["email"]
        if email is None or not str(email).strip():
            return NotToSend(event, "no_recipient")
        if row["consent"] is not True:
            return NotToSend(event, "no_consent", f"consent is {_shown(row['consent'])}")
        for column in self.rule.require:
            if row.get(column) is None:
                return NotToSend(event, "incomplete", f"{column} is NULL")
        try:
            recipient = parse_address(str(email))
        except BadData as exc:
            return NotToSend(event, exc.reason, str(exc), failed=True)
        return ToSend(event, recipient, row, found.octets.get(event.row_name, 0))

    def _several(self, rows: int) -> str:
        if self.rule.each:
            return f"the lookup returns {rows} rows for this key and person; return one row a person"
        return f"the lookup returns {rows} rows for this key; return one, or set `each` if each is for another person"

    def _failure(self, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
        if is_unavailable(exc) and not is_by_data(exc):
            reason = summary(exc).replace(ON_STANDBY, _STANDBY)
            return unavailable(f"the lookup of rule {self.name} cannot run: {reason}", exc)
        assert isinstance(exc, psycopg.Error)
        return lookup_failure(self.name, exc)


def too_large(event: Event, octets: int) -> NotToSend:
    """Return the decision for an event whose row exceeds the limit."""
    detail = f"the lookup's row has {octets} octets; at most {MAX_ROW_BYTES} are read"
    return NotToSend(event, "too_large", detail, failed=True)


def _shown(value: object) -> str:
    return "NULL" if value is None else value_text(value)[:40]
