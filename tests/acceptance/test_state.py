"""A rule whose state is a condition in SQL, from `install` to the email, and through the changes of its table."""

import json
from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

WHEN = "new.status IN ('VE', 'DE') AND new.plan_id > 0"
LOOKUP = """SELECT d.id AS key, u.email, u.email_notifications_enabled AS consent, p.place
              FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
             WHERE d.id = ANY (%(keys)s::bigint[])"""


def configured(tmp_path: Path, state: str, *, rule: str = "dateplan_verified") -> dict[str, str]:
    file = tmp_path / "state.toml"
    file.write_text(
        f"""[rules.{rule}]\ntable = "public.dateplan"\ntemplate = "dateplan_verified"\n{state}\nlookup = '''{LOOKUP}'''\n""",
        encoding="utf-8",
    )
    return {"PGHERALD_CONFIG": str(file)}


def doctor(pgherald: Pgherald, env: dict[str, str], check: str) -> tuple[str, str, str]:
    results = json.loads(pgherald("doctor", "--json", env=env).stdout)
    results = results if isinstance(results, list) else results["checks"]
    [found] = [each for each in results if each["check"] == f"{check} dateplan_verified"]
    return found["state"], found["seen"], found["remedy"]


def test_a_condition_from_install_to_the_email(
    tmp_path: Path, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    env = configured(tmp_path, f'when = "{WHEN}"\nfrom = "old.status = \'PE\'"')
    first, second, third = (database.add_plan("Café", f"{name}@example.org") for name in ("first", "second", "third"))
    done = pgherald("install", env=env, check=True)
    assert f"dateplan_verified: watching public.dateplan where {WHEN}\n" in done.stdout
    database.execute("UPDATE public.dateplan SET status = 'AC' WHERE id = %s", (third,))
    database.execute("UPDATE public.dateplan SET status = 'DE'")
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (second,))
    pgherald("run", "--once", env=env, check=True)
    assert mail.recipients == ["first@example.org"]
    said = pgherald("explain", "dateplan_verified", str(second), env=env, check=True).stdout
    assert "reverted" in said
    assert "the row no longer matches `when`" in said
    assert "no event" in pgherald("explain", "dateplan_verified", str(third), env=env, check=True).stdout
    assert doctor(pgherald, env, "triggers")[0] == doctor(pgherald, env, "value")[0] == "ok"
    assert "first@example.org" in pgherald("preview", "dateplan_verified", "--key", first, env=env, check=True).stdout


@pytest.mark.slow
def test_a_renamed_column_is_found_and_repaired(
    tmp_path: Path, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The triggers follow, and the daemon asks for the state with the present name."""
    env = configured(tmp_path, f'when = "{WHEN}"')
    pgherald("install", env=env, check=True)
    plan = database.add_plan("Café", "after@example.org")
    database.execute("ALTER TABLE public.dateplan RENAME status TO state")
    database.execute("UPDATE public.dateplan SET state = 'DE' WHERE id = %s", (plan,))
    pgherald("run", "--once", env=env, check=True)
    assert mail.recipients == ["after@example.org"]
    state, seen, remedy = doctor(pgherald, env, "triggers")
    assert (state, "was renamed" in seen) == ("fault", True)
    assert "pgherald rewatch dateplan_verified" in remedy
    assert doctor(pgherald, env, "value")[0] == "fault"
    pgherald("pause", "dateplan_verified", env=env, check=True)
    env = configured(tmp_path, f'when = "{WHEN.replace("status", "state")}"')
    pgherald("rewatch", "dateplan_verified", env=env, check=True)
    assert doctor(pgherald, env, "triggers")[0] == "ok"
    assert database.value("SELECT paused_at IS NOT NULL AND snapshot_done FROM pgherald.rule") is True


def test_a_condition_that_fails_for_a_row_stops_install(tmp_path: Path, database: Database, pgherald: Pgherald) -> None:
    database.add_plan("Café", "jane@example.org")
    env = configured(tmp_path, """when = "new.status::int > 5" """)
    refused = pgherald("install", env=env)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "rule dateplan_verified: `when` fails for a row of public.dateplan" in refused.stderr
    assert "PE" not in refused.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ('when = "status = 1"', "[rules.dateplan_verified] when: names no column of the row; write new.COLUMN"),
        (
            'when = "new.id = 1"\nbecomes = "VE"',
            "[rules.dateplan_verified] becomes: says the state, and so does `when`",
        ),
        ('when = "new.id = 1"\ncolumn = "x"', "[rules.dateplan_verified] when: says the state, and so does `column`"),
        ('becomes = "VE"\nfrom = "status"', "[rules.dateplan_verified] from: names no column of the row before"),
        ('becomes = ["VE", "VE"]', "[rules.dateplan_verified] becomes: names a value twice"),
        ('template2 = "x"', "template2: unknown key"),
        ('becomes = "VE"\nchanges = ["nope"]', 'rule dateplan_verified: table public.dateplan has no column "nope"'),
        ('when = "new.nope = 1"', "rule dateplan_verified: `when`: column new.nope does not exist"),
        ('when = "new.id > random()"', "may change without a change of the row"),
        ('when = "new.id = 1) or (true"', "brackets that do not match"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, database: Database, pgherald: Pgherald, state: str, said: str) -> None:
    refused = pgherald("install", env=configured(tmp_path, state))
    assert refused.returncode in (1, 2)
    assert said in refused.stderr
