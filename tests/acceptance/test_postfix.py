"""A real Postfix that refuses: no event fails for a fault that is not its own, and all go once it is repaired.

Postfix says at RCPT what it has against client, HELO and sender, too: smtpd_delay_reject.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest
import trustme

from tests.support import wait_until
from tests.support.backlog import add_plans, reasons, states, wait_sent
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.milter import Milter
from tests.support.postfix import Postfix
from tests.support.refusal import (
    ALL_BUT_ONE,
    CONNECTIONS,
    EVERYBODY,
    NUMBER,
    extra_attempts,
    outlive,
    stops,
    wait_delivered,
    wait_opened,
)
from tests.support.sasl import SaslServer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("settings", "reply"),
    [
        pytest.param(
            {"smtpd_client_restrictions": "check_client_access static:REJECT"},
            "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied",
            id="client",
        ),
        pytest.param(
            {"smtpd_helo_restrictions": "check_helo_access static:REJECT"},
            "Helo command rejected: Access denied",
            id="helo",
        ),
        pytest.param(
            {"smtpd_sender_restrictions": "check_sender_access static:REJECT"},
            "Sender address rejected: Access denied",
            id="sender",
        ),
        pytest.param(
            {"smtpd_sender_restrictions": "check_sender_access static:REJECT", "smtpd_delay_reject": "no"},
            "Sender address rejected: Access denied",
            id="sender at MAIL",
        ),
        pytest.param(
            # Without a name server, no domain exists.
            {"smtpd_sender_restrictions": "check_sender_access static:{550 5.1.8 Domain not found}"},
            "Sender address rejected: Domain not found",
            id="sender's domain",
        ),
        pytest.param(
            {
                "smtpd_reject_unlisted_sender": "yes",
                "virtual_mailbox_domains": "example.org",
                "virtual_mailbox_maps": f"inline:{{{', '.join(f'{address}=x' for address in EVERYBODY)}}}",
            },
            "Sender address rejected: User unknown in virtual mailbox table",
            id="sender's mailbox",
        ),
        pytest.param({"mynetworks": "192.0.2.1"}, "454 4.7.1", id="relaying, for now"),
        pytest.param(
            {"mynetworks": "192.0.2.1", "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination"},
            "Relay access denied",
            id="relaying",
        ),
        pytest.param(
            {"smtpd_relay_restrictions": "permit_sasl_authenticated, reject"},
            "Recipient address rejected: Access denied",
            id="everything",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_client_or_sender_fails_no_event(
    database: Database, pgherald: Pgherald, settings: dict[str, str], reply: str
) -> None:
    with Postfix(**settings) as postfix:
        opened = outlive(database, pgherald, postfix, reply)
    assert opened["scope"] == "configuration"


def test_a_sender_that_needs_a_login_fails_no_event(database: Database, pgherald: Pgherald) -> None:
    with SaslServer("app", "s3cret") as sasl:
        settings = {
            **sasl.settings,
            "smtpd_sender_login_maps": "static:app",
            "smtpd_sender_restrictions": "reject_sender_login_mismatch",
        }
        with Postfix(**settings) as postfix:
            opened = outlive(database, pgherald, postfix, "Sender address rejected: not logged in")
    assert opened["scope"] == "configuration"


def test_a_sender_of_another_login_fails_no_event(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem, ca_file = tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca_file)
    with SaslServer("app", "s3cret") as sasl:
        settings = {**sasl.settings, "smtpd_tls_chain_files": str(pem), "smtpd_tls_security_level": "may"}
        refusing = {
            "smtpd_sender_login_maps": "static:owner",
            "smtpd_sender_restrictions": "reject_known_sender_login_mismatch",
        }
        with Postfix(**settings, **refusing) as postfix:
            env = {
                "PGHERALD_SMTP_URL": postfix.url.replace("://", "://app:s3cret@") + "?starttls=required",
                "PGHERALD_SMTP_CA_FILE": str(ca_file),
            }
            reply = "Sender address rejected: not owned by user app"
            opened = outlive(database, pgherald, postfix, reply, env=env, repair=lambda: postfix.configure(**settings))
    assert opened["scope"] == "configuration"


@pytest.mark.parametrize(
    ("settings", "reply"),
    [
        # The filter is gone. Nobody listens at port 1.
        pytest.param({"smtpd_milters": "inet:127.0.0.1:1"}, "451 4.7.1 Service unavailable", id="filter at MAIL"),
        pytest.param(
            {"smtpd_proxy_filter": "127.0.0.1:1"}, "451 4.3.0 Error: queue file write error", id="filter at RCPT"
        ),
        pytest.param({"header_checks": "fail:x"}, "451 4.3.0 Error: queue file write error", id="queue at the dot"),
        pytest.param({"canonical_maps": "texthash:/nonexistent"}, "Temporary lookup failure", id="lookup"),
        pytest.param(
            {"smtpd_recipient_restrictions": "check_recipient_access texthash:/nonexistent"},
            "Server configuration error",
            id="configuration",
        ),
        # Its limits are those of each message: 1.5 times the largest must be free.
        pytest.param({"queue_minfree": "1000000000000000"}, "452 4.3.1 Insufficient system storage", id="disk"),
        pytest.param({"smtpd_client_restrictions": "defer"}, "450 4.3.2", id="client deferred"),
        pytest.param(
            {"smtpd_sender_restrictions": "reject_unknown_sender_domain", "mydestination": "", "smtpd_delay_reject": "no"},
            "Sender address rejected: Domain not found",
            id="name server",
        ),
        pytest.param(
            {"smtpd_client_restrictions": "check_client_access static:REJECT", "soft_bounce": "yes"},
            "454 4.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied",
            id="soft_bounce",
        ),
    ],
)  # fmt: skip
def test_a_server_in_trouble_uses_no_attempts(
    database: Database, pgherald: Pgherald, settings: dict[str, str], reply: str
) -> None:
    with Postfix(**settings) as postfix:
        outlive(database, pgherald, postfix, reply)


def test_a_filter_that_crashes_on_every_message_uses_no_attempts(database: Database, pgherald: Pgherald) -> None:
    with Milter(lambda _: None) as milter, Postfix(smtpd_milters=milter.address) as postfix:
        outlive(database, pgherald, postfix, "451 4.7.1 Service unavailable - try again later")


@pytest.mark.parametrize(
    "said", ["421 4.7.0 no", "451 4.7.1 Service unavailable - try again later", "554 5.7.1 blocked: category 7", None]
)
def test_a_message_that_the_filter_does_not_like_holds_up_no_other(
    database: Database, pgherald: Pgherald, said: str | None
) -> None:
    poison = "u7@example.org"
    with (
        Milter(lambda recipient: said if recipient == poison else "") as milter,
        Postfix(smtpd_milters=milter.address) as postfix,
    ):
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}):
            database.verify(*plans)
            wait_until(lambda: states(database)["sent"] == NUMBER - 1)
            # The others go on, while it is tried again.
            more = add_plans(database, NUMBER, "v")
            database.verify(*more)
            wait_until(lambda: states(database)["sent"] == 2 * NUMBER - 1)
            if said is not None and said.startswith("5"):
                # The first refusal might have concerned every message.
                wait_until(lambda: database.events()[6]["state"] == "failed")
            wait_until(lambda: database.events()[6]["attempt"] >= 1)
            event = database.events()[6]
        wait_delivered(postfix, ALL_BUT_ONE)
    if said is not None and said.startswith("5"):
        assert (event["attempt"], event["reason"]) == (2, "rejected")
    else:
        # It backs off. Without that it would be sent dozens of times a minute.
        assert event["state"] != "failed"
        assert event["attempt"] <= 3


@pytest.mark.parametrize("table", ["relay_recipient_maps", "virtual_mailbox_maps", "local_recipient_maps"])
def test_dead_addresses_fail_and_the_others_are_sent(database: Database, pgherald: Pgherald, table: str) -> None:
    alive = {address: 1 for address in EVERYBODY if address not in {f"u{number}@example.org" for number in (1, 2, 3)}}
    domains = (
        table.replace("recipient_maps", "domains").replace("maps", "domains").replace("local_domains", "mydestination")
    )
    keys = (address.removesuffix("@example.org") if table.startswith("local") else address for address in alive)
    plans = add_plans(database, NUMBER)
    with Postfix(**{domains: "example.org", table: listed(keys)}) as postfix:
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}) as daemon:
            database.verify(*plans)
            wait_until(lambda: states(database) == {"failed": 3, "sent": NUMBER - 3})
            assert stops(daemon) == []
        wait_delivered(postfix, alive)
        assert {refusal.split(">: ")[1] for refusal in postfix.refusals} == {
            f"Recipient address rejected: User unknown in {table.removesuffix('_maps').replace('_', ' ')} table"
        }
    assert reasons(database) == [("failed", "bad_address")] * 3 + [("sent", None)] * (NUMBER - 3)


def test_many_dead_addresses_are_not_slowed_down_by_the_tarpit(database: Database, pgherald: Pgherald) -> None:
    """Beyond smtpd_soft_error_limit, ten errors on a connection, Postfix delays each reply by a second.

    A refused recipient makes two errors, since DATA came in the same write.
    """
    alive = {f"u{number}@example.org": 1 for number in range(51, 61)}
    settings = {"virtual_mailbox_domains": "example.org", "virtual_mailbox_maps": listed(alive)}
    plans = add_plans(database, 60)
    with Postfix(**settings) as postfix:
        env = {"PGHERALD_SMTP_URL": postfix.url, "PGHERALD_SMTP_CONNECTIONS": "1"}
        before = postfix.connections
        with pgherald.daemon(env=env) as daemon:
            database.verify(*plans)
            wait_until(lambda: states(database) == {"failed": 50, "sent": 10}, 120)
            assert stops(daemon) == []
        wait_delivered(postfix, alive)
        refused_on_one = max(postfix.refusals_by_connection.values())
        took = database.value(
            "SELECT extract(epoch FROM max(settled_at) - min(captured_at))::float8 FROM pgherald.outbox"
        )
        connections = postfix.connections - before
        print(f"{took:.1f} s over {connections} connections; at most {refused_on_one} refusals on one")
        # Of the sixth refusal on a connection, the replies would be late.
        assert refused_on_one <= 5
    assert {event["reason"] for event in database.events()} == {"bad_address", None}


def test_fewer_connections_allowed_than_configured(database: Database, pgherald: Pgherald) -> None:
    # Loopback is in mynetworks, which has no limits.
    settings = {"smtpd_client_connection_count_limit": "2", "smtpd_client_event_limit_exceptions": ""}
    plans = add_plans(database, 200)
    with Postfix(**settings) as postfix:
        before = postfix.connections
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}) as daemon:
            database.verify(*plans)
            wait_sent(database, 200)
            stopped = stops(daemon)
        connections = postfix.connections - before
        refused = sum("Connection concurrency limit exceeded" in line for line in postfix.lines)
        print(f"{connections} connections for 200 messages, {refused} refused; breaker opened {len(stopped)} times")
        wait_delivered(postfix, {f"u{number}@example.org": 1 for number in range(1, 201)})
    assert extra_attempts(database) == 0
    assert stopped == []
    assert refused <= 2 * CONNECTIONS


@pytest.mark.parametrize(
    "said",
    [
        "450 4.7.1 Rate limit for this recipient exceeded, try again later",
        "550 Daily message limit of this recipient exceeded",
        "450 4.2.1 Over rate",
    ],
)
def test_the_limit_of_one_recipient_is_not_that_of_all(database: Database, pgherald: Pgherald, said: str) -> None:
    limited = f"check_recipient_access inline:{{{{u7@example.org = {said}}}}}"
    with Postfix(smtpd_recipient_restrictions=limited) as postfix:
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}) as daemon:
            database.verify(*plans)
            wait_until(lambda: states(database)["sent"] == NUMBER - 1)
            wait_until(lambda: postfix.refusals)
            more = add_plans(database, NUMBER, "v")
            database.verify(*more)
            wait_until(lambda: states(database)["sent"] == 2 * NUMBER - 1)
            assert stops(daemon) == []
        wait_delivered(postfix, ALL_BUT_ONE)


@pytest.mark.parametrize("limit", ["smtpd_client_message_rate_limit", "smtpd_client_recipient_rate_limit"])
def test_a_limit_of_the_rate_fails_no_event(database: Database, pgherald: Pgherald, limit: str) -> None:
    """The daemon goes slower. Postfix counts by the minute, which is too long for a test to wait for."""
    settings = {"smtpd_client_event_limit_exceptions": "", "anvil_rate_time_unit": "5s"}
    with Postfix(**{**settings, limit: "10"}) as postfix:
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}) as daemon:
            database.verify(*plans)
            wait_sent(database, NUMBER, 120)
            daemon.wait_event("rate_lowered")
        wait_delivered(postfix, EVERYBODY)


def test_a_size_limit_below_every_message_is_the_servers(database: Database, pgherald: Pgherald) -> None:
    with Postfix(message_size_limit="100", queue_minfree="0") as postfix:
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env={"PGHERALD_SMTP_URL": postfix.url}) as daemon:
            database.verify(*plans)
            wait_opened(database, daemon)
            postfix.configure()
            wait_sent(database, NUMBER)
        wait_delivered(postfix, EVERYBODY)


def listed(keys: Iterable[str]) -> str:
    """Return a lookup table with these keys (postconf.5, inline)."""
    return f"inline:{{{', '.join(f'{key}=x' for key in keys)}}}"


def test_doctor_names_the_fault(database: Database, pgherald: Pgherald) -> None:
    """It hands nothing over, so that it learns of the fault from the daemon."""
    with Postfix(smtpd_sender_restrictions="check_sender_access static:REJECT") as postfix:
        env = {"PGHERALD_SMTP_URL": postfix.url}
        plans = add_plans(database, NUMBER)
        with pgherald.daemon(env=env) as daemon:
            database.verify(*plans)
            assert wait_opened(database, daemon)["scope"] == "configuration"
            # The daemon writes it with its next heartbeat.
            wait_until(lambda: "Sender address rejected" in pgherald("status", "--json", env=env, check=True).stdout)
            assert "Sender address rejected" in pgherald("doctor", env=env).stdout
