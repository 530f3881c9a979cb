"""/livez, /readyz and /metrics."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from listener.metrics import REGISTRY
from listener.notify.listener import Listener
from listener.printable import excerpt
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.status.overview import Overview, OverviewCache

# A scrape waits no longer for the database; what was seen is shown for a while, and then nothing rather than the past.
_WAIT = 1.0
_FRESH = 3.0
_STALE = 30.0


class Probes:
    def __init__(self, health: Health, overview_cache: OverviewCache, listener: Listener, breaker: Breaker) -> None:
        self._health = health
        self._overview_cache = overview_cache
        self._listener = listener
        self._breaker = breaker

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def livez(self, _: web.Request) -> web.Response:
        """The loop turns: this was answered by it."""
        return web.json_response({"alive": True})

    async def readyz(self, _: web.Request) -> web.Response:
        parts = await self._health.parts()
        ready = all(part.ok for part in parts.values())
        body = {"ready": ready, "parts": {name: asdict(part) for name, part in parts.items()}}
        return web.json_response(body, status=200 if ready else 503, dumps=lambda value: json.dumps(value, indent=2))

    async def metrics(self, _: web.Request) -> web.Response:
        seen = await self._overview_cache.get(_WAIT, fresh=_FRESH, stale=_STALE)
        live = CollectorRegistry()
        live.register(_Live(self._listener, self._breaker, self._health, seen))
        body = generate_latest(REGISTRY) + generate_latest(live)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Live(Collector):
    """What is read and not counted: of this process, and, where the database answers, of all."""

    def __init__(self, listener: Listener, breaker: Breaker, health: Health, seen: Overview | None) -> None:
        self._listener = listener
        self._breaker = breaker
        self._health = health
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        yield _gauge("breaker_open", "1: the mail server is in trouble, and nothing is claimed", self._breaker.is_open)
        yield _gauge("listening", "1: hears the bell; 0: polls", self._listener.listening)
        yield _gauge("leader", "1: this one works the gate", self._listener.gate.is_leader)
        yield _gauge(
            "in_flight_events",
            "Events claimed and not yet settled",
            self._health.in_flight_count,
        )
        yield _gauge("database_up", "1: the database answers", self._seen is not None)
        if self._seen is None:
            return
        oldest = GaugeMetricFamily(
            "pgherald_oldest_available_age_seconds", "Since the capture of the oldest waiting event", labels=["rule"]
        )
        available = GaugeMetricFamily(
            "pgherald_available_events", "Events that wait, counted up to 10000", labels=["rule"]
        )
        doubt = GaugeMetricFamily("pgherald_in_doubt", "Events whose mail has no reply", labels=["rule"])
        paused = GaugeMetricFamily("pgherald_rule_paused", "1: paused by a person", labels=["rule"])
        for rule in self._seen.rules:
            oldest.add_metric([rule.name], rule.oldest or 0.0)
            available.add_metric([rule.name], rule.available)
            doubt.add_metric([rule.name], rule.in_doubt)
            paused.add_metric([rule.name], rule.paused_at is not None)
        foreign = GaugeMetricFamily(
            "pgherald_foreign_lock_holder",
            "1: this session, which is no daemon's, holds this lock of ours",
            labels=["lock", "pid", "user", "application"],
        )
        for holder in self._seen.strangers:
            foreign.add_metric(
                [holder.lock, str(holder.pid or ""), excerpt(holder.user), excerpt(holder.application)], 1.0
            )
        yield from (oldest, available, doubt, paused, foreign)
        yield _gauge(
            "notify_queue_usage_ratio", "Of PostgreSQL's queue; at 1, NOTIFY fails", self._seen.notify_queue_usage
        )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pgherald_{name}", text, float(value))
