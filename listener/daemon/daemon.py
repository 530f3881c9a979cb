"""The composition root: settings in, a running daemon out; its signals and its clock."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from listener import __version__, metrics
from listener.config.settings import Settings
from listener.daemon.systemd import Systemd
from listener.db import schema
from listener.db.connection import connect_async, lookup_pool, opened, outbox_pool, translate_errors
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.mail.composer import Composer, templates
from listener.mail.templates import Templates
from listener.mail.unsubscribe import signing_key
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.rate_limit import RateLimiter
from listener.outbox.stats import StatsWriter
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.transport.build import transport
from listener.worker.delivery import Delivery
from listener.worker.lease import WorkerLease
from listener.worker.lock_watch import LockWatch
from listener.worker.loop import Worker
from listener.worker.sender import Senders

if TYPE_CHECKING:
    from listener.web.server import HttpServer

T = TypeVar("T")

_LISTEN_TIMEOUT_S = 5.0
_FIRST_LOOK_TIMEOUT_S = 2.0


class Daemon:
    """Everything that one `pgherald run` is made of."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings] | None = None) -> None:
        self._settings = settings
        self._reload = reload
        # A connection that hangs must be found out before the lease is over.
        self._outbox_pool = outbox_pool(settings.database.url, patience=max(1.0, settings.delivery.lease / 2))
        self._lookup_pool = lookup_pool(settings.database.lookups)
        self._outbox = Outbox(
            self._outbox_pool, lease=settings.delivery.lease, hold=settings.delivery.in_doubt == "hold"
        )
        self._listener = Listener(settings.database.listen_url or settings.database.url, self._outbox.ring)
        self._batch_writer = BatchWriter(self._outbox)
        self._rate_limiter = RateLimiter(self._outbox_pool, settings.smtp.rate)
        self._breaker = Breaker()
        self._lease = WorkerLease(self._outbox, self._listener, self._breaker, settings.delivery.lease)
        self._stats = StatsWriter(self._outbox)
        self._health = Health(settings, self._listener, self._breaker)
        self._http: HttpServer | None = None
        if settings.http.address is not None:
            # Here, because aiohttp takes a sixth of a command's start, and nobody else needs it.
            from listener.web import server as site

            self._http = site.HttpServer(settings, self._health, self._listener, self._breaker)
        self._templates = templates(settings)
        self._systemd = Systemd()
        self._secret = b""
        self._stop = asyncio.Event()
        self._early_reload = asyncio.Event()
        self._background: list[asyncio.Task[Any]] = []
        self._crash: PgheraldError | None = None

    async def run(self) -> None:
        """Deliver until SIGTERM or SIGINT. Waits for the database as long as it takes.

        Raises:
            SchemaError, RuleBroken: what no waiting would mend.
        """
        async with self._http.served() if self._http else nullcontext(), self._started(wait=True) as worker:
            self._in_background(worker.run())
            self._in_background(self._systemd.watch(lambda seconds: self._loops_alive(worker, seconds)))
            await self._stop.wait()
            log.info("stopping")
            self._systemd.stopping()
            self._health.stopping = True
            await worker.stop(self._settings.delivery.grace)
        log.info("stopped")

    async def run_once(self) -> tuple[bool, int, int, int]:
        """Deliver what is due: whether the mail server could be reached; what is left available, in doubt, paused."""
        async with self._started(wait=False) as worker:
            # What a dead worker had in hand is due, too.
            await _set_within(_FIRST_LOOK_TIMEOUT_S, self._lease.first_look_done)
            draining = self._in_background(worker.drain_all())
            draining.add_done_callback(lambda task: self._stop.set())
            await self._stop.wait()
            await worker.stop(self._settings.delivery.grace)
            if self._crash is not None:
                raise self._crash
            return await draining, *await self._outbox.waiting(list(self._settings.rules))

    @asynccontextmanager
    async def _started(self, *, wait: bool) -> AsyncIterator[Worker]:
        self._handle_stop()
        for rule in self._settings.rules:
            metrics.known(rule)
        async with opened(self._outbox_pool, self._lookup_pool):
            worker = self._worker(await self._checked(wait=wait))
            self._listener.set_worker(self._outbox.presence_lock)
            self._in_background(self._listener.keep())
            self._in_background(self._lease.keep())
            self._in_background(LockWatch(self._outbox, self._listener).run())
            self._in_background(self._batch_writer.run())
            await _set_within(_LISTEN_TIMEOUT_S, self._listener.ready)
            self._handle_reload(worker)
            _warn_if_restricted(self._settings)
            log.info("ready", version=__version__, worker=self._outbox.name, listening=self._listener.listening)
            self._systemd.ready(self._status)
            self._in_background(self._stats.run())
            self._health.worker = worker
            worker.senders.start(self._in_background)
            try:
                yield worker
            finally:
                await worker.senders.post.close()
                for task in self._background:
                    task.cancel()
                await asyncio.gather(*self._background, return_exceptions=True)
                await self._stats.flush()
                with suppress(PgheraldError):
                    # What was claimed and not known of when it was time to end.
                    await self._outbox.release_lost_claims(())
                    await self._outbox.unregister()
        if self._crash is not None:
            raise self._crash

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it beside the rest. What it does not catch itself ends the daemon: half of one would deliver nothing."""
        task = asyncio.create_task(work)
        self._background.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            if not isinstance(exc, PgheraldError):
                log.critical("crashed", exc_info=exc)
                exc = PgheraldError(f"ended by an unforeseen error: {exc!r}")
            self._crash = exc
            self._stop.set()

    async def _checked(self, *, wait: bool) -> Delivery:
        """Everything that can be known to be wrong before the first event is claimed; and the registration."""
        outage = Outage("database_unavailable", first=0.1, longest=1.0)
        while True:
            try:
                with translate_errors():
                    async with await connect_async(self._settings.database.url) as conn:
                        await schema.verify(conn, self._settings.rules)
                        self._secret = await schema.secret(conn)
                        if self._http:
                            self._http.signs_with(signing_key(self._secret))
                        delivery = self._delivery(self._settings, self._templates)
                        await delivery.check(conn, self._lookup_pool)
                await self._outbox.register()
            except DatabaseUnavailable as exc:
                if not wait:
                    raise
                if self._http:
                    self._http.tell()
                self._systemd.waiting(f"waits for the database: {exc}")
                await _set_within(outage.failed(exc), self._stop)
                if self._stop.is_set():
                    raise SystemExit(0) from exc
            else:
                if self._http:
                    self._http.tell()
                return delivery

    def _delivery(self, settings: Settings, templates: Templates) -> Delivery:
        return Delivery(
            settings.rules,
            Composer(settings, templates, self._secret),
            self._secret,
            max_attempts=settings.delivery.max_attempts,
            max_age=settings.delivery.max_age,
        )

    def _worker(self, delivery: Delivery) -> Worker:
        settings = self._settings
        senders = Senders(
            self._outbox,
            self._listener,
            self._batch_writer,
            transport(settings, self._breaker),
            self._breaker,
            self._rate_limiter,
            sender=settings.mail.return_path,
            connections=settings.smtp.connections,
            poll=settings.delivery.poll,
        )
        return Worker(
            self._outbox,
            self._lookup_pool,
            self._listener,
            delivery,
            senders,
            self._breaker,
            self._rate_limiter,
            poll=settings.delivery.poll,
        )

    def _handle_stop(self) -> None:
        def stop() -> None:
            if self._stop.is_set():
                # Nothing is lost by it: what is marked comes into doubt, the rest goes to another worker.
                os._exit(1)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        # While it waits for the database there is nothing yet to put anew; by default the signal would end us.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._early_reload.set)

    def _handle_reload(self, worker: Worker) -> None:
        def reload() -> None:
            self._in_background(self._reload_settings(worker))

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        if self._early_reload.is_set():
            reload()

    def _loops_alive(self, worker: Worker, seconds: float) -> bool:
        """Whether the loops that nothing goes out without went round lately; also over a database that is away.

        A restart would bring that back no sooner.
        """
        oldest = min(worker.last_iteration_at, self._lease.last_iteration_at)
        return asyncio.get_running_loop().time() - oldest < seconds + self._settings.delivery.poll

    @property
    def _status(self) -> str:
        return f"{self._outbox.name}, {'listening' if self._listener.listening else 'polling'}"

    async def _reload_settings(self, worker: Worker) -> None:
        """Configuration and templates anew; all of it or nothing. The database's address takes a restart."""
        self._systemd.reloading()
        try:
            await self._replace(worker)
        finally:
            self._systemd.ready(self._status)

    async def _replace(self, worker: Worker) -> None:
        try:
            settings = self._reload() if self._reload is not None else self._settings
            delivery = self._delivery(settings, templates(settings))
            with translate_errors():
                async with await connect_async(self._settings.database.url) as conn:
                    await schema.verify(conn, settings.rules)
                    await delivery.check(conn, self._lookup_pool)
        except PgheraldError as exc:
            log.error(
                "reload_refused", error=str(exc), remedy="mend it and send SIGHUP again; the old ones stay in use"
            )
            return
        senders, old = worker.senders, worker.senders.post
        worker.delivery, senders.post = delivery, transport(settings, self._breaker)
        senders.sender = settings.mail.return_path
        self._rate_limiter.ceiling = settings.smtp.rate
        await old.close()
        for rule in settings.rules:
            metrics.known(rule)
        log.info("reloaded", rules=list(settings.rules))
        _warn_if_restricted(settings)


async def _set_within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _warn_if_restricted(settings: Settings) -> None:
    """Said aloud, because in production it would be a mistake."""
    mail = settings.mail
    if mail.transport != "smtp" or mail.allowed_recipients is not None or mail.redirect_to is not None:
        log.warning(
            "mail_restricted",
            transport=mail.transport,
            **({"allowed_recipients": list(mail.allowed_recipients)} if mail.allowed_recipients is not None else {}),
            **({"redirect_to": mail.redirect_to.masked} if mail.redirect_to is not None else {}),
        )
