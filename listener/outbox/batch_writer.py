"""Group commit: outcomes and marks that arrive during one flush are written together in the next."""

import asyncio

from listener import metrics
from listener.errors import PgheraldError
from listener.outage import Outage
from listener.outbox.event import OutgoingMessage, Settlement
from listener.outbox.store import Outbox

# Pauses between tries while the database is unavailable.
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0


class BatchWriter:
    """Writes marks and outcomes to the outbox, one transaction at a time.

    It retries an outcome until it is written: a message that was sent during an outage is settled afterwards. It tries
    a mark only once: without the mark the message is simply not sent.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._settlements: list[tuple[Settlement, asyncio.Future[bool]]] = []
        self._marks: list[tuple[OutgoingMessage, asyncio.Future[bool]]] = []
        self._pending = asyncio.Event()
        metrics.UNWRITTEN.set_function(lambda: len(self._settlements))

    def mark(self, message: OutgoingMessage) -> asyncio.Future[bool]:
        """Return a future: True once the mark is durable.

        False if the event is no longer this worker's, or if the database is unavailable.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._marks.append((message, future))
        self._pending.set()
        return future

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Return a future: True once the outcome is durable, False if another worker has claimed the event."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._settlements.append((settlement, future))
        self._pending.set()
        return future

    async def run(self) -> None:
        """Write what arrives until cancelled."""
        outage = Outage("settle_failed", first=_FIRST_RETRY_S, longest=_LONGEST_RETRY_S)
        again = False
        while True:
            await self._pending.wait()
            self._pending.clear()
            settlements, self._settlements = self._settlements, []
            marks, self._marks = self._marks, []
            try:
                written = await self._outbox.record([s for s, _ in settlements], [m for m, _ in marks], again=again)
            except PgheraldError as exc:
                # The marks may have been written, although no answer came. Not sending is right either way.
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
    asked: list[tuple[OutgoingMessage, asyncio.Future[bool]]] | list[tuple[Settlement, asyncio.Future[bool]]],
    written: set[tuple[int, int]],
) -> None:
    for subject, future in asked:
        if not future.done():
            future.set_result(subject.event.fence in written)
