"""The inbox as a worker uses it: which part of it the next claim reads."""

from listener.db.pool import Pool
from listener.db.queries import load, run_query

_QUERIES = load("outbox")

# Changes of several rules that one claim takes over. A rule's first change is found behind many of another.
TAKE_OVER_ROWS = 2000
START = "(0,0)"


class Inbox:
    """The position of this worker's claims in the inbox. A position is a row's place, `(block,row)`.

    While a backlog is taken over, claims go on from the last position. They would read the deleted rows again and again.

    `has_more`: the last claim may have left changes. `has_hidden_rules`: they may be of one rule behind those of another.
    """

    def __init__(self, pool: Pool) -> None:
        self.has_more = self.has_hidden_rules = False
        self._pool = pool
        self.position = START

    def rows(self, rules: int) -> int:
        """Return how many changes a claim for so many rules takes over, even if it claims fewer."""
        # Of a single rule, no more is taken over than can be claimed. It saves the event a row version.
        return TAKE_OVER_ROWS if rules != 1 else 0

    def was_read(self, rules: int, position: str | None, *, has_more: bool) -> None:
        """Record where a claim for so many rules found its last change, if it found one."""
        self.position = (position or self.position) if has_more else START
        self.has_more, self.has_hidden_rules = has_more, has_more and rules != 1

    async def take_over(self, rows: int = TAKE_OVER_ROWS) -> None:
        """Take over the next changes as available events."""
        values = {"start": self.position, "batch": rows, "rule": None, "key": None}
        ((has_more, position),) = await run_query(self._pool, _QUERIES["take_over"], values)
        self.was_read(0, position, has_more=has_more)

    async def shrink(self) -> None:
        """Give the inbox's file back to the system if it is large and empty."""
        await run_query(self._pool, _QUERIES["shrink_inbox"], {})
