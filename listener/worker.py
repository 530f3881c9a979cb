"""The loop: wake, drain, close the gate, drain again, sleep; and the carriers that take each event to its end."""

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from listener import metrics, tracing
from listener.address import Address
from listener.breaker import Breaker
from listener.delivery import Delivery, Letter
from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken
from listener.listen import Listener
from listener.logs import log
from listener.lookup import Mailing
from listener.outbox import Event, Mark, Outbox, Settlement
from listener.pace import Pace, Slots
from listener.pool import Pool
from listener.recorder import Recorder
from listener.replies import Scope
from listener.retry import Trouble
from listener.smtp import Accepted, NotSent, Refused
from listener.transport import Transport

FRESH = 2.0
_AHEAD = 0.5
_MOST = 500
_HELD = 15.0
_RING_PEERS = 0.1
_HEADWAY = 0.005
_RING_WAITING = 0.5
_SWEEP = 10.0
_LAST_WORDS = 2.0
_LEVELS = {"sent": "info", "skipped": "info", "failed": "error", "in_doubt": "warning", "available": "info"}


class Worker:
    """One daemon's work on the outbox.

    `stop` lets what is past the final dot come to its end and gives everything else back. `progress`: when a claim was
    last answered or an event settled, on the loop's clock.
    """

    def __init__(
        self,
        outbox: Outbox,
        lookups: Pool,
        listener: Listener,
        recorder: Recorder,
        delivery: Delivery,
        post: Transport,
        breaker: Breaker,
        pace: Pace,
        *,
        sender: Address,
        connections: int,
        poll: float,
    ) -> None:
        self.delivery = delivery
        self.post = post
        self.pace = pace
        self.sender = sender
        # When the loop last went round, whatever came of it.
        self.turned = -math.inf
        self._outbox = outbox
        self._lookups = lookups
        self._listener = listener
        self._recorder = recorder
        self._breaker = breaker
        self._connections = connections
        self._poll = poll
        self._stopped = asyncio.Event()
        # With the time of the lookup, and that of the sending slot, if there are slots.
        self._queue: asyncio.Queue[tuple[Mailing, float, float | None]] = asyncio.Queue()
        # The events under way, by number and claim, and the registration under which each was claimed.
        self._hand: dict[tuple[int, int], int] = {}
        self._astray = False
        self._swept = 0.0
        self._freed = asyncio.Event()
        self._settled: deque[float] = deque(maxlen=4 * _MOST)
        self._held: dict[str, float] = {}
        self._rang = 0.0
        self._reached = True
        # The loop's clock less the database's.
        self._clock = 0.0
        self.progress = -math.inf
        self._trouble = Trouble("database_waits", first=0.1, longest=1.0)

    def start(self, in_background: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        # Twice the connections: while one message is on the wire, the next has its mark written. No more than
        # these are `transmitting` at a time, so no more can come into doubt by one death.
        for _ in range(2 * self._connections):
            in_background(self._carry())

    @property
    def in_hand(self) -> int:
        """Events claimed and not yet settled."""
        return len(self._hand)

    @property
    def _stopping(self) -> bool:
        return self._stopped.is_set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopping:
            try:
                await self._until_rung()
            except PgheraldError as exc:
                self._turn()
                await self._outbox.pause(self._trouble.met(exc))

    def _turn(self) -> None:
        self.turned = asyncio.get_running_loop().time()

    async def _until_rung(self) -> None:
        doze = 0.001
        while not self._stopping:
            # Before the drain, so that a ring during it is not lost.
            self._listener.wake.clear()
            self._turn()
            claimed = await self._drain()
            self._trouble.over()
            if self._breaker.is_open or self._stopping:
                await self._breaker_or_stop()
                continue
            if self._listener.leading:
                # With hands full there is no sleeping: behind a closed gate every commit would have to ring.
                await self._room()
                if claimed:
                    # The gate can wait until the mail has gone. From then on, who commits need not ring.
                    await self._headway()
                    await self._listener.open_gate()
                    continue
                if not await self._listener.close_gate():
                    # Somebody who did not ring has not committed yet.
                    await asyncio.sleep(doze)
                    doze = min(1.5 * doze, 0.02)
                    continue
                doze = 0.001
                if (found := await self._drain_behind_gate()) or self._breaker.is_open:
                    await self._listener.open_gate()
                    if found:
                        metrics.woken("gate")
                    continue
            await self._sleep()

    async def _drain_behind_gate(self) -> int:
        """With a new snapshot: what became visible between the last drain and the lock rang nobody."""
        return await self._drain()

    async def _headway(self) -> None:
        """Let what was claimed get to the server first, a few milliseconds: all else takes the processor from it."""
        clock = asyncio.get_running_loop().time
        end = clock() + _HEADWAY
        while self._hand and not self._stopping and (left := end - clock()) > 0:
            await self._wait_freed(left)

    async def _sleep(self) -> None:
        limit = self._poll if self._listener.hearing else min(self._poll, 1.0)
        try:
            async with asyncio.timeout(limit):
                await self._listener.wake.wait()
        except TimeoutError:
            metrics.woken("poll")
            log.debug("poll")

    async def _breaker_or_stop(self) -> None:
        await self._listener.open_gate()
        waits = [asyncio.create_task(self._breaker.wait()), asyncio.create_task(self._stopped.wait())]
        try:
            while not any(task.done() for task in waits):
                self._turn()
                # A leader that is awake keeps the application from ringing, and this one delivers nothing itself.
                await self._ring_peers()
                await asyncio.wait(waits, timeout=_RING_WAITING, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def drain_all(self) -> bool:
        """Deliver what is due, to the last. False when the mail server was not there for it."""
        while True:
            claimed = await self._drain()
            while self._hand:
                self._freed.clear()
                await self._freed.wait()
            if self._breaker.is_open or not claimed:
                return self._reached and not self._breaker.is_open

    async def _drain(self) -> int:
        """Claim until nothing is left to claim; gives how many events that were."""
        total = 0
        while not self._stopping and not self._breaker.is_open:
            slots = await self._slots(await self._room())
            rules = self._unheld()
            events = await self._claim(slots.number, rules) if rules and slots.number else []
            total += len(events)
            await self.pace.refund(slots, await self._take(events, slots))
            if len(events) < slots.number or not slots.number:
                break
            await self._ring_peers()
        return total

    async def _claim(self, limit: int, rules: list[str]) -> list[Event]:
        now = asyncio.get_running_loop().time()
        if self._astray or now - self._swept > _SWEEP:
            # A claim whose answer was lost with the connection may have been made, or be made yet: nobody else will
            # touch those events while this worker lives, and this one does not know of them.
            if strays := await self._outbox.disown(self._hand):
                log.warning("claims_disowned", events=strays)
            self._astray, self._swept = False, now
        worker = self._outbox.worker
        try:
            events = await self._outbox.claim(limit, rules)
        except PgheraldError:
            self._astray = True
            raise
        self.progress = asyncio.get_running_loop().time()
        metrics.claimed(len(events))
        if events:
            self._clock = now - events[0].captured_at.timestamp() - events[0].age
        self._hand.update((event.fence, worker) for event in events)
        return events

    async def _room(self) -> int:
        """Wait until there is room, and give how many events may be claimed: what can be handed over in half a second.

        No more, because consent is asked when they are claimed.
        """
        now = asyncio.get_running_loop().time()
        while self._settled and self._settled[0] < now - 1.0:
            self._settled.popleft()
        reach = min(max(2 * self._connections, int(_AHEAD * len(self._settled))), _MOST)
        while len(self._hand) > (0 if self._breaker.is_probing else reach // 2):
            if self._stopping or self._breaker.is_open:
                return 0
            self._turn()
            await self._listener.open_gate()
            await self._wait_freed(_RING_PEERS)
            # With its hands full it is no use to those events that come now.
            await self._ring_peers()
        return 1 if self._breaker.is_probing else reach - len(self._hand)

    async def _slots(self, limit: int) -> Slots:
        """Wait until there is a sending slot, and give those that come now: no more than these are claimed."""
        while limit and not (self._stopping or self._breaker.is_open):
            slots = await self.pace.reserve(limit)
            if slots.number:
                return slots
            self._turn()
            await self._listener.open_gate()
            await self._wait_freed(min(slots.wait, 1.0))
        return Slots(0)

    async def _wait_freed(self, seconds: float) -> None:
        self._freed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._freed.wait()

    async def _ring_peers(self) -> None:
        """Tell the other daemons of a backlog: while this one is awake, the application rings nobody."""
        now = asyncio.get_running_loop().time()
        if self._listener.peers and now - self._rang > _RING_PEERS:
            self._rang = now
            await self._outbox.ring("")

    def _unheld(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        self._held = {rule: until for rule, until in self._held.items() if until > now}
        return [rule for rule in self.delivery.rules if rule not in self._held]

    def _hold(self, rule: str, exc: RuleBroken) -> None:
        """Claim no more of this rule for a while: what fails for every event must not fail any."""
        if rule not in self._held:
            log.error("rule_held", rule=rule, error=str(exc), remedy="mend it; it is tried again every 15 s")
        self._held[rule] = asyncio.get_running_loop().time() + _HELD

    async def _take(self, events: list[Event], slots: Slots) -> int:
        """Decide about claimed events; queue those that are to be mailed, settle the others. How many were queued."""
        slot = asyncio.get_running_loop().time() + slots.wait
        queued = 0
        by_rule: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_rule[event.rule].append(event)
        away: DatabaseUnavailable | None = None
        for rule, group in by_rule.items():
            try:
                decided = await self.delivery.sort(rule, group, self._lookups)
            except RuleBroken as exc:
                self._hold(rule, exc)
                decided = [Settlement(event, "available") for event in group]
            except DatabaseUnavailable as exc:
                away = exc
                decided = [Settlement(event, "available") for event in group]
            looked_up = asyncio.get_running_loop().time()
            for decision in decided:
                if isinstance(decision, Mailing):
                    at = slot + queued * slots.interval if slots.interval else None
                    self._queue.put_nowait((decision, looked_up, at))
                    queued += 1
                else:
                    self._recorder.settle(decision).add_done_callback(self._reporter(decision))
        if away is not None:
            raise away
        return queued

    async def _carry(self) -> None:
        loop = asyncio.get_running_loop()
        before: asyncio.Future[bool] | None = None
        while True:
            mailing, looked_up, at = await self._queue.get()
            if at is not None:
                await asyncio.sleep(at - loop.time())
            unpaced = at is None and self.pace.limited
            if self._stopping or self._breaker.is_open or unpaced or loop.time() - looked_up > FRESH:
                # The answer about consent has grown old, or nobody is there to take the mail, or not that much of it:
                # back, for whoever can.
                self._settle(Settlement(mailing.event, "available"))
                continue
            try:
                letter = self.delivery.write(mailing)
            except RuleBroken as exc:
                self._hold(mailing.event.rule, exc)
                self._settle(Settlement(mailing.event, "available"))
                continue
            before = self._settle(letter if isinstance(letter, Settlement) else await self._send(letter, before))

    async def _send(self, letter: Letter, before: asyncio.Future[bool] | None) -> Settlement:
        # The mark is on its way to the disk while the envelope is on its way to the server. It takes longer, and goes first.
        marked = self._recorder.mark(Mark(letter.event, str(letter.recipient), letter.message))
        await asyncio.sleep(0)
        worker = self._hand[letter.event.fence]
        if before is not None:
            # It goes with this mark, or has gone before it: one write for both, and never more than one event of a
            # carrier `transmitting`. While nothing can be written, nothing is begun.
            await before

        async def permission() -> bool:
            return await marked and self._outbox.leased(worker) and not self._stopping

        event = letter.event
        span = tracing.begin(event.rule, event.id, event.attempt, event.doubts, event.traceparent)
        outcome = await self.post.hand_over(self.sender, letter.recipient, letter.message, permission, letter.key)
        # A mark still under way must not be written after what is settled now.
        await marked
        self._reached = not isinstance(outcome, NotSent)
        if isinstance(outcome, Accepted):
            self.pace.sent()
            now = asyncio.get_running_loop().time()
            metrics.accepted(event.rule, now - self._clock - event.captured_at.timestamp())
        elif isinstance(outcome, Refused) and outcome.verdict.scope is Scope.throttle:
            await self.pace.throttled(str(outcome.reply))
        settlement = self.delivery.settlement(letter, outcome)
        tracing.end(span, settlement.what or "released", settlement.reason)
        return settlement

    def _settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        settled = self._recorder.settle(settlement)
        settled.add_done_callback(self._reporter(settlement))
        return settled

    def _reporter(self, settlement: Settlement) -> Callable[[asyncio.Future[bool]], None]:
        def report(settled: asyncio.Future[bool]) -> None:
            event = settlement.event
            del self._hand[event.fence]
            self._freed.set()
            if settled.cancelled():
                return
            if not settled.result():
                log.warning(
                    "event_lost_to_another", event_id=event.id, rule=event.rule, outcome=settlement.what or "released"
                )
                return
            if settlement.state == "available" and (delay := settlement.delay or 0.0) < self._poll:
                # It rings nobody.
                asyncio.get_running_loop().call_later(delay, self._listener.wake.set)
            if settlement.what is not None:
                self.progress = asyncio.get_running_loop().time()
                self._settled.append(self.progress)
                metrics.settled(event.rule, settlement.state, settlement.reason)
                getattr(log, _LEVELS[settlement.state])(
                    f"event_{settlement.what}",
                    event_id=event.id,
                    rule=event.rule,
                    key=event.key,
                    attempt=event.attempt + settlement.counts,
                    **{name: value for name in ("reason", "detail") if (value := getattr(settlement, name))},
                )

        return report

    async def stop(self, grace: float) -> None:
        """Bring what is past the final dot to its end, give the rest back. `grace` in seconds."""
        self._stopped.set()
        self._listener.wake.set()
        self._freed.set()
        if not await self._empty_handed(grace):
            # Nobody waits ten minutes for a reply at shutdown: what has no answer by now is in doubt, and told so.
            log.error("grace_over", unsettled=len(self._hand))
            self.post.abort()
            await self._empty_handed(_LAST_WORDS)

    async def _empty_handed(self, limit: float) -> bool:
        try:
            async with asyncio.timeout(limit):
                while self._hand:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return False
        return True
