"""The counters of this process, for `/metrics`. Their names follow the Prometheus conventions.

This is the lowest layer, because every folder counts something. The result of `labels()` is kept, since to look it up
costs four times as much as to count.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from listener import __version__, stderr

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SETTLED = ("sent", "skipped", "failed")
# In seconds. An idle daemon delivers within hundredths of a second. A backlog, a retry or greylisting takes minutes.
DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
# In events. A worker has at most 500 in flight, so that no claim returns more.
_CLAIM_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)

EVENTS = Counter(
    "pgherald_events", "Outcomes written, by the resulting state", ["rule", "state", "reason"], registry=REGISTRY
)
DELIVERY = Histogram(
    "pgherald_delivery_seconds",
    "Time from the capture of a change to the mail server's reply to its message",
    ["rule"],
    buckets=DELIVERY_BUCKETS,
    registry=REGISTRY,
)
CLAIMED = Histogram(
    "pgherald_claim_batch_size", "Events returned by one claim", buckets=_CLAIM_BUCKETS, registry=REGISTRY
)
WAKEUPS = Counter("pgherald_wakeups", "Ways in which work was found: by a ring, by the poll, or behind the gate", ["source"], registry=REGISTRY)  # fmt: skip
REPLIES = Counter(
    "pgherald_smtp_replies",
    "Attempts to send, by the last phase and the class of the server's reply, or none",
    ["phase", "class"],
    registry=REGISTRY,
)
SMTP_SEND = Histogram(
    "pgherald_smtp_send_seconds", "Time of one attempt to send, including the connection", registry=REGISTRY
)
WEBHOOKS = Counter(
    "pgherald_webhook_requests",
    "Requests of mail providers to /bounces/, by result",
    ["provider", "result"],
    registry=REGISTRY,
)
UNWRITTEN = Gauge("pgherald_unwritten_outcomes", "Outcomes that wait to be written to the outbox", registry=REGISTRY)
RECONNECTS = Counter("pgherald_listen_reconnects", "LISTEN connections opened after the first", registry=REGISTRY)
Gauge("pgherald_build_info", "1", ["version", "python"], registry=REGISTRY).labels(__version__, python_version()).set(1)


class _LostLogLines(Collector):
    """The lines of the log that could not be written. The stream itself counts them."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter. prometheus_client calls this once a scrape."""
        help_text = "Lines of the log that could not be written: the disk is full, or nobody reads the pipe"
        yield CounterMetricFamily("pgherald_log_lines_lost", help_text, value=stderr.lost_lines())


REGISTRY.register(_LostLogLines())

_events = lru_cache(maxsize=None)(EVENTS.labels)
_delivery = lru_cache(maxsize=None)(DELIVERY.labels)
_replies = lru_cache(maxsize=None)(REPLIES.labels)
_wakeups = {source: WAKEUPS.labels(source) for source in ("ring", "poll", "gate")}

claimed = CLAIMED.observe
message_sent = SMTP_SEND.observe
reconnected = RECONNECTS.inc


def known(rule: str) -> None:
    """Start a rule's counters at zero, so that its first event is an increase."""
    for state in SETTLED:
        _events(rule, state, "")
    _delivery(rule)


def settled(rule: str, state: str, reason: str | None) -> None:
    """Count an outcome that was written."""
    _events(rule, state, reason or "").inc()


def accepted(rule: str, seconds: float) -> None:
    """Count a message that the server has accepted, `seconds` after the capture of its change."""
    _delivery(rule).observe(seconds)


def woken(source: str) -> None:
    """Count work that was found by `ring`, `poll` or `gate`."""
    _wakeups[source].inc()


def replied(phase: str, code: int | None) -> None:
    """Count an attempt to send. `code` is that of the reply, or None if the connection ended without one."""
    _replies(phase, f"{code // 100}xx" if code is not None else "none").inc()


def webhook(provider: str, result: str) -> None:
    """Count a request to a webhook: `recorded`, `ignored`, `unmatched`, `refused` or `failed`."""
    WEBHOOKS.labels(provider, result).inc()


def quantile(counts: list[int], share: float) -> float | None:
    """Return the quantile `share` of a histogram in seconds, interpolated linearly within a bucket.

    `counts` has one count for each of `DELIVERY_BUCKETS` and one for everything longer. The counts are not cumulative.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    limits = (0.0, *DELIVERY_BUCKETS, 2 * DELIVERY_BUCKETS[-1])
    upto = [sum(counts[: i + 1]) for i in range(len(counts))]
    i = bisect_left(upto, wanted)
    before = upto[i] - counts[i]
    return limits[i] + (limits[i + 1] - limits[i]) * (wanted - before) / counts[i]
