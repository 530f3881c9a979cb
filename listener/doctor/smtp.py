"""From the row to the mail server: the lookup, the template, the sender, the server. No mail goes out."""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from listener.config.fields import LOOPBACK
from listener.config.rules import SQL_NAME, Rule
from listener.db import keys
from listener.db.connection import lookup_pool, opened
from listener.db.owner import execute_as_owner
from listener.db.pool import Pool
from listener.doctor.context import QUERIES, Context, RowSample
from listener.doctor.result import CheckResult, fault, ok, warn
from listener.errors import BadData, ConfigError, RuleBroken
from listener.smtp.advice import advice
from listener.smtp.connection import SessionError, SmtpConnection, Timeouts, tls_context
from listener.smtp.replies import Scope
from listener.worker.lookup import Lookup, LookupResult
from listener.worker.row_budget import MAX_ROW_BYTES

LARGE = 1000
_SAMPLE = 100
_READ = re.compile(rf"\b(?:FROM|JOIN)\s+({SQL_NAME}(?:\.{SQL_NAME})?)", re.IGNORECASE)
_PATIENCE = 20.0
_TIMEOUTS = Timeouts(connect=5, greeting=10, command=10, quit=1)


async def lookup(context: Context, rule: str) -> CheckResult:
    configured = context.settings.rules[rule]
    context.samples[rule] = None
    query = Lookup(rule, configured, as_owner=True)
    try:
        async with opened(pool := lookup_pool(context.settings.database.lookups)):
            async with context.reading() as conn:
                columns = await query.check(conn, pool)
            newest = await _keys(context, configured)
            plan = await _plan(pool, configured, newest[:1])
            hidden = await _hidden(context, configured, plan)
            whole = await _whole_table(context, plan) if newest else None
            found = await _rows(pool, query, newest)
    except RuleBroken as exc:
        denied = "permission denied" in str(exc)
        return fault(
            str(exc), "GRANT SELECT on it to the daemon's role" if denied else f"correct [rules.{rule}] lookup"
        )
    except BadData as exc:
        return fault(
            f"the lookup fails on data of the newest rows: {exc}", f"correct [rules.{rule}] lookup, or the rows"
        )
    if found is not None:
        context.samples[rule] = RowSample(columns, found.rows)
    if hidden is not None:
        return hidden
    if not newest:
        return ok(f"runs; {configured.table} has no row to try it with")
    if whole is not None:
        return warn(
            f"reads the whole of {whole}, for one key",
            "CREATE INDEX on the column it looks by; cast the keys and not the column: = ANY (%(keys)s::bigint[])",
        )
    if found is None:
        return warn(
            f"no answer for {len(newest)} keys in {_PATIENCE:g} s", "look at it with EXPLAIN (ANALYZE, BUFFERS)"
        )
    if found.too_large:
        key, octets = next(iter(found.too_large.items()))
        return warn(
            f"its rows are too large for {len(found.too_large)} of the newest {len(newest)}; key {key} has {octets} octets, and "
            f"at most {MAX_ROW_BYTES} are read",
            "leave out of the SELECT what the template does not take, or shorten it there: left(text, 10000)",
        )
    return ok(f"runs, by index; finds {len(found.rows)} of the newest {len(newest)} rows")


async def _rows(pool: Pool, query: Lookup, newest: list[str]) -> LookupResult | None:
    """None where it takes too long."""
    if not newest:
        return LookupResult({})
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            return await query.rows(pool, newest)
    return None


async def _keys(context: Context, rule: Rule) -> list[str]:
    """Of the newest rows, as the outbox would hold them; by the key's index."""
    async with context.tables() as conn, conn.cursor() as cursor:
        types = dict(await (await conn.execute(keys.COLUMN_TYPES, keys.of(rule))).fetchall())
        query = sql.SQL("SELECT convert_to({}, getdatabaseencoding()) FROM {} AS t ORDER BY {} LIMIT {}").format(
            keys.key_text(rule, types),
            sql.SQL(rule.table),
            sql.SQL(", ").join(sql.SQL("t.{} DESC").format(sql.Identifier(column)) for column in rule.key),
            sql.Literal(_SAMPLE),
        )
        await execute_as_owner(cursor, rule.table, query.as_string(conn).replace("%", "%%"))
        newest = [octets for (octets,) in await cursor.fetchall()]
    # One that no client can read is not among them, nor one that is longer than a key may be.
    if context.installed:
        return [row["key"] for row in await context.rows(QUERIES["readable"], {"keys": newest})]
    return [octets.decode(errors="replace") for octets in newest]


async def _plan(pool: Pool, rule: Rule, of: list[str]) -> list[dict[str, Any]]:
    """The nodes of the lookup's plan."""
    explain = f"EXPLAIN (VERBOSE, FORMAT JSON) {rule.lookup.strip().rstrip(';')}"
    async with pool.connection() as conn, conn.cursor() as cursor:
        await execute_as_owner(cursor, rule.table, explain, of)
        [(found,)] = await cursor.fetchall()
    return list(_nodes(found[0]["Plan"]))


async def _hidden(context: Context, rule: Rule, plan: list[dict[str, Any]]) -> CheckResult | None:
    """Row level security that keeps rows from the daemon, for which a hidden row is one that is gone."""
    # The plan knows views' tables; but a table of which nothing may be seen is not in it any more.
    read = {_name(node) for node in plan if "Relation Name" in node} | set(_READ.findall(rule.lookup))
    async with context.tables() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(QUERIES["rls_tables"], {"tables": sorted({rule.table} | read)})
        rows = await cursor.fetchall()
    for row in rows:
        if row["whole"]:
            continue
        table, role = row["table"], row["role"]
        remedy = f"CREATE POLICY pgherald ON {table} FOR SELECT TO {role} USING (true); or ALTER ROLE {role} BYPASSRLS"
        if not row["some"]:
            return fault(f"row level security shows {role} no row of {table}: every event would be row_gone", remedy)
        return warn(
            f"row level security may hide rows of {table} from {role}: their events would be skipped as row_gone",
            remedy,
        )
    return None


def _name(node: dict[str, Any]) -> str:
    return sql.Identifier(node["Schema"], node["Relation Name"]).as_string(None)


async def _whole_table(context: Context, plan: list[dict[str, Any]]) -> str | None:
    """A large table that the lookup would read from end to end for one key, and what it looks for there."""
    for node in plan:
        if node["Node Type"] != "Seq Scan":
            continue
        size = (await context.row(QUERIES["table_size"], {"table": _name(node)}))["rows"]
        if size > LARGE:
            condition = f" by {node['Filter'][:120]}" if "Filter" in node else ""
            return f"{node['Schema']}.{node['Relation Name']} (about {size:.0f} rows){condition}"
    return None


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


async def sender(context: Context) -> CheckResult:
    mail = context.settings.mail
    for key, mailbox in (("from", mail.sender), ("envelope_from", mail.envelope_from)):
        if mailbox is not None and (domain := mailbox.address.domain) in ("localhost", "localhost.localdomain"):
            return warn(
                f"[mail] {key} is {mailbox.address.local}@{domain}: other servers refuse it",
                f"set [mail] {key} to an address at your own domain (PGHERALD_MAIL_{key.upper()})",
            )
    held = f", to {', '.join(mail.allowed_recipients)} only" if mail.allowed_recipients is not None else ""
    held += f", all of it to {mail.redirect_to}" if mail.redirect_to is not None else ""
    return ok(f"mail goes out from {mail.sender.address}{held}")


async def smtp(context: Context) -> CheckResult:
    """Connect, TLS, EHLO, AUTH, QUIT; or, where there is no server, whether the folder can be written to."""
    mail = context.settings.mail
    if mail.transport == "console":
        return ok("no mail server: messages go to stdout")
    if mail.transport == "file":
        assert mail.directory is not None
        if mail.directory.is_symlink():
            return fault(f"{mail.directory} is a symbolic link, and is not followed", "name the folder it leads to")
        there = next(folder for folder in (mail.directory, *mail.directory.absolute().parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            return fault(f"{there} cannot be written to", "correct its permissions, or [mail] directory")
        return ok(f"no mail server: messages go to {mail.directory}")
    settings = context.settings.smtp
    url = settings.server
    place = f"{url.host}:{url.port}"
    try:
        async with asyncio.timeout(_PATIENCE):
            connection = await SmtpConnection.open(replace(url, timeouts=_TIMEOUTS), tls_context(settings.ca_file))
            await connection.close()
    except ConfigError as exc:
        return fault(str(exc), "correct it in [smtp]")
    except TimeoutError:
        return fault(f"{place}: no session within {_PATIENCE:g} s", "see the mail server's load and log")
    except SessionError as exc:
        waits = "" if exc.verdict.scope is Scope.configuration else "; events wait, none is lost"
        return fault(f"{place}: {exc}{waits}", advice(exc.phase, exc.verdict))
    secured = {"off": "in clear", "starttls": "STARTTLS, certificate good", "tls": "TLS, certificate good"}[
        url.security
    ]
    # A provider's token may be both.
    name = f" as {url.username}" if url.username != url.password else ""
    seen = f"{place} answers, {secured}" + (f", logged in{name}" if url.username else "")
    if url.security == "off" and url.host not in LOOPBACK:
        return warn(seen + ": addresses and places can be read on the way", "take ?starttls=off out of [smtp] url")
    return ok(seen)
