"""A rule's statements that change the application's tables: `unsubscribe` and `bounced`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from listener.config.rules import APPLICATION, Rule
from listener.db.connection import PATH, POLICIES_APPLY
from listener.db.errors import is_unavailable, summary, unavailable
from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, RuleBroken

_CALL = re.compile(r"\s*CALL\b", re.IGNORECASE)
# As in the session of `statement_pool`, where the statement will run.
_SESSION = f"SET LOCAL search_path = {PATH}; {POLICIES_APPLY}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of the rule `rule`. `name` is its key in the configuration."""

    rule: str
    name: Literal["unsubscribe", "bounced"]
    text: str

    async def check(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Check that the role of `conn` could run the statement, without running it. A CALL cannot be checked.

        Raises:
            RuleBroken: The statement is invalid, or the role lacks a right.
            DatabaseUnavailable: The check can be retried.
        """
        if _CALL.match(self.text):
            return
        try:
            # EXPLAIN checks the syntax, the names and the rights, and stops before it changes a row.
            async with conn.transaction():
                await conn.execute(_SESSION, prepare=False)
                await conn.execute(f"EXPLAIN {self._sql}", {"keys": [], "class": "hard", "person": None})
        except (psycopg.Error, OSError) as exc:
            raise self._failure(exc) from exc

    async def run(self, pool: Pool, key: str, values: Mapping[str, str | None] | None = None) -> int:
        """Run the statement for one row, and return how many rows it changed. `values` are its other parameters.

        A row that is gone is no error.

        Raises:
            RuleBroken: The statement fails.
            DatabaseUnavailable: The statement can be retried.
        """
        try:
            async with pool.connection() as conn:
                cursor = await conn.execute(
                    f"-- name: {self.name} {self.rule}\n{self._sql}", {"keys": [key], **(values or {})}
                )
        except (psycopg.Error, OSError) as exc:
            raise self._failure(exc) from exc
        return cursor.rowcount

    @property
    def _sql(self) -> str:
        return self.text.strip().rstrip(";")

    def _failure(self, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
        if is_unavailable(exc):
            return unavailable(f"the {self.name} statement of rule {self.rule} cannot run now: {summary(exc)}", exc)
        return RuleBroken(f"[rules.{self.rule}] {self.name} fails: {summary(exc)}")


def unsubscribe_of(name: str, rule: Rule) -> Statement | None:
    """Return the statement that withdraws consent. None: the application does it, or nobody can unsubscribe."""
    return None if rule.unsubscribe in ("", APPLICATION) else Statement(name, "unsubscribe", rule.unsubscribe)


def bounced_of(name: str, rule: Rule) -> Statement | None:
    """Return the statement that runs for a bounce or a complaint, if the rule has one. Its parameter is ``class``."""
    return Statement(name, "bounced", rule.bounced) if rule.bounced else None


def statements_of(name: str, rule: Rule) -> list[Statement]:
    """Return all statements that the rule has."""
    return [each for each in (unsubscribe_of(name, rule), bounced_of(name, rule)) if each is not None]
