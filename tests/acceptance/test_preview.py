"""preview shows the message as it would be sent, on the screen, in files and on one page, and sends nothing."""

import email
import email.policy
import os
import re
from html import unescape
from pathlib import Path

import pytest

from listener.config.rules import default_rules
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.configuration import configuration, lookup_with
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
START = "timestamptz '2026-12-31 18:00+00'"
HOSTILE = "</pre></iframe><script>alert(1)</script>\"' \x1b[31m\x9b1m\r\nEvil"


def written(pgherald: Pgherald, folder: Path, *arguments: object, **env: str) -> dict[str, str]:
    done = pgherald("preview", RULE, "--out", folder, *arguments, env=env, check=True)
    assert sorted(map(Path, done.stdout.splitlines())) == sorted(folder.iterdir())
    return {file.name: file.read_bytes().decode() for file in folder.iterdir()}


def test_on_the_screen_and_nothing_happens(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan(HOSTILE, "anna@example.org", status="VE")
    before = database.events()
    done = pgherald("preview", RULE, check=True)
    headers, _, text = done.stdout.partition("\n\n")
    assert headers.splitlines()[1:] == ["To: anna@example.org", "Subject: Your DatePlan is now verified 🎉"]
    assert headers.startswith("From: ")
    assert text.startswith("Congratulations!")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout), "what could take over a terminal"
    assert pgherald("preview", RULE, "--key", plan, check=True).stdout == done.stdout
    assert database.events() == before
    assert mail.smtpd.connections == 0


def test_files_and_a_page(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    database.add_plan(HOSTILE, "anna@example.org", status="VE")
    files = written(pgherald, tmp_path / "new" / "folder")
    assert sorted(files) == [f"{RULE}.eml", f"{RULE}.html", f"{RULE}.txt", "index.html"]
    message = email.message_from_string(files[f"{RULE}.eml"], policy=email.policy.default)
    assert not message.defects
    assert message["To"] == "anna@example.org"

    page = files["index.html"]
    frames = re.findall(r'<iframe sandbox title="([^"]*)" width="(\d+)" height="\d+" srcdoc="([^"]*)"></iframe>', page)
    assert [(title, width) for title, width, _ in frames] == [
        ("Desktop, light", "660"), ("Phone, light", "360"), ("Desktop, dark", "660"), ("Phone, dark", "360"),
    ]  # fmt: skip
    for title, _, source in frames:
        inside = unescape(source)
        assert "<script" not in inside
        assert ("@media (min-width: 0) {" in inside) == title.endswith("dark")
        assert ("@media (max-width: 0) {" in inside) == title.endswith("light")
    around = re.sub(r'srcdoc="[^"]*"', "", page)
    assert "<script" not in around
    assert "\x1b" not in page
    assert around.count("</pre>") == around.count("<pre") == 2
    # Nothing is loaded: what is no data stands nowhere but in a link of the mail's.
    assert not re.search(r"(?:src|href|url)\s*[=(]", around)
    assert "default-src 'none'" in page


def test_every_translation_where_the_lookup_names_a_language(
    database: Database, pgherald: Pgherald, tmp_path: Path
) -> None:
    rule = default_rules()[RULE]
    (tmp_path / "pgherald.toml").write_text(
        f'''[rules.{RULE}]
table = "public.dateplan"
becomes = "VE"
template = "{RULE}"
lookup = """{rule.lookup.replace(", p.place", ", p.place, 'de-CH' AS language")}"""
''',
        encoding="utf-8",
    )
    database.add_plan("Café", "anna@example.org", status="VE")
    files = written(pgherald, tmp_path / "out", PGHERALD_CONFIG=str(tmp_path / "pgherald.toml"))
    assert len(files) == 7
    assert files[f"{RULE}.txt"] == files[f"{RULE}.de.txt"]
    assert "Glückwunsch!" in files[f"{RULE}.txt"]
    assert re.findall(r"<h2>.*?\((.*?)\)</h2>", files["index.html"]) == ["as sent", "default", "de"]
    assert "Congratulations!" in files["index.html"]


def test_what_is_amiss_stands_on_the_page(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.html.j2").write_text("<html><p style='position:absolute'>{{ place }}")
    database.add_plan("Café", "anna@example.org", status="VE")
    page = written(pgherald, tmp_path / "out", PGHERALD_MAIL_TEMPLATES=str(folder.parent))["index.html"]
    assert "<li>&lt;html&gt; has no lang" in page
    assert "<li>position: Gmail" in page


def test_a_mail_that_would_not_go_out_says_so(database: Database, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café", "anna@example.org", consent=False, status="VE")
    done = pgherald("preview", RULE, "--key", plan, check=True)
    assert done.stderr == "note: this row's message would not be sent: no_consent (consent is false)\n"
    database.execute("UPDATE public.users SET email_notifications_enabled = true")
    done = pgherald("preview", RULE, env={"PGHERALD_MAIL_ALLOWED_RECIPIENTS": "@example.com"}, check=True)
    assert done.stderr == "note: this row's message would not be sent: not_allowed\n"


# Each plant once, and each name once, in the fast run.
_PLANTED = [
    (plant, name) if column == row % 4 else repeats(plant, name)
    for row, plant in enumerate(("link", "dangling", "hard link", "pipe", "folder"))
    for column, name in enumerate((f"{RULE}.eml", f"{RULE}.txt", f"{RULE}.html", "index.html"))
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "name"), _PLANTED)
def test_nothing_planted_is_written_through(
    database: Database, pgherald: Pgherald, tmp_path: Path, plant: str, name: str
) -> None:
    database.add_plan("Café", "anna@example.org", status="VE")
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    if plant == "link":
        (out / name).symlink_to(victim)
    elif plant == "dangling":
        (out / name).symlink_to(tmp_path / "nowhere")
    elif plant == "hard link":
        (out / name).hardlink_to(victim)
    elif plant == "pipe":
        os.mkfifo(out / name)
    else:
        (out / name).mkdir()
    done = pgherald("preview", RULE, "--out", out)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    if plant == "hard link":
        assert done.returncode == 0
        assert (out / name).stat().st_ino != victim.stat().st_ino
        return
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"Error: {out / name}: is not a regular file, and was not replaced; remove it, or choose another name\n"
    )
    assert [file.name for file in out.iterdir() if file.name.endswith(".tmp")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "end"), [("elsewhere", "/"), ("nowhere", ""), repeats("elsewhere", ""), repeats("nowhere", "/")]
)
def test_a_folder_that_is_a_link_is_refused(
    database: Database, pgherald: Pgherald, tmp_path: Path, target: str, end: str
) -> None:
    database.add_plan("Café", "anna@example.org", status="VE")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(target)
    done = pgherald("preview", RULE, "--out", f"{tmp_path / 'out'}{end}")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: {tmp_path / 'out'}: is a symbolic link, and is not followed; name the folder that it leads to\n"
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_what_it_writes_is_for_the_user_alone(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    database.add_plan("Café", "anna@example.org", status="VE")
    before = os.umask(0)
    try:
        for _ in range(2):
            written(pgherald, tmp_path / "new" / "folder")
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) == 6
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in made} == {(True, 0o700), (False, 0o600)}
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize("folder", ["/dev/null/x", "/proc/x"])
def test_no_place_to_write(database: Database, pgherald: Pgherald, folder: str) -> None:
    database.add_plan("Café", "a@example.org", status="VE")
    done = pgherald("preview", "dateplan_verified", "--out", folder)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert folder in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_calendar_entry(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    database.add_plan(HOSTILE, "anna@example.org", status="VE")
    env = {"PGHERALD_CONFIG": str(configuration(tmp_path, lookup=lookup_with(START)))}
    done = pgherald("preview", RULE, env=env, check=True)
    assert "\nBEGIN:VCALENDAR\nVERSION:2.0\n" in done.stdout
    assert "\nDTSTART:20261231T180000Z\n" in done.stdout
    files = written(pgherald, tmp_path / "out", **env)
    assert files[f"{RULE}.ics"].count("\r\nBEGIN:VEVENT\r\n") == 1
    assert "DTSTART:20261231T180000Z" in files["index.html"]
    env = {
        "PGHERALD_CONFIG": str(configuration(tmp_path, lookup=lookup_with(START, "timestamptz '2026-12-31 17:00+00'")))
    }
    done = pgherald("preview", RULE, env=env, check=True)
    assert done.stderr == "note: the calendar entry is left out: DTEND is not after DTSTART\n"
    assert "VCALENDAR" not in done.stdout
