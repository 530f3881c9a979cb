"""A mail server that refuses everything for a while, and what the waiting events must come to."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.support import wait_until
from tests.support.backlog import add_plans, states, wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.exim import Exim
from tests.support.postfix import Postfix

NUMBER = 20
EVERYBODY = {f"u{number}@example.org": 1 for number in range(1, NUMBER + 1)}
# Two waves of 20, and one recipient of the first that is refused.
ALL_BUT_ONE = {f"{wave}{number}@example.org": 1 for wave in "uv" for number in range(1, NUMBER + 1)}
del ALL_BUT_ONE["u7@example.org"]
# The daemon's connections: so many messages may be refused at once, before it knows that all are.
CONNECTIONS = 8
# What stops or slows down all events.
STOPS = frozenset({"breaker_open", "breaker_paused", "rate_lowered"})
# From the first refusal on, in which probes are refused, too.
_REFUSED_FOR_S = 4.0


def outlive(
    database: Database,
    pgherald: Pgherald,
    server: Postfix | Exim,
    reply: str,
    *,
    env: Mapping[str, str] | None = None,
    repair: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Require that 20 events wait while the server refuses everything with `reply`, and are sent after its `repair`.

    Return the log event of the breaker's first opening. By default, the repaired server accepts everything.
    """
    plans = add_plans(database, NUMBER)
    with pgherald.daemon(env={"PGHERALD_SMTP_URL": server.url, **(env or {})}) as daemon:
        database.verify(*plans)
        opened = wait_opened(database, daemon)
        assert reply in opened["reason"], opened
        # The daemon writes it with its next heartbeat.
        try:
            wait_until(lambda: reply in pgherald("status", check=True).stdout)
        except AssertionError:
            print(pgherald("status").stdout, daemon.tail(), *server.lines[-40:], sep="\n")
            raise
        wait_until(lambda: states(database)["failed"] or refused_for(database) >= _REFUSED_FOR_S)
        assert states(database)["failed"] == 0, daemon.tail()
        (repair or server.configure)()
        wait_sent(database, NUMBER)
        wait_delivered(server, EVERYBODY)
    # After the first few, which showed that nobody gets through, no event pays for it.
    assert extra_attempts(database) <= CONNECTIONS
    return opened


def wait_opened(database: Database, daemon: Daemon) -> dict[str, Any]:
    """Wait until the breaker opens, and return the log event. It is an error if an event fails before."""
    wait_until(lambda: states(database)["failed"] or any(event["event"] == "breaker_open" for event in daemon.events))
    assert states(database)["failed"] == 0, daemon.tail()
    return daemon.wait_event("breaker_open")


def wait_delivered(server: Postfix | Exim, expected: Mapping[str, int]) -> None:
    """Wait until the server has delivered as many messages as `expected`, and require that they are these."""
    wait_until(lambda: server.delivered.total() >= sum(expected.values()))
    assert server.delivered == expected, server.delivered


def stops(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the log events that say that all events are stopped or slowed down."""
    return [event for event in daemon.events if event["event"] in STOPS]


def extra_attempts(database: Database) -> int:
    """Return the attempts that all events used in vain. A message that is sent uses one."""
    return int(database.value("SELECT sum(attempt - (state = 'sent')::int) FROM pgherald.outbox"))


def refused_for(database: Database) -> float:
    """Return the seconds between the first and the last refusal in the histories of all events."""
    return float(
        database.value("""
            SELECT coalesce(extract(epoch FROM max(at) - min(at)), 0)
              FROM pgherald.outbox, jsonb_to_recordset(history) AS entry (at timestamptz, what text)
             WHERE what IN ('not_sent', 'deferred')""")
    )
