"""SIGHUP: templates and rules are replaced while the daemon runs, or the old ones stay."""

import signal
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from listener.config.rules import default_rules
from tests.support import wait_until
from tests.support.backlog import RULE, add_plans, states
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database, Databases
from tests.support.mail import MailServer


def test_sighup_takes_good_templates_and_refuses_bad_ones(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text("First {{ place }}")
    with pgherald.daemon(env={"PGHERALD_MAIL_TEMPLATES": str(tmp_path / "templates")}) as daemon:
        (folder / "body.txt.j2").write_text("Broken {{ nothing_of_the_kind }}")
        daemon.signal(signal.SIGHUP)
        assert "nothing_of_the_kind" in daemon.wait_event("reload_refused")["error"]
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_for(1)
        (folder / "body.txt.j2").write_text("Second {{ place }}")
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("reloaded")
        database.verify(database.add_plan("Café", "b@example.org"))
        first, second = mail.wait_for(2)
    assert first.email.get_body(("plain",)).get_content().startswith("First Café")
    assert second.email.get_body(("plain",)).get_content().startswith("Second Café")


def test_a_rule_taken_out_while_its_mail_waits_for_its_slot(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    database.execute("SELECT pgherald.watch('applied', 'public.dateplan', becomes => '{AP}')")
    verified = default_rules()[RULE].lookup
    rule = (
        f'[rules.{{}}]\ntable = "public.dateplan"\nbecomes = "{{}}"\ntemplate = "{RULE}"\nlookup = """{verified}"""\n'
    )
    without = "[smtp]\nrate = 8\n" + rule.format(RULE, "VE")
    both = without + rule.format("applied", "AP")
    config = tmp_path / "pgherald.toml"
    config.write_text(both)
    came = 0
    with pgherald.daemon("--config", str(config)) as daemon:
        # On a busy machine the four may have gone before the reload. Then once more.
        for times in range(1, 10):
            plans = add_plans(database, 8)
            database.execute(
                "UPDATE public.dateplan SET status = 'AP' WHERE id BETWEEN %s AND %s", (plans[0], plans[-1])
            )
            # Of the four that may go in half a second, three wait.
            _wait_for(mail, came + 1)
            _reload(daemon, config, without, 2 * times - 1)
            in_time = len(mail.messages) < came + 4
            _wait_for(mail, came + 4)
            stopped_at = len(mail.messages)
            _reload(daemon, config, both, 2 * times)
            came += 8
            mail.wait_for(came)
            if in_time:
                break
    assert in_time
    # All that waited for their slot have gone. A further claim may have been made before the reload was through.
    assert came - 4 <= stopped_at < came
    assert states(database) == {"sent": came}


def _wait_for(mail: MailServer, number: int) -> None:
    wait_until(lambda: len(mail.messages) >= number)


def _reload(daemon: Daemon, config: Path, text: str, times: int) -> None:
    """Reload with this configuration, and wait until the daemon has said so many times that it did."""
    config.write_text(text)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: sum(event.get("event") == "reloaded" for event in list(daemon.events)) == times)


def test_sighup_while_the_database_is_away(databases: Databases, database: Database, pgherald: Pgherald) -> None:
    """It ends nothing, and is not forgotten."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    name = sql.Identifier(conninfo_to_dict(database.url)["dbname"])
    with psycopg.connect(databases.url, autocommit=True) as admin:
        admin.execute(allow.format(name, sql.SQL("false")))
        with pgherald.daemon(ready=False) as daemon:
            daemon.wait_event("database_unavailable")
            daemon.signal(signal.SIGHUP)
            admin.execute(allow.format(name, sql.SQL("true")))
            daemon.wait_event("reloaded")
