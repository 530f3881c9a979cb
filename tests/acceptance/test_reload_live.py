"""SIGHUP on a running daemon: each part of it follows the new configuration at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.test_unsubscribe_endpoint import CONFIG, path_of
from tests.support import wait_until
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import swallow
from tests.support.web import ANY_PORT, Client

TOKEN, OTHER = "correct-horse-battery", "another-horse-battery"
Reload = Callable[[str], None]


@contextmanager
def reloadable(pgherald: Pgherald, text: str, env: dict[str, str] | None = None) -> Iterator[tuple[Daemon, Reload]]:
    """Yield a daemon whose file has this text, and a function that replaces the text and waits for the reload."""
    file = Path(pgherald.folder / "pgherald.toml")
    file.write_text(text, encoding="utf-8")
    with pgherald.daemon(env={**ANY_PORT, **(env or {})}) as daemon:

        def reload(text: str) -> None:
            file.write_text(text, encoding="utf-8")
            seen = count(daemon)
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: count(daemon) > seen)

        yield daemon, reload


def count(daemon: Daemon) -> int:
    return sum(event["event"] in ("reloaded", "reload_refused") for event in daemon.events)


@pytest.mark.slow
def test_in_doubt_hold_holds_what_is_in_doubt_already(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """An operator who has just read of two copies sets `hold`, and wants no other one."""
    mail.script("dot", swallow(), times=2)
    lease = {"PGHERALD_DELIVERY_LEASE": "1s"}
    with reloadable(pgherald, '[delivery]\nin_doubt = "resend"\n', lease) as (daemon, reload):
        database.verify(database.add_plan("Café", "a@example.org"))
        daemon.wait_event("event_in_doubt")
        # Far enough in the future for the reload.
        database.execute("UPDATE pgherald.outbox SET scheduled_at = now() + interval '1 hour'")
        reload('[delivery]\nin_doubt = "hold"\n')
        database.verify(database.add_plan("Café", "b@example.org"))
        wait_until(lambda: [event["scheduled_at"] for event in database.events()][1:] == [None])
        database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE scheduled_at IS NOT NULL")
        # The daemon looks for events to send again every second.
        later = database.value("SELECT now() + interval '3 seconds'")
        wait_until(lambda: database.value("SELECT max(seen_at) > %s FROM pgherald.worker", (later,)))
        assert [event["state"] for event in database.events()] == ["in_doubt", "in_doubt"]
        assert sorted(mail.recipients) == ["a@example.org", "b@example.org"]
        reload('[delivery]\nin_doubt = "resend"\n')
        mail.wait_for(3)


def test_the_admin_token_is_replaced_and_its_sessions_end(database: Database, pgherald: Pgherald) -> None:
    with reloadable(pgherald, f'[http]\nadmin_token = "{TOKEN}"\n') as (daemon, reload):
        client = Client(daemon)

        def may_act(token: str) -> bool:
            path = "/rules/dateplan_verified/resume"
            return client.post(path, Authorization=f"Bearer {token}").status == 303

        cookie = client.post("/login", f"token={TOKEN}").headers["set-cookie"].partition(";")[0]
        assert (may_act(TOKEN), may_act(OTHER)) == (True, False)
        assert "log out" in client.get("/", Cookie=cookie).text
        reload(f'[http]\nadmin_token = "{OTHER}"\n')
        assert (may_act(TOKEN), may_act(OTHER)) == (False, True)
        assert "log out" not in client.get("/", Cookie=cookie).text
        reload("")
        assert (may_act(TOKEN), may_act(OTHER)) == (False, False)


def test_public_url_and_allowed_hosts_change_the_links_and_what_is_answered(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """Otherwise each link in the emails after the reload would be answered with 421."""
    plan = database.add_plan("Café", "a@example.org")
    path = path_of(database, plan)
    with reloadable(pgherald, CONFIG) as (daemon, reload):
        client = Client(daemon)
        assert [client.get(path, Host=f"{host}.example.org").status for host in ("mail", "news", "old")] == [
            200,
            421,
            421,
        ]
        other = CONFIG.replace("mail.example.org", "news.example.org")
        reload(other.replace("[http]", '[http]\nallowed_hosts = ["old.example.org"]'))
        database.verify(plan)
        [received] = mail.wait_for(1)
        assert received.email["List-Unsubscribe"] == f"<https://news.example.org{path}>"
        assert [client.get(path, Host=f"{host}.example.org").status for host in ("mail", "news", "old")] == [
            421,
            200,
            200,
        ]
        assert client.get("/livez", Host="old.example.org").status == 200


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[smtp]\nehlo_name = "not a name"\n', "[smtp] ehlo_name"),
        ('[http]\npublic_url = "mail"\n', "[http] public_url"),
    ],
)
def test_a_bad_value_is_refused_and_the_old_configuration_goes_on(
    database: Database, mail: MailServer, pgherald: Pgherald, text: str, place: str
) -> None:
    with reloadable(pgherald, f'[http]\nadmin_token = "{TOKEN}"\n') as (daemon, reload):
        reload(text)
        assert place in daemon.wait_event("reload_refused")["error"]
        assert Client(daemon).post("/rules/dateplan_verified/resume", Authorization=f"Bearer {TOKEN}").status == 303
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_for(1)


def test_what_needs_a_restart_is_named(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with reloadable(pgherald, "[smtp]\nconnections = 2\n") as (daemon, reload):
        reload(
            '[smtp]\nconnections = 3\nehlo_name = "mail.example.org"\n[delivery]\npoll = "1s"\n[log]\nlevel = "error"\n'
        )
        named = daemon.wait_event("reloaded")["needs_restart"]
        assert named == ["smtp.connections", "delivery.poll", "log.level"]
        # The rest is applied all the same.
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_for(1)
