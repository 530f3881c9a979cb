"""Concurrent senders: each takes a looked-up event through compose, mark, send and settle."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from listener import metrics
from listener.errors import BadData, PgheraldError, RuleBroken
from listener.logs import log
from listener.notify.doorbell import Doorbell
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.event import OutgoingMessage, Settlement
from listener.outbox.rate_limit import RateLimiter
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, Refused
from listener.smtp.replies import Scope
from listener.smtp.sending import Sending
from listener.transport.base import Transport
from listener.worker import tracing
from listener.worker.decision import ToSend
from listener.worker.in_flight import SEND_WITHIN_S, InFlight
from listener.worker.runtime import Runtime
from listener.worker.unsent import settle_bad_data, settle_internal_error

# An email must not rest on an older check of consent.
_LOOKUP_VALID_S = 2.0
# After an abort each sender still settles its event: one write for all of them.
_ABORT_TIMEOUT_S = 2.0
# Each composed message is held about four times, also by the mark's statement and the server's connection.
_MAX_COMPOSED_BYTES = 8_000_000
# One recipient's failure is for the list of failed events. Only what waits for a person is an error.
_LOG_LEVELS = {"sent": "info", "skipped": "info", "failed": "warning", "in_doubt": "warning", "available": "info"}


@dataclass(frozen=True, slots=True)
class _Queued:
    """An event to send. `send_at`: its sending slot, on the loop's clock; None: at once."""

    runtime: Runtime
    to_send: ToSend
    looked_up_at: float
    send_at: float | None


class Senders:
    """Send what the claimer has queued, and settle every event that is in flight.

    `server_reached`: whether the last message got as far as the mail server.
    """

    def __init__(
        self,
        outbox: Outbox,
        batch_writer: BatchWriter,
        breaker: Breaker,
        rate_limiter: RateLimiter,
        doorbell: Doorbell,
        *,
        connections: int,
        poll: float,
    ) -> None:
        # Twice the connections: while one message is on its way, the mark of the next is written. No more events than
        # this are `transmitting` at a time, so one death puts no more in doubt.
        self._number = 2 * connections
        self.in_flight = InFlight(self._number)
        self.server_reached = True
        self._outbox = outbox
        self._batch_writer = batch_writer
        self._breaker = breaker
        self._rate_limiter = rate_limiter
        self._doorbell = doorbell
        self._poll_s = poll
        self._stopping = False
        self._queue: asyncio.Queue[_Queued] = asyncio.Queue()
        # Those that send now. An abort must reach the transport of an earlier runtime too.
        self._transports: list[Transport] = []

    def start(self, in_background: Callable[[Coroutine[object, object, None], str], object]) -> None:
        """Start the senders. `in_background` takes a coroutine and the name of its task."""
        for number in range(self._number):
            in_background(self._send_loop(), f"sender {number}")

    def queue(self, runtime: Runtime, to_send: ToSend, looked_up_at: float, send_at: float | None) -> None:
        """Send this event as soon as a sender is free, or at `send_at`. A sender releases it if its lookup is stale by then."""
        self.in_flight.queued_bytes += to_send.octets
        self._queue.put_nowait(_Queued(runtime, to_send, looked_up_at, send_at))

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Write an outcome. The result is True once it is durable, and False if another worker has claimed the event."""
        settled = self._batch_writer.settle(settlement)
        settled.add_done_callback(lambda done: self._on_settled(settlement, done))
        return settled

    async def stop(self, grace: float) -> None:
        """Finish what is past the final dot, and release the rest. `grace` is in seconds."""
        self._stopping = True
        self.in_flight.wake()
        if not await self.in_flight.wait_until_empty(grace):
            # A reply may take ten minutes. An event without one by now is in doubt, and is recorded so.
            log.warning("shutdown_timeout", unsettled=len(self.in_flight))
            for transport in set(self._transports):
                transport.abort()
            await self.in_flight.wait_until_empty(_ABORT_TIMEOUT_S)

    async def _send_loop(self) -> None:
        previous: asyncio.Future[bool] | None = None
        while True:
            previous = await self._send_next(previous)

    async def _send_next(self, previous: asyncio.Future[bool] | None) -> asyncio.Future[bool] | None:
        """Take one event from the queue to its end, and return the future of its outcome.

        This is a function of its own so that a sender that waits for the next event does not keep the last row.
        """
        loop = asyncio.get_running_loop()
        queued = await self._queue.get()
        runtime, to_send = queued.runtime, queued.to_send
        if queued.send_at is not None:
            await asyncio.sleep(queued.send_at - loop.time())
        while self.in_flight.composed_bytes > _MAX_COMPOSED_BYTES and not self._stopping:
            await self.in_flight.wait_for_slot(SEND_WITHIN_S)
        lacks_slot = queued.send_at is None and self._rate_limiter.is_limited(runtime.max_rate)
        looked_up_at = queued.looked_up_at
        if self._stopping or self._breaker.is_open or lacks_slot or _is_stale(looked_up_at):
            # Release: the daemon stops, the breaker is open, the consent check is stale, or the rate limit dropped.
            # Any worker may claim the event again.
            self.in_flight.queued_bytes -= to_send.octets
            self.settle(Settlement(to_send.event, "available"))
            return previous
        composed = await self._compose(runtime, to_send)
        self.in_flight.queued_bytes -= to_send.octets
        del queued, to_send
        if isinstance(composed, Settlement):
            return self.settle(composed)
        self.in_flight.composed_bytes += len(composed.raw)
        settlement = await self._send(runtime, composed, previous, looked_up_at)
        self.in_flight.composed_bytes -= len(composed.raw)
        return self.settle(settlement)

    async def _compose(self, runtime: Runtime, to_send: ToSend) -> OutgoingMessage | Settlement:
        event = to_send.event
        try:
            stored = await self._outbox.stored_message(event) if event.has_stored_message else None
            if event.has_stored_message and stored is None:
                return Settlement(event, "available")
            return runtime.delivery.compose(to_send, self.in_flight.database_time(), stored)
        except BadData as exc:
            return settle_bad_data(event, exc)
        except RuleBroken as exc:
            runtime.delivery.suspensions.suspend(event.rule, exc)
        except PgheraldError:
            # The database is unavailable. The next claim meets that too, and logs it.
            pass
        return Settlement(event, "available")

    async def _send(
        self, runtime: Runtime, message: OutgoingMessage, previous: asyncio.Future[bool] | None, looked_up_at: float
    ) -> Settlement:
        event = message.event
        # The mark takes longer than the envelope, so it is requested first. Both are then under way together.
        marked = self._batch_writer.mark(message)
        await asyncio.sleep(0)
        holds_lease = self.in_flight.holds_lease(event)
        if previous is not None:
            # The previous outcome shares this mark's write, or was written before it. So a sender never has two events
            # in `transmitting`, and it begins nothing while nothing can be written.
            await previous

        async def permission() -> bool:
            return await marked and holds_lease() and not self._stopping

        def may_begin() -> bool:
            return not _is_stale(looked_up_at) and not self._stopping

        sending = Sending(
            runtime.senders[event.rule],
            message.recipient,
            message.raw,
            permission,
            message.message_id,
            may_begin,
            is_repeat=event.has_stored_message,
        )
        self._transports.append(runtime.transport)
        try:
            span = tracing.begin(event.rule, event.id, event.attempt, event.in_doubt_count, event.traceparent)
            outcome = await runtime.transport.send(sending)
        except Exception as exc:
            await marked
            return settle_internal_error(event, exc, sending=True)
        finally:
            self._transports.remove(runtime.transport)
        # A mark that is still under way must not be written after the outcome.
        await marked
        self.server_reached = not isinstance(outcome, NotSent)
        if isinstance(outcome, Accepted):
            self._rate_limiter.sent()
            metrics.accepted(event.rule, self.in_flight.age(event))
        elif isinstance(outcome, Refused) and outcome.verdict.scope is Scope.throttle:
            await self._rate_limiter.throttled(str(outcome.reply), runtime.max_rate)
        settlement = runtime.delivery.settlement(message, outcome)
        if isinstance(outcome, NotPermitted) and _is_stale(looked_up_at):
            # The history has the mark, and with it "consent given". It must also say that this answer was not used.
            detail = "the server was not ready within 2 s of the lookup; the event is looked up again"
            settlement = Settlement(event, "available", "released", detail=detail)
        tracing.end(span, settlement.history_entry or "released", settlement.reason)
        return settlement

    def _on_settled(self, settlement: Settlement, settled: asyncio.Future[bool]) -> None:
        event = settlement.event
        self.in_flight.remove(event)
        if settled.cancelled():
            return
        if not settled.result():
            outcome = settlement.history_entry or "released"
            log.warning("claim_superseded", event_id=event.id, rule=event.rule, outcome=outcome)
            return
        if settlement.state == "available" and (delay := settlement.delay or 0.0) < self._poll_s:
            # A released event sends no NOTIFY. The worker wakes itself when the event is due.
            asyncio.get_running_loop().call_later(delay, self._doorbell.ring, "due")
        if settlement.history_entry is not None:
            if settlement.history_entry != "released":
                self.in_flight.settled()
                metrics.settled(event.rule, settlement.state, settlement.reason)
            getattr(log, self._level(settlement))(
                f"event_{settlement.history_entry}",
                event_id=event.id,
                rule=event.rule,
                key=event.key,
                attempt=event.attempt + settlement.uses_attempt,
                **{name: value for name in ("reason", "detail") if (value := getattr(settlement, name))},
                **event.log_name,
            )

    def _level(self, settlement: Settlement) -> str:
        waits_for_person = settlement.state == "in_doubt" and (
            settlement.delay is None or self._outbox.holds_doubts(settlement.event.rule)
        )
        return "error" if waits_for_person else _LOG_LEVELS[settlement.state]


def _is_stale(looked_up_at: float) -> bool:
    """Return whether a lookup of that time, on the loop's clock, is too old to send by."""
    return asyncio.get_running_loop().time() - looked_up_at > _LOOKUP_VALID_S
