"""The stage of a run: a cluster, a mail server, and daemons, each of which reaches the cluster through a proxy."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.conninfo import make_conninfo

from listener.demo.cluster import Cluster
from tests.chaos.catcher import DOT_TIMEOUT, Catcher
from tests.chaos.daemons import Daemon
from tests.chaos.plan import KINDS
from tests.chaos.writers import TABLES, Ledger, Writer
from tests.support import wait_until_async
from tests.support.configuration import configuration
from tests.support.database import OPTIONS, fill_with_story
from tests.support.proxy import Proxy

LEASE = 3.0
_ROOT = Path(__file__).parents[2]
_START = 60.0
_MOST_PEOPLE = 5
# Each row has one to five people, without a table of them: the writers know only the row.
_LOOKUP = f"""
SELECT d.id AS key, d.status AS current, n AS person, u.email_notifications_enabled OR n > 0 AS consent, p.place,
       CASE n WHEN 0 THEN u.email ELSE concat('p', n, '.', u.email) END AS email
  FROM public.dateplan d JOIN public.users u ON u.id = d.user_id JOIN public.plan p ON p.id = d.plan_id
 CROSS JOIN generate_series(0, d.id %% {_MOST_PEOPLE}) AS n
 WHERE d.id = ANY (%(keys)s::bigint[])"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    `gap`: seconds between two faults, at least and at most. `dot`: seconds that the mail server takes to answer a
    message, at least and at most. `pairs`: how many times it is listened for a lost wake-up in the calm.
    """

    seed: int
    seconds: float = 60.0
    daemons: int = 3
    policy: Literal["resend", "hold"] = "resend"
    kinds: tuple[str, ...] = KINDS
    gap: tuple[float, float] = (0.4, 3.2)
    dot: tuple[float, float] = (0.0, 0.03)
    pairs: int = 30
    connections: int = 8
    mutant: str | None = None
    fsync: bool = False


@dataclass
class Stage:
    options: Options
    cluster: Cluster
    dsn: str
    catcher: Catcher
    daemons: list[Daemon]
    proxies: list[Proxy]
    ledger: Ledger

    def writer(self, number: int) -> Writer:
        """A session of the application, straight to the database, under a role that has no right on our schema."""
        dsn = make_conninfo(self.dsn, user="application", password="application", application_name="application")
        return Writer(dsn, self.ledger, random.Random(f"{self.options.seed} writer {number}"))

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, application_name="chaos")


@asynccontextmanager
async def staged(options: Options, folder: Path) -> AsyncIterator[Stage]:
    """All of it, with the daemons ready. Their logs are in `folder`."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(options={**OPTIONS, "fsync": "on" if options.fsync else "off"})
        stack.callback(cluster.close)
        await asyncio.to_thread(cluster.start)
        configuration(folder, each="person", lookup=_LOOKUP)
        dsn = cluster.dsn("story")
        await asyncio.to_thread(_furnish, cluster.dsn(), dsn)
        # Its dice are not the schedule's, which is to be the seed's, whatever else is drawn.
        catcher = Catcher(random.Random(f"{options.seed} catcher"), options.dot)
        await stack.enter_async_context(catcher)
        proxies = [await stack.enter_async_context(Proxy(cluster.port)) for _ in range(options.daemons)]
        daemons = [
            Daemon(number, _environment(options, number, dsn, proxy, catcher), folder, options.mutant)
            for number, proxy in enumerate(proxies)
        ]
        for daemon in daemons:
            await daemon.start()
            stack.push_async_callback(daemon.kill)
        await wait_until_async(lambda: all(daemon.is_ready for daemon in daemons), _START)
        yield Stage(options, cluster, dsn, catcher, daemons, proxies, Ledger(most_people=_MOST_PEOPLE))


def _furnish(server: str, story: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("CREATE DATABASE story")
    fill_with_story(story)
    with psycopg.connect(story, autocommit=True) as conn:
        conn.execute(TABLES)


def _environment(options: Options, number: int, dsn: str, proxy: Proxy, catcher: Catcher) -> dict[str, str]:
    """Return the defaults with a shorter lease and shorter timeouts for a silent SMTP server."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGHERALD_"))}
    return {
        **outside,
        "PYTHONPATH": str(_ROOT),
        "PGHERALD_DATABASE_URL": make_conninfo(dsn, port=proxy.port, application_name=f"pgherald {number}"),
        "PGHERALD_SMTP_URL": catcher.url,
        "PGHERALD_SMTP_CONNECTIONS": str(options.connections),
        "PGHERALD_SMTP_CONNECT_TIMEOUT": "2s",
        "PGHERALD_SMTP_COMMAND_TIMEOUT": "2s",
        "PGHERALD_SMTP_DATA_TIMEOUT": "2s",
        "PGHERALD_SMTP_DOT_TIMEOUT": f"{DOT_TIMEOUT:g}s",
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
        "PGHERALD_DELIVERY_LEASE": f"{LEASE:g}s",
        "PGHERALD_DELIVERY_IN_DOUBT": options.policy,
        "PGHERALD_HTTP_LISTEN": "off",
        "PGHERALD_LOG_FORMAT": "json",
    }
