"""A wrong password: it is tried once, nothing fails, and everybody who can correct it can also end the wait."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.backlog import RULE, add_plans, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.token_endpoint import TokenEndpoint
from tests.support.web import ANY_PORT, Client

TOKEN = "correct-horse-battery"


@pytest.fixture
def secure() -> Iterator[MailServer]:
    with MailServer(security="tls", users={"herald": "right"}) as server:
        yield server


def environment(server: MailServer, login: str = "herald:wrong@") -> dict[str, str]:
    return {
        "PGHERALD_SMTP_URL": f"smtps://{login}localhost:{server.smtpd.port}",
        "PGHERALD_SMTP_CA_FILE": str(server.smtpd.ca_file),
        "PGHERALD_HTTP_ADMIN_TOKEN": TOKEN,
        **ANY_PORT,
    }


@pytest.mark.slow
def test_a_wrong_password_costs_one_login_until_somebody_asks_for_another(
    database: Database, secure: MailServer, pgherald: Pgherald
) -> None:
    plans, logins = add_plans(database, 20), secure.smtpd.logins
    database.verify(*plans)
    with pgherald.daemon(env=environment(secure)) as daemon:
        paused = daemon.wait_event("breaker_paused", level="error", pause_s=60.0)
        assert paused["reason"] == "auth: 535 5.7.8 authentication failed"
        wait_until(lambda: states(database) == {"available": 20})
        assert len(logins) == 1
        status = wait_until(lambda: next(iter(json.loads(pgherald("status", "--json").stdout)["workers"]), None))
        wait_until(lambda: "535 5.7.8" in pgherald("status", check=True).stdout)
        assert status["in_flight"] == 0
        assert pgherald("resume", check=True).stdout == "1 daemon will try the mail server now\n"
        daemon.wait_event("breaker_paused", pause_s=300.0)
        assert len(logins) == 2
        client = Client(daemon)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        wait_until(lambda: 'action="workers/retry"' in client.get("/", **bearer).text)
        assert 'action="workers/retry"' not in client.get("/").text
        assert client.post("/workers/retry").status == 403
        assert client.post("/workers/retry", **bearer).status == 303
        daemon.wait_event("breaker_paused", pause_s=900.0)
        assert len(logins) == 3
        daemon.signal(signal.SIGHUP)
        # A reload begins again with the shortest pause.
        wait_until(lambda: len([event for event in daemon.events if event["event"] == "breaker_paused"]) == 4)
        assert len(logins) == 4
        assert secure.smtpd.users is not None
        secure.smtpd.users = {"herald": "wrong"}
        pgherald("resume", RULE, check=True)
        secure.wait_for(20)
        daemon.wait_event("breaker_closed")
    assert states(database) == {"sent": 20}
    assert {event["attempt"] for event in database.events()} == {1}


@pytest.mark.slow
def test_a_file_with_the_password_is_read_at_the_next_login(
    database: Database, secure: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    env = environment(secure)
    file = tmp_path / "url"
    file.write_text(env.pop("PGHERALD_SMTP_URL"))
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon(env={**env, "PGHERALD_SMTP_URL_FILE": str(file)}) as daemon:
        daemon.wait_event("breaker_paused")
        file.write_text(environment(secure, "herald:right@")["PGHERALD_SMTP_URL"])
        wait_until(lambda: "1 daemon" in pgherald("resume", check=True).stdout)
        secure.wait_for(1)


@pytest.mark.slow
def test_tokens_come_from_the_provider(database: Database, pgherald: Pgherald) -> None:
    with TokenEndpoint() as endpoint, MailServer(security="tls", users={"herald": "token-2"}) as secure:
        endpoint.answers = [(401, {"error": "invalid_client"})]
        env = environment(secure, "herald@") | {
            "PGHERALD_SMTP_AUTH": "xoauth2",
            "PGHERALD_SMTP_OAUTH_TOKEN_URL": endpoint.url,
            "PGHERALD_SMTP_OAUTH_CLIENT_ID": "id",
            "PGHERALD_SMTP_OAUTH_CLIENT_SECRET": "s3cret",
        }
        database.verify(*add_plans(database, 3))
        with pgherald.daemon(env=env) as daemon:
            paused = daemon.wait_event("breaker_paused", level="error")
            assert "the provider gave no access token: 401 invalid_client" in paused["reason"]
            wait_until(lambda: "1 daemon" in pgherald("resume", check=True).stdout)
            secure.wait_for(3)
            assert "s3cret" not in "".join(daemon.lines)
        assert len(endpoint.forms) == 2
    assert states(database) == {"sent": 3}
