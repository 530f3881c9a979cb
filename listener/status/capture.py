"""Watch that the database captures the events of each rule, for the readiness probe, the log and the gauge."""

import asyncio
import math
from collections.abc import Callable, Mapping

import psycopg

from listener.config.rules import Rule
from listener.db import schema
from listener.db.connection import connect_async
from listener.db.errors import summary, translate_errors
from listener.db.schema_version import usable_version
from listener.errors import PgheraldError
from listener.logs import log

# The check opens a connection and reads the catalog, so it runs less often than readiness is asked for.
_INTERVAL_S = 10.0
# Shorter than the time-out of a probe, which is 5 s in deploy/kubernetes.
_TIMEOUT_S = 2.0
# The check of a probe may be under way. This is the pause until its result is looked at.
_MIN_PAUSE_S = 1.0


class CaptureWatch:
    """Check every 10 s that the database captures, and log each change.

    `rules` returns the rules by which the daemon delivers now. With a longer `poll`, in seconds, only a probe checks so
    often.

    Attributes:
        problems: By rule, what keeps its events from being captured, or None. Empty while the database does not answer.
    """

    def __init__(self, url: str, rules: Callable[[], Mapping[str, Rule]], poll: float = 0.0) -> None:
        self.problems: dict[str, str | None] = {}
        self._url = url
        self._rules = rules
        self._pause_s = max(_INTERVAL_S, poll)
        self._state = False, "not checked yet"
        self._checked_at = -math.inf
        self._check = asyncio.Lock()
        self._logged: dict[str, str] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            ok, _ = await self.state()
            # A probe may have checked meanwhile. The next check is due one interval after that one, not later.
            due = self._checked_at + self._pause_s - asyncio.get_running_loop().time() if ok else _INTERVAL_S
            await asyncio.sleep(max(due, _MIN_PAUSE_S))

    async def state(self) -> tuple[bool, str]:
        """Return whether all rules are captured by a schema that this daemon can use, and the state in words.

        The last result is used again for less than `_INTERVAL_S`, and while another check runs.
        """
        clock = asyncio.get_running_loop().time
        if self._check.locked() or clock() - self._checked_at < _INTERVAL_S:
            return self._state
        async with self._check:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    self._state = await self._ask(self._rules())
            except TimeoutError:
                self.problems = {}
                self._state = False, f"the database did not answer within {_TIMEOUT_S:g} s"
            except (PgheraldError, psycopg.Error) as exc:
                self.problems = {}
                self._state = False, summary(exc)
            if self._state[0]:
                # After a failure the time is not set: the next request checks again and sees a repair at once.
                self._checked_at = clock()
        return self._state

    async def _ask(self, rules: Mapping[str, Rule]) -> tuple[bool, str]:
        with translate_errors():
            async with await connect_async(self._url) as conn:
                found = await schema.capture_problems(conn, rules)
                self.problems = {name: found.get(name) for name in rules}
                self._log(found)
                version = await usable_version(conn)
        if found:
            return False, "; ".join(found.values())
        return True, f"{version}; triggers of {len(rules)} rules installed"

    def _log(self, found: Mapping[str, str]) -> None:
        """Log each rule whose problem is new or another one, and each rule that is captured again."""
        for name, problem in found.items():
            if self._logged.get(name) != problem:
                log.error(
                    "capture_stopped",
                    rule=name,
                    reason=problem,
                    remedy=f"afterwards look for missed rows: pgherald backfill {name} --dry-run",
                )
        for name in self._logged.keys() - found.keys():
            # A rule that a reload has taken out is no longer our concern.
            if name in self.problems:
                log.info("capture_resumed", rule=name)
        self._logged = dict(found)
