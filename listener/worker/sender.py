"""The carriers, who take each event from its look-up to its end; and what a worker has in hand until then."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any

from listener import metrics, tracing
from listener.address import Address
from listener.errors import BadData, PgheraldError, RuleBroken
from listener.logs import log
from listener.notify.listener import Listener
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.event import Event, Mark, Settlement
from listener.outbox.rate_limit import RateLimiter
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotSent, Refused
from listener.smtp.replies import Scope
from listener.transport.base import Transport
from listener.worker.delivery import Delivery, Letter, settle_bad_data, settle_internal_error
from listener.worker.lookup import ToSend

_LOOKUP_VALID_S = 2.0
_AHEAD_S = 0.5
_MAX_IN_FLIGHT = 500
_ABORT_TIMEOUT_S = 2.0
# Octets of messages that are made and not settled: each is held about four times, by the mark's statement and the server's
# connection too.
_MAX_COMPOSED_BYTES = 8_000_000
_LEVELS = {"sent": "info", "skipped": "info", "failed": "error", "in_doubt": "warning", "available": "info"}


class Senders:
    """What one worker has claimed, and those who bring it to its end.

    `post` and `sender` may be put anew at any time. `reached`: whether the last mail got to the server.
    `settled_at`: when an event was last settled, on the loop's clock. `octets`: what the rows take that wait to be sent.
    """

    def __init__(
        self,
        outbox: Outbox,
        listener: Listener,
        batch_writer: BatchWriter,
        post: Transport,
        breaker: Breaker,
        rate_limiter: RateLimiter,
        *,
        sender: Address,
        connections: int,
        poll: float,
    ) -> None:
        self.post = post
        self.sender = sender
        self.server_reached = True
        self.settled_at = -math.inf
        self.queued_bytes = 0
        self._composed_bytes = 0
        self._outbox = outbox
        self._listener = listener
        self._batch_writer = batch_writer
        self._breaker = breaker
        self._rate_limiter = rate_limiter
        self._connections = connections
        self._poll_s = poll
        self._stopping = False
        self._queue: asyncio.Queue[tuple[Delivery, ToSend, float, float | None]] = asyncio.Queue()
        # The events under way, by number and claim, and the registration under which each was claimed.
        self._in_flight: dict[tuple[int, int], int] = {}
        self._slot_free = asyncio.Event()
        self._settled_times: deque[float] = deque(maxlen=4 * _MAX_IN_FLIGHT)
        # The loop's clock less the database's.
        self._clock_offset = 0.0

    def start(self, in_background: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        # Twice the connections: while one message is on the wire, the next has its mark written. No more than
        # these are `transmitting` at a time, so no more can come into doubt by one death.
        for _ in range(2 * self._connections):
            in_background(self._send_loop())

    @property
    def in_flight(self) -> Collection[tuple[int, int]]:
        """The fences of what is claimed and not yet settled."""
        return self._in_flight.keys()

    @property
    def capacity(self) -> int:
        """How many may be in hand: what can be handed over in half a second.

        No more, because consent is asked when they are claimed.
        """
        now = asyncio.get_running_loop().time()
        while self._settled_times and self._settled_times[0] < now - 1.0:
            self._settled_times.popleft()
        return min(max(2 * self._connections, int(_AHEAD_S * len(self._settled_times))), _MAX_IN_FLIGHT)

    def track(self, events: list[Event], worker: int, asked: float) -> None:
        """Have these in hand, as claimed by this registration; `asked`: when, on the loop's clock."""
        if events:
            self._clock_offset = asked - events[0].captured_at.timestamp() - events[0].age
        self._in_flight.update((event.fence, worker) for event in events)

    def queue(self, delivery: Delivery, to_send: ToSend, looked_up: float, at: float | None) -> None:
        """Send what this delivery, which may not be the one of the next claim, has found is to be mailed.

        As soon as somebody is free, or, where there are sending slots, `at`; not when the look-up has grown old.
        """
        self.queued_bytes += to_send.octets
        self._queue.put_nowait((delivery, to_send, looked_up, at))

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Write how it ended. True once that is durable, False when somebody has taken the event up again."""
        settled = self._batch_writer.settle(settlement)
        settled.add_done_callback(self._settled_callback(settlement))
        return settled

    async def wait_for_slot(self, seconds: float | None = None) -> None:
        """Wait until something in hand has come to its end, no longer than `seconds`."""
        self._slot_free.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._slot_free.wait()

    async def wait_until_empty(self, seconds: float | None = None) -> bool:
        """Wait until nothing is in hand, no longer than `seconds`; whether that came about."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._in_flight:
                    await self.wait_for_slot()
        return not self._in_flight

    async def stop(self, grace: float) -> None:
        """Bring what is past the final dot to its end, give the rest back. `grace` in seconds."""
        self._stopping = True
        self._slot_free.set()
        if not await self.wait_until_empty(grace):
            # Nobody waits ten minutes for a reply at shutdown: what has no answer by now is in doubt, and told so.
            log.error("shutdown_timeout", unsettled=len(self._in_flight))
            self.post.abort()
            await self.wait_until_empty(_ABORT_TIMEOUT_S)

    async def _send_loop(self) -> None:
        before: asyncio.Future[bool] | None = None
        while True:
            before = await self._send_next(before)

    async def _send_next(self, before: asyncio.Future[bool] | None) -> asyncio.Future[bool] | None:
        """Take one event from the queue to its end. By itself, so that nobody who waits for the next keeps the last row."""
        loop = asyncio.get_running_loop()
        delivery, to_send, looked_up, at = await self._queue.get()
        if at is not None:
            await asyncio.sleep(at - loop.time())
        while self._composed_bytes > _MAX_COMPOSED_BYTES and not self._stopping:
            await self.wait_for_slot(_AHEAD_S)
        unpaced = at is None and self._rate_limiter.limited
        if self._stopping or self._breaker.is_open or unpaced or loop.time() - looked_up > _LOOKUP_VALID_S:
            # The answer about consent has grown old, or nobody is there to take the mail, or not that much of it:
            # back, for whoever can.
            self.queued_bytes -= to_send.octets
            self.settle(Settlement(to_send.event, "available"))
            return before
        written = await self._compose(delivery, to_send)
        self.queued_bytes -= to_send.octets
        del to_send
        if isinstance(written, Settlement):
            return self.settle(written)
        self._composed_bytes += len(written.message)
        sent = await self._send(delivery, written, before)
        self._composed_bytes -= len(written.message)
        return self.settle(sent)

    async def _compose(self, delivery: Delivery, to_send: ToSend) -> Letter | Settlement:
        event = to_send.event
        try:
            stored = await self._outbox.stored_message(event) if event.has_stored_message else None
            if event.has_stored_message and stored is None:
                return Settlement(event, "available")
            return delivery.compose(to_send, stored)
        except BadData as exc:
            return settle_bad_data(event, exc)
        except RuleBroken as exc:
            delivery.suspend(event.rule, exc)
        except PgheraldError:
            # The database is away. The next claim meets that too, and logs it.
            pass
        return Settlement(event, "available")

    async def _send(self, delivery: Delivery, letter: Letter, before: asyncio.Future[bool] | None) -> Settlement:
        # The mark is on its way to the disk while the envelope is on its way to the server. It takes longer, and goes first.
        marked = self._batch_writer.mark(Mark(letter.event, str(letter.recipient), letter.message))
        await asyncio.sleep(0)
        worker = self._in_flight[letter.event.fence]
        if before is not None:
            # It goes with this mark, or has gone before it: one write for both, and never more than one event of a
            # carrier `transmitting`. While nothing can be written, nothing is begun.
            await before

        async def permission() -> bool:
            return await marked and self._outbox.is_leased(worker) and not self._stopping

        event = letter.event
        try:
            span = tracing.begin(event.rule, event.id, event.attempt, event.in_doubt_count, event.traceparent)
            outcome = await self.post.send(self.sender, letter.recipient, letter.message, permission, letter.key)
        except Exception as exc:
            await marked
            return settle_internal_error(event, exc, sending=True)
        # A mark still under way must not be written after what is settled now.
        await marked
        self.server_reached = not isinstance(outcome, NotSent)
        if isinstance(outcome, Accepted):
            self._rate_limiter.sent()
            now = asyncio.get_running_loop().time()
            metrics.accepted(event.rule, now - self._clock_offset - event.captured_at.timestamp())
        elif isinstance(outcome, Refused) and outcome.verdict.scope is Scope.throttle:
            await self._rate_limiter.throttled(str(outcome.reply))
        settlement = delivery.settlement(letter, outcome)
        tracing.end(span, settlement.history_entry or "released", settlement.reason)
        return settlement

    def _settled_callback(self, settlement: Settlement) -> Callable[[asyncio.Future[bool]], None]:
        def report(settled: asyncio.Future[bool]) -> None:
            event = settlement.event
            del self._in_flight[event.fence]
            self._slot_free.set()
            if settled.cancelled():
                return
            if not settled.result():
                log.warning(
                    "claim_superseded",
                    event_id=event.id,
                    rule=event.rule,
                    outcome=settlement.history_entry or "released",
                )
                return
            if settlement.state == "available" and (delay := settlement.delay or 0.0) < self._poll_s:
                # It rings nobody.
                asyncio.get_running_loop().call_later(delay, self._listener.wake.set)
            if settlement.history_entry is not None:
                self.settled_at = asyncio.get_running_loop().time()
                self._settled_times.append(self.settled_at)
                metrics.settled(event.rule, settlement.state, settlement.reason)
                getattr(log, _LEVELS[settlement.state])(
                    f"event_{settlement.history_entry}",
                    event_id=event.id,
                    rule=event.rule,
                    key=event.key,
                    attempt=event.attempt + settlement.uses_attempt,
                    **{name: value for name in ("reason", "detail") if (value := getattr(settlement, name))},
                )

        return report
