"""A configuration file with one key changed, and the one line with which a command refuses it."""

from pathlib import Path

from tests.support.command import Pgherald

LOOKUP = """
SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])"""
RULE = {
    "table": "public.dateplan",
    "key": "id",
    "column": "status",
    "becomes": "VE",
    "template": "dateplan_verified",
    "lookup": LOOKUP,
}


def lookup_with(start: str, end: str = "NULL::timestamptz") -> str:
    """The rule's lookup with the columns `starts_at` and `ends_at`, given as SQL."""
    return LOOKUP.replace(", p.place", f", p.place, {start} AS starts_at, {end} AS ends_at")


def configuration(folder: Path, rest: str = "", **changes: str) -> Path:
    """Write a configuration whose one rule is RULE with `changes`, after the text `rest`, and return its path."""
    keys = "\n".join(f'{name} = """{value}"""' for name, value in {**RULE, **changes}.items())
    file = folder / "pgherald.toml"
    file.write_text(f"{rest}\n[rules.dateplan_verified]\n{keys}\n", encoding="utf-8")
    return file


def refuses(pgherald: Pgherald, *arguments: object, says: tuple[str, ...], status: int = 1, **env: str) -> None:
    """Run the command and require `status`, and one line on stderr that has each of the words `says`."""
    done = pgherald(*arguments, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    *log, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    for words in says:
        assert words in last
    assert "Traceback" not in done.stderr
    assert log == [] or status == 2, done.stderr
