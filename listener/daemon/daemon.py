"""The composition root: settings in, a running daemon out, with its signals and its shutdown."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from listener import __version__, metrics, retry
from listener.config.settings import Settings
from listener.daemon.reload import Reloader, warn_if_restricted
from listener.daemon.systemd import Systemd
from listener.daemon.tasks import Tasks
from listener.db.pools import batch_lookup_pool, opened, outbox_pool
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.rate_limit import RateLimiter
from listener.outbox.registration import Registration
from listener.outbox.stats import StatsWriter
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.worker.claimer import Claimer
from listener.worker.decider import Decider
from listener.worker.lease import WorkerLease
from listener.worker.lock_watch import LockWatch
from listener.worker.loop import Worker
from listener.worker.registry import WorkerRegistry
from listener.worker.runtime import Runtime
from listener.worker.sender import Senders
from listener.worker.suspensions import Suspension

if TYPE_CHECKING:
    from listener.web.server import HttpServer

# A daemon that cannot LISTEN begins to poll after this time.
_LISTEN_TIMEOUT_S = 5.0
# `run --once` also delivers what a dead worker had claimed. The first look at the other workers takes less than this.
_FIRST_LOOK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Remaining:
    """The end of `run_once`.

    Attributes:
        server_reached: Whether the mail server could be reached.
        available: Number of events for later retries.
        in_doubt: Number of events in doubt.
        paused: Number of events of paused rules.
        suspended: The rules that are broken. Their events are in none of these numbers.
    """

    server_reached: bool
    available: int
    in_doubt: int
    paused: int
    suspended: Mapping[str, Suspension]


class Daemon:
    """Everything that one `pgherald run` consists of.

    `read` reads the configuration again on SIGHUP.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self._settings = settings
        url = settings.database.url
        # A connection that hangs must be noticed before the lease is over.
        pool = outbox_pool(url, patience=max(1.0, settings.delivery.lease / 2))
        self._pools = (pool, batch_lookup_pool(settings.database.lookups))
        self._breaker = Breaker()
        self._reloader = Reloader(settings, read, self._breaker, self._pools[1])
        registration = Registration(settings.delivery.lease)
        self._outbox = Outbox(pool, registration, lambda rule: self._reloader.settings.holds_doubts(rule))
        self._registry = WorkerRegistry(pool, registration, lambda: self._reloader.settings.held_rules)
        poll = settings.delivery.poll
        self._listener = Listener(settings.database.listen_url or url, self._outbox.ring, poll)
        self._lease = WorkerLease(self._registry, self._listener, self._breaker, poll)
        self._health = Health(settings, self._listener, self._breaker)
        self._http: HttpServer | None = None
        if settings.http.address is not None:
            # Imported here: aiohttp takes a sixth of a command's start-up time, and no command needs it.
            from listener.web import server

            self._http = server.HttpServer(
                settings, lambda: self._reloader.settings, self._health, self._listener, self._breaker
            )
        self._systemd = Systemd()
        self._tasks = Tasks()

    async def run(self) -> None:
        """Deliver until SIGTERM or SIGINT. Wait for the database as long as it takes.

        Raises:
            SchemaError, RuleBroken, ConfigError: waiting does not help.
        """
        async with self._http.served() if self._http else nullcontext(), self._started(wait=True) as worker:
            self._tasks.start(worker.run(), "worker")
            is_alive = partial(self._loops_alive, worker)
            self._tasks.start(self._systemd.watch(is_alive, lambda: self._status), "watchdog")
            await self._tasks.stopping.wait()
            log.info("stopping")
            self._systemd.stopping()
            self._health.stopping = True
            await worker.stop(self._reloader.settings.delivery.grace)
        log.info("stopped")

    async def run_once(self) -> Remaining:
        """Deliver what is due. Return what is left."""
        async with self._started(wait=False) as worker:
            await retry.wait(self._lease.first_look_done, _FIRST_LOOK_TIMEOUT_S)
            draining = self._tasks.start(worker.drain_all(), "drain")
            draining.add_done_callback(lambda task: self._tasks.stopping.set())
            await self._tasks.stopping.wait()
            await worker.stop(self._reloader.settings.delivery.grace)
            self._tasks.raise_error()
            reached, suspended = await draining, worker.suspended
            rules = [rule for rule in self._reloader.settings.rules if rule not in suspended]
            return Remaining(reached, *await self._outbox.waiting(rules), suspended)

    @asynccontextmanager
    async def _started(self, *, wait: bool) -> AsyncIterator[Worker]:
        reload_requested = self._handle_signals()
        for rule in self._settings.rules:
            metrics.known(rule)
        async with opened(*self._pools):
            runtime = await self._first_runtime(wait=wait)
            batch_writer, stats = BatchWriter(self._outbox), StatsWriter(self._pools[0])
            worker, senders = self._worker(runtime, batch_writer)
            self._listener.presence.assign(self._registry.registration.presence_lock)
            self._tasks.start(self._listener.keep(), "listener")
            self._tasks.start(self._lease.keep(lambda: worker.suspended), "lease")
            self._tasks.start(LockWatch(self._registry, self._listener).run(), "lock watch")
            self._tasks.start(batch_writer.run(), "batch writer")
            self._tasks.start(self._health.capture.run(), "capture watch")
            await retry.wait(self._listener.ready, _LISTEN_TIMEOUT_S)
            self._handle_reload(worker, reload_requested)
            warn_if_restricted(self._settings)
            log.info(
                "ready",
                version=__version__,
                worker=self._registry.registration.name,
                listening=self._listener.listening,
            )
            self._systemd.ready(self._status)
            self._tasks.start(stats.run(), "stats")
            self._health.started(worker)
            senders.start(self._tasks.start)
            try:
                yield worker
            finally:
                await worker.runtime.transport.close()
                await self._tasks.cancel()
                await stats.flush()
                with suppress(PgheraldError):
                    # Release claims whose reply never arrived.
                    await self._outbox.release_lost_claims(())
                    await self._registry.unregister()
        self._tasks.raise_error()

    async def _first_runtime(self, *, wait: bool) -> Runtime:
        """Return the first runtime once the database answers, and register this worker."""
        outage = Outage("database_unavailable", first=0.1, longest=1.0)
        while True:
            try:
                runtime = await self._reloader.first()
                await self._registry.register()
            except DatabaseUnavailable as exc:
                if not wait:
                    raise
                if self._http:
                    self._http.log_address()
                self._systemd.waiting(f"waiting for the database: {exc}")
                await retry.wait(self._tasks.stopping, outage.failed(exc))
                if self._tasks.stopping.is_set():
                    raise SystemExit(0) from exc
            else:
                if self._http:
                    self._http.set_secret(self._reloader.secret)
                    self._http.log_address()
                return runtime

    def _worker(self, runtime: Runtime, batch_writer: BatchWriter) -> tuple[Worker, Senders]:
        poll = self._settings.delivery.poll
        rate_limiter = RateLimiter(self._pools[0])
        senders = Senders(
            self._outbox,
            batch_writer,
            self._breaker,
            rate_limiter,
            self._listener.doorbell,
            connections=self._settings.smtp.connections,
            poll=poll,
        )
        decider = Decider(self._outbox, self._pools[1], senders, rate_limiter, self._listener.doorbell)
        claimer = Claimer(self._outbox, senders.in_flight, decider)
        worker = Worker(claimer, senders, self._listener, self._breaker, rate_limiter, runtime=runtime, poll=poll)
        return worker, senders

    def _handle_signals(self) -> asyncio.Event:
        """Stop on SIGTERM and SIGINT. Return an event that is set by a SIGHUP before the daemon is ready."""

        def stop() -> None:
            if self._tasks.stopping.is_set():
                # The second signal. Nothing is lost: marked events come into doubt, another worker claims the others.
                os._exit(1)
            self._tasks.stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # By default SIGHUP would end the process, also while it waits for the database.
        requested = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, requested.set)
        return requested

    def _handle_reload(self, worker: Worker, requested: asyncio.Event) -> None:
        def reload() -> None:
            self._tasks.start(self._reload(worker), "reload")

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        if requested.is_set():
            reload()

    async def _reload(self, worker: Worker) -> None:
        self._systemd.reloading()
        try:
            await self._reloader.reload(worker)
        finally:
            self._systemd.ready(self._status)

    def _loops_alive(self, worker: Worker, seconds: float) -> bool:
        """Return whether worker and lease loop are making iterations. A database outage does not stop them."""
        oldest = min(worker.last_iteration_at, self._lease.last_iteration_at)
        return asyncio.get_running_loop().time() - oldest < seconds + self._settings.delivery.poll

    @property
    def _status(self) -> str:
        return f"{self._registry.registration.name}, {self._health.summary}"
