"""`smtp.fallback_url`: real daemons go on while the first mail server is unavailable."""

import json

from tests.support import wait_until
from tests.support.backlog import add_plans, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer


def test_the_second_server_takes_over_and_the_first_comes_back(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with MailServer() as second:
        env = {"PGHERALD_SMTP_FALLBACK_URL": second.url}
        mail.stop()
        database.verify(*add_plans(database, 30))
        with pgherald.daemon(env=env) as daemon:
            second.wait_for(30)
            wait_until(lambda: states(database) == {"sent": 30})
            wait_until(lambda: "messages go through [smtp] fallback_url" in pgherald("status").stdout)
            checks = {check["check"]: check for check in json.loads(pgherald("doctor", "--json", env=env).stdout)}
            assert checks["smtp"]["state"] == "fault"
            assert checks["smtp fallback"]["state"] == "ok"
            mail.start()
            for number in range(1, 60):
                database.verify(*add_plans(database, 1, name=f"more{number}-"))
                wait_until(lambda number=number: states(database) == {"sent": 30 + number})
                if mail.messages:
                    break
            daemon.wait_event("breaker_closed")
        assert mail.messages
        recipients = mail.recipients + second.recipients
        assert len(recipients) == len(set(recipients))


def test_a_fallback_that_cannot_be_read_is_an_error_of_its_key(pgherald: Pgherald) -> None:
    done = pgherald("run", "--once", env={"PGHERALD_SMTP_FALLBACK_URL": "smtp://user:se/cret@host"})
    assert done.returncode == 78
    assert "PGHERALD_SMTP_FALLBACK_URL" in done.stderr
    assert "%2F" in done.stderr
    assert "cret" not in done.stderr.replace("secret", "")
