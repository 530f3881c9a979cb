"""The endpoints for machines: /livez, /readyz and /metrics."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from listener.metrics import REGISTRY
from listener.notify.listener import Listener
from listener.printable import excerpt
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.status.overview import MAX_COUNTED, Overview
from listener.status.overview_cache import OverviewCache

# A scrape waits this long for the database. Prometheus gives up after 10 s by default.
_DATABASE_TIMEOUT_S = 1.0
# Several scrapers within this time share one query.
_FRESH_S = 3.0
# After this the gauges of the outbox disappear: a gap is better than an old value that looks current.
_MAX_AGE_S = 30.0


class Probes:
    """Answer the probes of an orchestrator and the scrapes of Prometheus."""

    def __init__(self, health: Health, overview_cache: OverviewCache, listener: Listener, breaker: Breaker) -> None:
        self._health = health
        self._overview_cache = overview_cache
        self._listener = listener
        self._breaker = breaker

    def routes(self) -> list[web.RouteDef]:
        """Return the three routes."""
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def livez(self, _: web.Request) -> web.Response:
        """Answer 200: the event loop that answers is alive."""
        return web.json_response({"alive": True})

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 if every part of the daemon is ready, else 503. The body names each part and its state."""
        parts = await self._health.parts()
        ready = all(part.ok for part in parts.values())
        body = {"ready": ready, "parts": {name: asdict(part) for name, part in parts.items()}}
        return web.json_response(body, status=200 if ready else 503, dumps=lambda value: json.dumps(value, indent=2))

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer the counters of this process and the gauges of the outbox, in Prometheus' text format."""
        overview = await self._overview_cache.get(_DATABASE_TIMEOUT_S, fresh=_FRESH_S, stale=_MAX_AGE_S)
        gauges = CollectorRegistry()
        gauges.register(_Gauges(self._listener, self._breaker, self._health, overview))
        body = generate_latest(REGISTRY) + generate_latest(gauges)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Gauges(Collector):
    """Values read at the time of the scrape: of this process, and of the outbox if the database answers."""

    def __init__(self, listener: Listener, breaker: Breaker, health: Health, overview: Overview | None) -> None:
        self._listener = listener
        self._breaker = breaker
        self._health = health
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """Yield each gauge. prometheus_client calls this once a scrape."""
        yield _gauge("breaker_open", "1: the mail server is unavailable and nothing is claimed", self._breaker.is_open)
        yield _gauge("listening", "1: LISTEN works; 0: the daemon polls", self._listener.listening)
        yield _gauge(
            "leader", "1: this daemon is the leader, which opens and closes the gate", self._listener.gate.is_leader
        )
        yield _gauge(
            "in_flight_events",
            "Events that this daemon has claimed and not settled",
            self._health.in_flight_count,
        )
        yield _gauge("database_up", "1: the database answers", self._overview is not None)
        capturing = GaugeMetricFamily(
            "pgherald_capturing", "1: the database captures the rule's events; 0: it does not", labels=["rule"]
        )
        for name, problem in self._health.capture.problems.items():
            capturing.add_metric([name], problem is None)
        yield capturing
        if self._overview is None:
            return
        oldest = GaugeMetricFamily(
            "pgherald_oldest_due_age_seconds",
            "Seconds since the first waiting event was due; 0 if none is, or if the rule is paused or suspended",
            labels=["rule"],
        )
        available = GaugeMetricFamily(
            "pgherald_available_events",
            f"Events that wait to be sent, counted up to {MAX_COUNTED} a rule",
            labels=["rule"],
        )
        in_doubt = GaugeMetricFamily(
            "pgherald_in_doubt", "Events whose message was transmitted and got no reply", labels=["rule"]
        )
        paused = GaugeMetricFamily("pgherald_rule_paused", "1: an operator has paused the rule", labels=["rule"])
        suspended = GaugeMetricFamily(
            "pgherald_rule_suspended", "1: a daemon suspends the rule, because it is broken", labels=["rule"]
        )
        # Counted in the database, because a command records reports too.
        bounced = CounterMetricFamily(
            "pgherald_bounced", "Sent events whose email bounced, since the rule is watched", labels=["rule"]
        )
        complained = CounterMetricFamily(
            "pgherald_complained", "Sent events whose reader complained, since the rule is watched", labels=["rule"]
        )
        for rule in self._overview.rules:
            oldest.add_metric([rule.name], rule.behind_s)
            available.add_metric([rule.name], rule.available)
            in_doubt.add_metric([rule.name], rule.in_doubt)
            paused.add_metric([rule.name], rule.paused_at is not None)
            suspended.add_metric([rule.name], rule.suspended_at is not None)
            bounced.add_metric([rule.name], rule.bounced)
            complained.add_metric([rule.name], rule.complained)
        foreign = GaugeMetricFamily(
            "pgherald_foreign_lock_holder",
            "1: a session that is not a daemon holds this advisory lock of pgherald",
            labels=["lock", "pid", "user", "application"],
        )
        for holder in self._overview.foreign_lock_holders:
            foreign.add_metric(
                [holder.lock, str(holder.pid or ""), excerpt(holder.user), excerpt(holder.application)], 1.0
            )
        yield from (oldest, available, in_doubt, paused, suspended, bounced, complained, foreign)
        yield _gauge(
            "in_flight_age_seconds",
            "Seconds since the first event in flight was claimed, of all daemons; 0 if none is in flight",
            self._overview.in_flight_for,
        )
        yield _gauge(
            "notify_queue_usage_ratio",
            "Used share of PostgreSQL's notification queue; at 1 every NOTIFY fails",
            self._overview.notify_queue_usage,
        )


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pgherald_{name}", description, float(value))
