"""The composition root: settings in, a running daemon out; its signals and its clock."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from listener import __version__, schema
from listener.breaker import Breaker
from listener.config import Settings
from listener.database import lookup_pool, opened, outbox_pool, translated
from listener.delivery import Delivery
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.listen import Listener
from listener.logs import log
from listener.message import Stationery
from listener.outbox import Outbox
from listener.post import Post
from listener.recorder import Recorder
from listener.render import Templates
from listener.retry import backoff
from listener.smtp import Server, Timeouts, tls_context
from listener.worker import Worker

_TICK = 0.25
_LISTEN_FIRST = 5.0


class Daemon:
    """Everything that one `pgherald run` is made of."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings] | None = None) -> None:
        self._settings = settings
        self._reload = reload
        self._outbox_pool = outbox_pool(settings.database.url)
        self._lookup_pool = lookup_pool(settings.database.url)
        self._outbox = Outbox(
            self._outbox_pool, lease=settings.delivery.lease, hold=settings.delivery.in_doubt == "hold"
        )
        self._listener = Listener(settings.database.listen_url or settings.database.url, self._outbox.ring)
        self._recorder = Recorder(self._outbox)
        self._breaker = Breaker()
        self._templates = templates(settings)
        self._secret = b""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Deliver until SIGTERM or SIGINT. Waits for the database as long as it takes.

        Raises:
            SchemaError, RuleBroken: what no waiting would mend.
        """
        async with self._working(wait=True) as worker:
            log.info("ready", version=__version__, worker=self._outbox.name, listening=self._listener.hearing)
            running = asyncio.create_task(worker.run())
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            log.info("stopping")
            stopping = asyncio.create_task(worker.stop(self._settings.delivery.grace))
            await asyncio.gather(running, stopping)
        log.info("stopped")

    async def run_once(self) -> tuple[bool, int, int]:
        """Deliver what is due: whether the mail server could be reached, and what is left available and in doubt."""
        async with self._working(wait=False) as worker:
            log.info("ready", version=__version__, worker=self._outbox.name, listening=self._listener.hearing)
            draining = asyncio.create_task(worker.drain_all())
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait([draining, stopped], return_when=asyncio.FIRST_COMPLETED)
            await worker.stop(self._settings.delivery.grace)
            reached = await draining if draining.done() else True
            draining.cancel()
            stopped.cancel()
            return reached, *await self._outbox.waiting(list(self._settings.rules))

    @asynccontextmanager
    async def _working(self, *, wait: bool) -> AsyncIterator[Worker]:
        async with opened(self._outbox_pool, self._lookup_pool):
            delivery = await self._checked(wait=wait)
            await self._outbox.register()
            worker = self._worker(delivery)
            background = [
                asyncio.create_task(task) for task in (self._listener.keep(), self._recorder.run(), self._tend(worker))
            ]
            self._handle_signals(worker)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LISTEN_FIRST):
                        await self._listener.ready.wait()
                await self._take_over(worker)
                worker.start()
                yield worker
            finally:
                await worker.post.close()
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                with suppress(PgheraldError):
                    await self._outbox.leave()

    async def _checked(self, *, wait: bool) -> Delivery:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(10):
                    with translated():
                        async with self._outbox_pool.connection() as conn:
                            await schema.verify(conn, self._settings.rules)
                            self._secret = await schema.secret(conn)
                delivery = self._delivery(self._settings, self._templates)
                await delivery.check(self._lookup_pool)
            except (DatabaseUnavailable, TimeoutError) as exc:
                if not wait:
                    raise DatabaseUnavailable(str(exc) or "the database does not answer") from exc
                failures += 1
                log.warning("database_waits", error=str(exc))
                await asyncio.sleep(backoff(failures, first=0.2, longest=5.0))
            else:
                return delivery

    def _delivery(self, settings: Settings, templates: Templates) -> Delivery:
        stationery = Stationery(sender=settings.mail.sender, key_header=settings.mail.key_header)
        return Delivery(
            settings.rules,
            templates,
            stationery,
            self._secret,
            max_attempts=settings.delivery.max_attempts,
            max_age=settings.delivery.max_age,
        )

    def _worker(self, delivery: Delivery) -> Worker:
        settings = self._settings
        return Worker(
            self._outbox,
            self._lookup_pool,
            self._listener,
            self._recorder,
            delivery,
            post(settings, self._breaker),
            self._breaker,
            sender=(settings.mail.envelope_from or settings.mail.sender).address,
            connections=settings.smtp.connections,
            poll=settings.delivery.poll,
        )

    async def _tend(self, worker: Worker) -> None:
        """Renew the lease, hold the locks, take over from the dead: four times a second, for a take-over within one."""
        loop = asyncio.get_running_loop()
        renewed, away = 0.0, False
        while True:
            try:
                await self._listener.lead()
                await self._listener.show(self._outbox.worker)
                if loop.time() - renewed > self._settings.delivery.lease / 4:
                    renewed = loop.time()
                    await self._renew()
                await self._take_over(worker)
                away = False
            except PgheraldError as exc:
                if not away:
                    log.warning("lease_waits", error=str(exc))
                away = True
            await asyncio.sleep(_TICK)

    async def _renew(self) -> None:
        listener = self._listener
        breaker = self._breaker.reason if self._breaker.is_open else None
        if not await self._outbox.renew(locked=listener.locked, listening=listener.hearing, breaker=breaker):
            log.warning("declared_dead", worker=self._outbox.worker)
            await self._outbox.register()
            listener.locked = False

    async def _take_over(self, worker: Worker) -> None:
        burial = await self._outbox.bury()
        worker.peers = burial.peers
        if burial.names or burial.freed or burial.doubted:
            log.warning("took_over", workers=burial.names, released=burial.freed, in_doubt=burial.doubted)
        if burial.freed or burial.due:
            self._listener.wake.set()

    def _handle_signals(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set():
                # Nothing is lost by it: what is marked comes into doubt, the rest goes to another worker.
                os._exit(1)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: reloads.append(loop.create_task(self._read_again(worker))))
        reloads: list[asyncio.Task[None]] = []

    async def _read_again(self, worker: Worker) -> None:
        """Configuration and templates anew; all of it or nothing. The database's address takes a restart."""
        try:
            settings = self._reload() if self._reload is not None else self._settings
            fresh = templates(settings)
            delivery = self._delivery(settings, fresh)
            with translated():
                async with self._outbox_pool.connection() as conn:
                    await schema.verify(conn, settings.rules)
            await delivery.check(self._lookup_pool)
        except PgheraldError as exc:
            log.error(
                "reload_refused", error=str(exc), remedy="mend it and send SIGHUP again; the old ones stay in use"
            )
            return
        old = worker.post
        worker.delivery, worker.post = delivery, post(settings, self._breaker)
        worker.sender = (settings.mail.envelope_from or settings.mail.sender).address
        await old.close()
        log.info("reloaded", rules=list(settings.rules))


def templates(settings: Settings) -> Templates:
    return Templates({rule.template for rule in settings.rules.values()}, settings.mail.templates)


def post(settings: Settings, breaker: Breaker) -> Post:
    smtp = settings.smtp
    url = smtp.server
    server = Server(
        host=url.host,
        port=url.port,
        security=url.security,
        username=url.username,
        password=url.password,
        ehlo_name=smtp.ehlo_name,
        timeouts=Timeouts(
            connect=smtp.connect_timeout, command=smtp.command_timeout, data=smtp.data_timeout, dot=smtp.dot_timeout
        ),
    )
    return Post(server, tls_context(smtp.ca_file), smtp.connections, breaker)
