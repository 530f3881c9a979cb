"""Make a runtime of the configuration, at the start and again on SIGHUP."""

from collections.abc import Callable

from psycopg import AsyncConnection

from listener import metrics
from listener.config.settings import Settings
from listener.db import schema
from listener.db.connection import connect_async
from listener.db.errors import translate_errors
from listener.db.pool import Pool
from listener.db.schema_version import VERSION
from listener.errors import PgheraldError
from listener.logs import log
from listener.mail.composer import Composer, templates
from listener.mail.templates import Templates
from listener.smtp.breaker import Breaker
from listener.transport.build import transport
from listener.worker.delivery import Delivery
from listener.worker.loop import Worker
from listener.worker.runtime import Runtime


class Reloader:
    """Read the configuration and the templates, and swap the worker's runtime as a whole.

    The database's address and the settings of the daemon itself take a restart. `secret` is known after `first`.

    Raises:
        ConfigError: a template is missing or cannot be compiled.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings] | None, breaker: Breaker, lookups: Pool
    ) -> None:
        self.secret = b""
        self._settings = settings
        self._read = read or (lambda: settings)
        self._breaker = breaker
        self._lookups = lookups
        self._templates = templates(settings)

    async def first(self) -> Runtime:
        """Check everything that can be known to be wrong before the first claim, and return the runtime.

        Raises:
            DatabaseUnavailable: waiting may help.
            SchemaError, RuleBroken, ConfigError: waiting does not help.
        """
        with translate_errors():
            async with await connect_async(self._settings.database.url) as conn:
                version = await schema.verify(conn, self._settings.rules)
                self.secret = await schema.secret(conn)
                runtime = await self._checked(conn, self._settings, self._templates)
        if version.is_newer:
            log.info("schema_newer", schema_version=version.number, made_for=VERSION)
        return runtime

    async def reload(self, worker: Worker) -> None:
        """Replace the worker's runtime by that of the present configuration, or keep it and log why."""
        try:
            settings = self._read()
            with translate_errors():
                async with await connect_async(self._settings.database.url) as conn:
                    await schema.verify(conn, settings.rules)
                    runtime = await self._checked(conn, settings, templates(settings))
        except PgheraldError as exc:
            remedy = "correct it and send SIGHUP again; the previous configuration stays in use"
            log.error("reload_refused", error=str(exc), remedy=remedy)
            return
        previous, worker.runtime = worker.runtime, runtime
        await previous.transport.close()
        for rule in settings.rules:
            metrics.known(rule)
        log.info("reloaded", rules=list(settings.rules))
        warn_if_restricted(settings)

    async def _checked(self, conn: AsyncConnection[object], settings: Settings, compiled: Templates) -> Runtime:
        delivery = Delivery(
            settings.rules,
            Composer(settings, compiled, self.secret),
            self.secret,
            max_attempts=settings.delivery.max_attempts,
            max_age=settings.delivery.max_age,
        )
        await delivery.check(conn, self._lookups)
        way_out = transport(settings, self._breaker)
        return Runtime(delivery, way_out, settings.mail.return_path, settings.smtp.rate)


def warn_if_restricted(settings: Settings) -> None:
    """Log that emails do not go to their recipients, because in production that would be a mistake."""
    mail = settings.mail
    if mail.transport != "smtp" or mail.allowed_recipients is not None or mail.redirect_to is not None:
        allowed, redirect_to = mail.allowed_recipients, mail.redirect_to
        log.warning(
            "mail_restricted",
            transport=mail.transport,
            **({"allowed_recipients": list(allowed)} if allowed is not None else {}),
            **({"redirect_to": redirect_to.masked} if redirect_to is not None else {}),
        )
