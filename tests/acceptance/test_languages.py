"""A running daemon writes in the reader's language, with valid links, and with the new translation after SIGHUP."""

import re
import signal
from pathlib import Path

from listener.config.rules import default_rules
from listener.mail.unsubscribe import Subscription, read_token
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


def configure(folder: Path, lookup: str) -> dict[str, str]:
    (folder / "templates" / RULE / "fr").mkdir(parents=True)
    for part, text in (("subject", "Bravo"), ("body", "Félicitations : {{ place }}")):
        (folder / "templates" / RULE / "fr" / f"{part}.txt.j2").write_text(text, encoding="utf-8")
    (folder / "templates" / RULE / "fr" / "body.html.j2").write_text("<p>{{ place }}</p>", encoding="utf-8")
    rule = default_rules()[RULE]
    (folder / "pgherald.toml").write_text(
        f'''
[mail]
base_url = "https://app.example.org"
templates = "{folder / "templates"}"
unsubscribe_mailto = "stop@example.org"
[http]
public_url = "https://mail.example.org"
[rules.{RULE}]
table = "{rule.table}"
becomes = "{rule.becomes[0]}"
template = "{rule.template}"
link = "/dateplans/{{key}}"
unsubscribe = """UPDATE public.users AS u SET email_notifications_enabled = false FROM public.dateplan AS d
                 WHERE u.id = d.user_id AND d.id = ANY (%(keys)s::bigint[])"""
lookup = """{lookup}"""
''',
        encoding="utf-8",
    )
    return {"PGHERALD_CONFIG": str(folder / "pgherald.toml")}


def test_languages_links_and_reload(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    database.execute("ALTER TABLE public.users ADD language text")
    env = configure(tmp_path, default_rules()[RULE].lookup.replace(", p.place", ", p.place, u.language"))
    languages = {"de-AT": "Dein DatePlan", "fr_CA": "Bravo", "en": "Your DatePlan", "../../fr": "Your DatePlan"}
    plans = {language: database.add_plan("Café", f"{number}@example.org") for number, language in enumerate(languages)}
    for number, language in enumerate(languages):
        database.execute("UPDATE public.users SET language = %s WHERE email = %s", (language, f"{number}@example.org"))
    with pgherald.daemon(env=env) as daemon:
        database.verify(*plans.values())
        subjects = {received.recipient: received.email["Subject"] for received in mail.wait_for(4)}
        for number, (language, begin) in enumerate(languages.items()):
            assert subjects[f"{number}@example.org"].startswith(begin), language

        german = next(received for received in mail.messages if received.recipient == "0@example.org").email
        plan = plans["de-AT"]
        text, html = (part.get_content() for part in german.iter_parts())
        assert f"https://app.example.org/dateplans/{plan}" in text
        assert f"https://app.example.org/dateplans/{plan}" in html
        assert german["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        mailto = r"<mailto:stop@example\.org\?subject=unsubscribe-(\S+)>"
        found = re.fullmatch(rf"<https://mail\.example\.org/unsubscribe/(\S+)>, {mailto}", german["List-Unsubscribe"])
        assert found is not None
        assert found[1] == found[2]
        token = found[1]
        key = database.value(
            "SELECT encode(sha256(convert_to('pgherald unsubscribe ' || replace(value, '-', ''), 'UTF8')), 'hex') FROM pgherald.secret"
        )
        assert read_token(key.encode(), token) == Subscription(RULE, str(plan), "de-at")

        french = tmp_path / "templates" / RULE / "fr"
        subject = french / "subject.txt.j2"
        for broken, told in (("{{ nowhere }}", "uses {{ nowhere }}"), ("{% if %}", "fr/subject.txt.j2, line 1")):
            subject.write_text(broken, encoding="utf-8")
            daemon.signal(signal.SIGHUP)
            assert told in str(daemon.wait_event("reload_refused")["error"])
            daemon.events[:] = [event for event in daemon.events if event["event"] != "reload_refused"]
        again = database.add_plan("Café", "1b@example.org")
        database.execute("UPDATE public.users SET language = 'fr' WHERE email = '1b@example.org'")
        database.verify(again)
        assert mail.wait_for(5)[-1].email["Subject"] == "Bravo"

        subject.write_text("Encore", encoding="utf-8")
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("reloaded")
        once_more = database.add_plan("Café", "1c@example.org")
        database.execute("UPDATE public.users SET language = 'fr' WHERE email = '1c@example.org'")
        database.verify(once_more)
        assert mail.wait_for(6)[-1].email["Subject"] == "Encore"


def test_at_the_start_a_broken_translation_is_refused(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    env = configure(tmp_path, default_rules()[RULE].lookup.replace(", p.place", ", p.place, 'fr' AS language"))
    (tmp_path / "templates" / RULE / "fr" / "body.txt.j2").write_text("{{ lieu }}", encoding="utf-8")
    done = pgherald("run", "--once", env=env)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "uses {{ lieu }}" in line
