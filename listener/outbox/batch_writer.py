"""Group commit: outcomes and marks that come while one flush is under way go together in the next."""

import asyncio

from listener.errors import PgheraldError
from listener.outage import Outage
from listener.outbox.event import Mark, Settlement
from listener.outbox.store import Outbox


class BatchWriter:
    """Writes to the outbox one transaction at a time.

    An outcome is never given up: what was sent while the database is away is settled when it is back.
    A mark is answered at once: without it, the message is not sent.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._settlements: list[tuple[Settlement, asyncio.Future[bool]]] = []
        self._marks: list[tuple[Mark, asyncio.Future[bool]]] = []
        self._pending = asyncio.Event()

    def mark(self, mark: Mark) -> asyncio.Future[bool]:
        """True once the mark is durable; False when the event is no longer this worker's, or the database is away."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._marks.append((mark, future))
        self._pending.set()
        return future

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """True once the outcome is durable; False when somebody has taken the event up again."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._settlements.append((settlement, future))
        self._pending.set()
        return future

    @property
    def unsettled(self) -> int:
        return len(self._settlements)

    async def run(self) -> None:
        outage = Outage("settle_failed", first=0.1, longest=1.0)
        again = False
        while True:
            await self._pending.wait()
            self._pending.clear()
            settlements, self._settlements = self._settlements, []
            marks, self._marks = self._marks, []
            try:
                written = await self._outbox.record([s for s, _ in settlements], [m for m, _ in marks], again=again)
            except PgheraldError as exc:
                # Whether the marks were written nobody knows; not sending is right either way.
                _answer(marks, set())
                self._settlements = settlements + self._settlements
                again = True
                await self._outbox.pause(outage.failed(exc, outcomes=len(self._settlements)))
                if self._settlements:
                    self._pending.set()
                continue
            again = False
            outage.recovered()
            _answer(marks, written)
            _answer(settlements, written)


def _answer(
    asked: list[tuple[Mark, asyncio.Future[bool]]] | list[tuple[Settlement, asyncio.Future[bool]]],
    written: set[tuple[int, int]],
) -> None:
    for subject, future in asked:
        if not future.done():
            future.set_result(subject.event.fence in written)
