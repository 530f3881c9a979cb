"""Make a runtime of the configuration, at the start and again on SIGHUP."""

import asyncio
import traceback
from collections.abc import Callable

from listener import metrics
from listener.config.settings import Settings, reloaded
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
from listener.smtp.oauth import AccessTokens
from listener.transport.build import transport
from listener.worker.delivery import Delivery
from listener.worker.loop import Worker
from listener.worker.runtime import Runtime


class Reloader:
    """Read the configuration and the templates, and swap the worker's runtime as a whole.

    `settings` are those in use. They change together with the runtime, and everything that is not part of the runtime
    reads them from here. The keys of `NEEDS_RESTART` never change. `secret` is known after `first`.

    Raises:
        ConfigError: a template is missing or cannot be compiled.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings] | None, breaker: Breaker, lookups: Pool
    ) -> None:
        self.secret = b""
        self.settings = settings
        self._read = read or (lambda: settings)
        self._reloading = asyncio.Lock()
        self._breaker = breaker
        self._lookups = lookups
        self._tokens = AccessTokens()
        self._templates = templates(settings)

    async def first(self) -> Runtime:
        """Check everything that can be known to be wrong before the first claim, and return the runtime.

        Raises:
            DatabaseUnavailable: waiting may help.
            SchemaError, RuleBroken, ConfigError: waiting does not help.
        """
        with translate_errors():
            async with await connect_async(self.settings.database.url) as conn:
                version = await schema.verify(conn, self.settings.rules)
                self.secret = await schema.secret(conn)
                runtime = await self._checked(self.settings, self._templates)
        if version.is_newer:
            log.info("schema_newer", schema_version=version.number, made_for=VERSION)
        return runtime

    async def reload(self, worker: Worker) -> None:
        """Replace the worker's runtime by that of the present configuration, or keep it and log why."""
        # Of two signals, the later one must not be overtaken.
        async with self._reloading:
            try:
                settings, needs_restart, runtime = await self._read_again()
            except PgheraldError as exc:
                remedy = "correct it and send SIGHUP again; the previous configuration stays in use"
                log.error("reload_refused", error=str(exc), remedy=remedy)
                return
            except Exception as exc:
                # Delivery goes on by the previous configuration. The error's text is left out, because it may quote a secret.
                where = "".join(traceback.format_tb(exc.__traceback__))
                remedy = "please report it; the previous configuration stays in use"
                log.error(
                    "reload_refused", error=f"an internal error: {type(exc).__name__}", where=where, remedy=remedy
                )
                return
            # Nothing is awaited between these, so that nobody sees the one without the other.
            previous, worker.runtime, self.settings = worker.runtime, runtime, settings
            # The operator may have corrected the login. A reload that changed nothing costs one try.
            self._breaker.retry_now()
            await previous.transport.close()
        for rule in settings.rules:
            metrics.known(rule)
        # The new runtime has none: each rule has just been tried.
        for rule in previous.delivery.suspensions.current.keys() & settings.rules.keys():
            log.info("rule_resumed", rule=rule)
        log.info("reloaded", rules=list(settings.rules), **({"needs_restart": needs_restart} if needs_restart else {}))
        warn_if_restricted(settings)

    async def _read_again(self) -> tuple[Settings, list[str], Runtime]:
        settings, needs_restart = reloaded(self.settings, self._read())
        with translate_errors():
            async with await connect_async(settings.database.url) as conn:
                await schema.verify(conn, settings.rules)
                return settings, needs_restart, await self._checked(settings, templates(settings))

    async def _checked(self, settings: Settings, compiled: Templates) -> Runtime:
        delivery = Delivery(
            settings.rules,
            Composer(settings, compiled, self.secret),
            self.secret,
            {name: settings.delivery_of(name) for name in settings.rules},
        )
        await delivery.check(self._lookups)
        way_out = transport(settings, self._breaker, self._tokens)
        senders = {name: settings.mail_of(name).return_path for name in settings.rules}
        return Runtime(delivery, way_out, senders, settings.smtp.rate)


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
