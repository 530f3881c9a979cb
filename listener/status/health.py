"""Whether the daemon makes progress: not that its process is there, but that each of its parts has lately done its work."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.db import schema
from listener.db.connection import connect_async
from listener.db.errors import translate_errors
from listener.errors import PgheraldError
from listener.notify.listener import Listener
from listener.smtp.breaker import Breaker
from listener.worker.loop import Worker

# The listener rings itself every 5 s; the worker claims at every poll.
HEARD = 15.0
_POLLS = 3
_CLAIMED = 15.0
_SCHEMA_AGAIN = 10.0
_ANSWER = 2.0


@dataclass(frozen=True, slots=True)
class Part:
    ok: bool
    detail: str


class Health:
    """Whether each part of the daemon makes progress. `stopping` is set with SIGTERM."""

    def __init__(self, settings: Settings, listener: Listener, breaker: Breaker) -> None:
        self.stopping = False
        self._worker: Worker | None = None
        self._url = settings.database.url
        self._poll = settings.delivery.poll
        self._configured_rules = settings.rules
        self._listener = listener
        self._breaker = breaker
        self._schema = Part(False, "not looked at yet")
        self._looked = -math.inf
        self._looking = asyncio.Lock()

    def started(self, worker: Worker) -> None:
        """Note that the daemon is ready, and that this is its worker."""
        self._worker = worker

    @property
    def is_ready(self) -> bool:
        """Whether the daemon has started to deliver."""
        return self._worker is not None

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by which the daemon delivers now."""
        return self._configured_rules if self._worker is None else self._worker.runtime.delivery.rules

    @property
    def in_flight_count(self) -> int:
        """How many events are claimed and not yet settled."""
        return 0 if self._worker is None else self._worker.in_flight_count

    async def parts(self) -> dict[str, Part]:
        """Each part of readiness; all must be well."""
        return {
            "daemon": self._daemon(),
            "listen": self._listen(),
            "claims": self._claims(),
            "schema": await self._fits(self.rules),
            "smtp": self._smtp(),
        }

    def _daemon(self) -> Part:
        if self.stopping:
            return Part(False, "stopping")
        return Part(self._worker is not None, "running" if self._worker is not None else "starting")

    def _listen(self) -> Part:
        age = asyncio.get_running_loop().time() - self._listener.self_test.passed_at
        if self._listener.listening:
            return Part(age < HEARD, f"heard its own ring {age:.1f} s ago")
        if self._listener.state == "unreachable":
            # As with a pooler in between: known, told, and made good by polling.
            return Part(True, "polls, because LISTEN is not heard; set database.listen_url")
        return Part(False, "the LISTEN connection is down")

    def _claims(self) -> Part:
        if self._worker is None:
            return Part(False, "has not begun")
        age = asyncio.get_running_loop().time() - self._worker.last_progress_at
        if self._breaker.is_open:
            return Part(True, "waits for the mail server")
        if math.isinf(age):
            return Part(False, "has not claimed yet")
        return Part(age < max(_POLLS * self._poll, _CLAIMED), f"claimed or settled {age:.1f} s ago")

    def _smtp(self) -> Part:
        if self._breaker.is_open:
            return Part(False, f"breaker open: {self._breaker.reason}")
        return Part(True, "trying again" if self._breaker.is_probing else "breaker closed")

    async def _fits(self, rules: Mapping[str, Rule]) -> Part:
        """As last looked at; not asked more than once in ten seconds, and never waited for longer than two."""
        clock = asyncio.get_running_loop().time
        if self._looking.locked() or clock() - self._looked < _SCHEMA_AGAIN:
            return self._schema
        async with self._looking:
            try:
                async with asyncio.timeout(_ANSWER):
                    with translate_errors():
                        async with await connect_async(self._url) as conn:
                            version = await schema.verify(conn, rules)
                self._schema = Part(True, f"{version}; {len(rules)} rules watched")
                self._looked = clock()
            except (PgheraldError, TimeoutError) as exc:
                # Looked at again at the next question: what is mended should be seen at once.
                self._schema = Part(False, str(exc) or f"the database gave no answer within {_ANSWER:g} s")
        return self._schema
