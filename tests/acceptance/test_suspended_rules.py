"""A rule whose lookup breaks while the daemon runs is suspended, its events wait, and every screen says so."""

import json
import re
import signal
from pathlib import Path

from listener.config.rules import default_rules
from tests.support import wait_until
from tests.support.backlog import states
from tests.support.command import Pgherald
from tests.support.configuration import LOOKUP, configuration
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.web import ANY_PORT, Client

RULE = "dateplan_verified"


def test_a_rule_that_breaks_while_running_is_held_and_nothing_fails(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        plan = database.add_plan("Café", "a@example.org")
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO consent")
        database.verify(plan)
        daemon.wait_event("rule_suspended")
        wait_until(lambda: states(database) == {"available": 1})
        _every_screen_says_so(database, pgherald, client, plan)
        database.execute("ALTER TABLE public.users RENAME COLUMN consent TO email_notifications_enabled")
        mail.wait_for(1)
        wait_until(lambda: json.loads(pgherald("status", "--json").stdout)["suspended"] == {})
        assert client.get("/readyz").json()["parts"]["rules"]["detail"] == "no rule is suspended"
    assert states(database) == {"sent": 1}


def test_run_once_fails_for_a_broken_rule_and_names_it(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    # The check at the start runs the lookup without a key, and calls the function for no row.
    database.execute("""CREATE FUNCTION public.breaks(bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS
                        'BEGIN RETURN (SELECT missing FROM public.users); END'""")
    configuration(pgherald.folder, lookup=f"{LOOKUP} AND public.breaks(d.id)")
    database.verify(database.add_plan("Café", "a@example.org"))
    done = pgherald("run", "--once")
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"Error: rule {RULE}: suspended, its events wait: ")
    assert 'column "missing" does not exist' in last
    assert "later retry" not in done.stderr
    assert states(database) == {"available": 1}
    database.execute("CREATE OR REPLACE FUNCTION public.breaks(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    assert pgherald("run", "--once", check=True).stderr.splitlines()[-1].startswith("{")
    mail.wait_for(1)


def _every_screen_says_so(database: Database, pgherald: Pgherald, client: Client, plan: int) -> None:
    status = wait_until(
        lambda: found if (found := json.loads(pgherald("status", "--json").stdout))["suspended"] else None
    )
    [(rule, suspension)] = status["suspended"].items()
    since = re.sub(r"T(.*)\.\d+\+00:00", r" \1 UTC", suspension["since"])
    assert (rule, status["oldest_due_seconds"]) == (RULE, None)
    assert "email_notifications_enabled does not exist" in suspension["reason"]
    said = f"suspended since {since}: {suspension['reason']}"
    assert f"{RULE}: {said}" in pgherald("status").stdout
    assert said in pgherald("explain", RULE, plan).stdout
    assert json.loads(pgherald("explain", RULE, plan, "--json").stdout)["suspended"] == suspension
    page = wait_until(lambda: text if "problem bad" in (text := client.get("/").text) else None)
    assert f"since {since}: " in page
    assert "suspended since" in client.get(f"/explain?rule={RULE}&key={plan}").text
    # The daemon delivers the other rules, and a restart would not mend this one.
    ready = client.get("/readyz")
    assert (ready.status, ready.json()["parts"]["rules"]["detail"]) == (200, f"{RULE}: {said}")
    metrics = wait_until(
        lambda: found if (found := client.metrics())[f'pgherald_rule_suspended{{rule="{RULE}"}}'] else None
    )
    assert metrics[f'pgherald_available_events{{rule="{RULE}"}}'] == 1
    assert metrics[f'pgherald_oldest_due_age_seconds{{rule="{RULE}"}}'] == 0


def test_a_reload_resumes_a_rule_and_doctor_asks_for_it(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    lookup = default_rules()[RULE].lookup
    config = tmp_path / "pgherald.toml"
    rule = f'[rules.{RULE}]\ntable = "public.dateplan"\nbecomes = "VE"\ntemplate = "{RULE}"\nlookup = """{{}}"""\n'
    config.write_text(rule.format(lookup))
    env = {"PGHERALD_CONFIG": str(config)}
    plan = database.add_plan("Café", "a@example.org")
    with pgherald.daemon(env=env) as daemon:
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO consent")
        database.verify(plan)
        assert "send SIGHUP" in daemon.wait_event("rule_suspended")["remedy"]
        config.write_text(rule.format(lookup.replace("email_notifications_enabled", "consent")))
        # The file is correct, and the daemon still runs with the old one.
        wait_until(lambda: "reload" in pgherald("doctor", env=env).stdout)
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("rule_resumed", rule=RULE)
        mail.wait_for(1)
        wait_until(lambda: "suspended" not in pgherald("doctor", env=env).stdout)
