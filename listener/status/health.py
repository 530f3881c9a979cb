"""Readiness of the daemon: each part must have done its work lately. A running process alone proves nothing."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.notify.listener import Listener
from listener.printable import utc
from listener.smtp.breaker import Breaker
from listener.status.capture import CaptureWatch
from listener.worker.loop import Worker

# The worker claims at every poll. The listener tests itself as often, but not more often than every 5 s. Either may miss two
# times. Three missed tests in a row mean that notifications do not arrive.
_MAX_POLLS = 3
_MIN_MAX_AGE_S = 15.0
# A lookup takes milliseconds. One that takes this long is worth a word.
_LONG_LOOKUP_S = 2.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the daemon: whether it is ready, and its state in words."""

    ok: bool
    detail: str


class Health:
    """Judge the parts of a daemon.

    The daemon calls `started` when it begins to deliver, and sets `stopping` when it has received SIGTERM. `capture` says
    whether the database captures the events.
    """

    def __init__(self, settings: Settings, listener: Listener, breaker: Breaker) -> None:
        self.stopping = False
        self._worker: Worker | None = None
        self._max_age_s = max(_MAX_POLLS * settings.delivery.poll, _MIN_MAX_AGE_S)
        self._configured_rules = settings.rules
        self._listener = listener
        self._breaker = breaker
        self.capture = CaptureWatch(settings.database.url, lambda: self.rules, settings.delivery.poll)

    def started(self, worker: Worker) -> None:
        """Record that the daemon delivers now, with this worker."""
        self._worker = worker

    @property
    def is_ready(self) -> bool:
        """Return whether the daemon has started to deliver."""
        return self._worker is not None

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Return the rules by which the daemon delivers now."""
        return self._configured_rules if self._worker is None else self._worker.runtime.delivery.rules

    @property
    def in_flight_count(self) -> int:
        """Return the number of events that are claimed and not settled."""
        return 0 if self._worker is None else self._worker.in_flight_count

    @property
    def summary(self) -> str:
        """Return in one line what is wrong now, or how the daemon hears of events. `systemctl status` shows it."""
        parts = [self._listen()] + [self._claims(), self._smtp()] * self.is_ready
        troubles = [part.detail for part in parts if not part.ok]
        if self._worker is not None and self._worker.suspended:
            troubles.append(f"suspended: {', '.join(self._worker.suspended)}")
        return "; ".join(troubles) or ("listening" if self._listener.listening else "polling")

    async def parts(self) -> dict[str, Part]:
        """Return the parts by name. The daemon is ready if all are ok."""
        return {
            "daemon": self._daemon(),
            "listen": self._listen(),
            "claims": self._claims(),
            "schema": Part(*await self.capture.state()),
            "rules": self._rules(),
            "smtp": self._smtp(),
        }

    def _daemon(self) -> Part:
        if self.stopping:
            return Part(False, "stopping")
        return Part(self._worker is not None, "running" if self._worker is not None else "starting")

    def _listen(self) -> Part:
        age = asyncio.get_running_loop().time() - self._listener.self_test.passed_at
        if self._listener.listening:
            return Part(age < self._max_age_s, f"received its own test notification {age:.1f} s ago")
        if self._listener.state == "unreachable":
            # A transaction pooler is in between, for example. Polling delivers everything, so the daemon is ready.
            return Part(True, "polling, because notifications do not arrive; set [database] listen_url")
        return Part(False, "the LISTEN connection is down; reconnecting")

    def _claims(self) -> Part:
        if self._worker is None:
            return Part(False, "not started")
        age = asyncio.get_running_loop().time() - self._worker.last_progress_at
        if self._breaker.is_open:
            return Part(True, "paused until the mail server is available")
        if math.isinf(age):
            return Part(False, "no claim yet")
        return Part(age < self._max_age_s, f"last claimed or settled {age:.1f} s ago")

    def _rules(self) -> Part:
        """Name the rules that are suspended, and those whose lookup waits. A restart would not mend them.

        They don't make the daemon unready. It delivers the other rules, and still serves the links to unsubscribe, the
        webhooks and the page. If every rule waits, it claims nothing, and `claims` tells that.
        """
        if self._worker is None:
            return Part(True, "no rule is suspended")
        now = asyncio.get_running_loop().time()
        problems = [
            f"{rule}: suspended since {utc(each.since)}: {each.reason}" for rule, each in self._worker.suspended.items()
        ]
        problems += [
            f"{rule}: its lookup has been running for {now - since:.0f} s; a table may be locked"
            for rule, since in self._worker.busy.items()
            if now - since > _LONG_LOOKUP_S
        ]
        return Part(True, "; ".join(problems) or "no rule is suspended")

    def _smtp(self) -> Part:
        if self._breaker.is_open:
            return Part(False, f"breaker open: {self._breaker.reason}")
        return Part(True, "breaker half-open: trying one message" if self._breaker.is_probing else "breaker closed")
