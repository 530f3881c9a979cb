"""A real Exim that refuses: no event fails for a fault that is not its own, and all go once it is repaired.

Exim sends no enhanced codes of its own. The administrator's ACLs say everything at RCPT and after the dot.
"""

import pytest

from tests.support import wait_until
from tests.support.backlog import add_plans, reasons, states, wait_sent
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.exim import Exim
from tests.support.refusal import (
    ALL_BUT_ONE,
    CONNECTIONS,
    EVERYBODY,
    NUMBER,
    extra_attempts,
    outlive,
    stops,
    wait_delivered,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "reply"),
    [
        pytest.param(
            # Nothing routes the sender's address.
            {"rcpt": "  require verify = sender", "router": "  local_parts = ! no-reply"},
            "Sender verify failed",
            id="sender",
        ),
        pytest.param({"rcpt": "  deny"}, "550 Administrative prohibition", id="RCPT"),
        pytest.param({"rcpt": "  deny message = This account is not active"}, "550 This account is not active", id="account"),
        pytest.param({"rcpt": "  deny message = 550 5.7.1 No mail from here"}, "550 5.7.1 No mail from here", id="enhanced"),
        pytest.param({"rcpt": "  drop message = You are on our list"}, "550 You are on our list", id="RCPT, and closes"),
        pytest.param(
            {"rcpt": "  require message = relay not permitted\n    domains = example.com"},
            "550 relay not permitted",
            id="relaying",
        ),
        pytest.param({"data": "  deny"}, "550 Administrative prohibition", id="the dot"),
        pytest.param(
            {"data": "  deny message = The sender's domain may not send from here"},
            "550 The sender's domain may not send from here",
            id="sender at the dot",
        ),
        pytest.param(
            {"data": "  require verify = header_sender", "router": "  local_parts = ! no-reply"},
            "550",
            id="header's sender at the dot",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_the_sender_fails_no_event(
    database: Database, pgherald: Pgherald, given: dict[str, str], reply: str
) -> None:
    with Exim(**given) as exim:
        opened = outlive(database, pgherald, exim, reply)
    assert opened["scope"] == "configuration"


@pytest.mark.parametrize(
    ("given", "reply"),
    [
        pytest.param({"rcpt": "  defer"}, "451 Temporary local problem", id="RCPT"),
        pytest.param({"data": "  defer"}, "451 Temporary local problem", id="the dot"),
        pytest.param(
            {"data": "  defer message = Content filter is not available"},
            "451 Content filter is not available",
            id="filter at the dot",
        ),
        pytest.param(
            {"rcpt": "  accept condition = ${lookup{x}lsearch{/nonexistent}}"},
            "451 Temporary local problem",
            id="lookup",
        ),
        pytest.param({"main": "check_spool_space = 2000000000K"}, "452 Space shortage", id="disk"),
    ],
)
def test_a_server_in_trouble_uses_no_attempts(
    database: Database, pgherald: Pgherald, given: dict[str, str], reply: str
) -> None:
    with Exim(**given) as exim:
        outlive(database, pgherald, exim, reply)


@pytest.mark.parametrize("message", ["", "  message = No such user here\n"])
def test_dead_addresses_fail_and_the_others_are_sent(database: Database, pgherald: Pgherald, message: str) -> None:
    """Without a message of the administrator, Exim says: Unrouteable address."""
    dead = [f"u{number}@example.org" for number in (1, 2, 3)]
    plans = add_plans(database, NUMBER)
    with Exim(rcpt=f"  require {message.strip()}\n    verify = recipient", router="  local_parts = ! u1 : ! u2 : ! u3 : *") as exim:  # fmt: skip
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": exim.url}) as daemon:
            database.verify(*plans)
            wait_until(lambda: states(database) == {"failed": 3, "sent": NUMBER - 3})
            assert stops(daemon) == []
        wait_delivered(exim, {address: 1 for address in EVERYBODY if address not in dead})
    assert reasons(database) == [("failed", "bad_address")] * 3 + [("sent", None)] * (NUMBER - 3)


@pytest.mark.parametrize("limit", ["smtp_accept_max_per_host", "smtp_accept_max"])
def test_fewer_connections_allowed_than_configured(database: Database, pgherald: Pgherald, limit: str) -> None:
    plans = add_plans(database, 200)
    with Exim(main=f"{limit} = 2") as exim:
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": exim.url}) as daemon:
            database.verify(*plans)
            wait_sent(database, 200)
            stopped = stops(daemon)
        refused = sum(" refused: too many connections" in line.lower() for line in exim.lines)
        print(
            f"{exim.connections} connections for 200 messages, {refused} refused; breaker opened {len(stopped)} times"
        )
        wait_delivered(exim, {f"u{number}@example.org": 1 for number in range(1, 201)})
    assert extra_attempts(database) == 0
    assert stopped == []
    assert refused <= 2 * CONNECTIONS


def test_few_messages_allowed_on_a_connection(database: Database, pgherald: Pgherald) -> None:
    """To MAIL of one more, Exim says: 421 too many messages in this connection."""
    with Exim(main="smtp_accept_max_per_connection = 3") as exim:
        plans = add_plans(database, 4 * NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": exim.url}) as daemon:
            database.verify(*plans)
            wait_sent(database, 4 * NUMBER)
            assert stops(daemon) == []
        assert set(exim.delivered.values()) == {1}
    assert extra_attempts(database) == 0


@pytest.mark.parametrize("verb", ["deny message = 550 Daily message limit of this recipient exceeded", "defer"])
def test_one_recipient_that_is_refused_holds_up_no_other(database: Database, pgherald: Pgherald, verb: str) -> None:
    with Exim(rcpt=f"  {verb}\n    local_parts = u7") as exim:
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": exim.url}) as daemon:
            database.verify(*plans)
            wait_until(lambda: states(database)["sent"] == NUMBER - 1)
            wait_until(lambda: exim.refusals)
            more = add_plans(database, NUMBER, "v")
            database.verify(*more)
            wait_until(lambda: states(database)["sent"] == 2 * NUMBER - 1)
            assert stops(daemon) == []
        wait_delivered(exim, ALL_BUT_ONE)
