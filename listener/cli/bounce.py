"""bounce: read a report from a mail server on stdin."""

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

import click
import psycopg

from listener import logs
from listener.bounces.dsn import read_report
from listener.bounces.mime import MAX_BYTES
from listener.bounces.record import Recorded, record
from listener.bounces.report import BadReport, Report
from listener.cli.options import config_option, load_settings
from listener.cli.output import write_error, write_line
from listener.config.settings import Settings
from listener.db.connection import connect_async
from listener.db.errors import summary, translate_errors
from listener.db.pools import bounce_pool, opened, statement_pool
from listener.db.schema import secret
from listener.db.schema_version import usable_version
from listener.errors import PgheraldError

# sysexits.h, as Postfix's pipe(8) and procmail read them: return or file the email; keep it and try again.
_EX_DATAERR = 65
_EX_TEMPFAIL = 75
_CHUNK_BYTES = 64 * 1024


@click.command()
@config_option
def bounce(config_file: Path | None) -> None:
    """Read a bounce or a complaint from stdin, and record it in its event.

    Your mail server pipes the email into this command. The rule's statement `bounced` then runs for the row.

    \b
    Exit status:  0   recorded, or there is nothing to record; the line says which
                  65  the email is no report on an email of this database, or cannot be read
                  75  not now: the configuration, the database or the statement fails; deliver the email again later

    \b
    Example:  pgherald bounce < mail.eml
    """
    raw = _read()
    try:
        report = read_report(raw)
        if isinstance(report, str):
            write_line(report)
            return
        recorded = asyncio.run(_record(load_settings(config_file), report))
    except BadReport as exc:
        _exit(exc, _EX_DATAERR)
    except (PgheraldError, psycopg.Error, OSError) as exc:
        _exit(exc, _EX_TEMPFAIL)
    write_line(recorded.line, err=recorded.event_id is None)
    if recorded.event_id is None:
        sys.exit(_EX_DATAERR)


async def _record(loaded: Settings, report: Report) -> Recorded:
    logs.configure("console", "critical")
    url = loaded.database.url
    with translate_errors():
        async with await connect_async(url) as conn:
            await usable_version(conn)
            key = await secret(conn)
    outbox, lookups = bounce_pool(url), statement_pool(loaded.database.lookups)
    async with opened(outbox, lookups):
        return await record(outbox, lookups, loaded.rules, key, report)


def _read() -> bytes:
    """Return the first megabyte of stdin. The rest is read as well, because a mail server may wait to write it."""
    stream = sys.stdin.buffer
    raw = stream.read(MAX_BYTES)
    while stream.read(_CHUNK_BYTES):
        pass
    return raw


def _exit(exc: Exception, status: int) -> NoReturn:
    write_error(summary(exc))
    sys.exit(status)
