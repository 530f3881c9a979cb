"""List-Unsubscribe as a person, an email provider, a link scanner and a stranger use it."""

import re

import pytest

from listener.mail.unsubscribe import Subscription, make_token, signing_key
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.web import ANY_PORT, Client

RULE = "dateplan_verified"
CONFIG = """
[http]
public_url = "https://mail.example.org"

[rules.dateplan_verified]
table = "public.dateplan"
becomes = "VE"
template = "dateplan_verified"
require = ["place"]
lookup = '''
  SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
    FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
   WHERE d.id = ANY (%(keys)s::bigint[])
'''
unsubscribe = '''
  UPDATE public.users AS u SET email_notifications_enabled = false
    FROM public.dateplan AS d WHERE u.id = d.user_id AND d.id = ANY (%(keys)s::bigint[])
'''
"""
ONE_CLICK = "List-Unsubscribe=One-Click"


def path_of(database: Database, key: object, language: str = "") -> str:
    secret = str(database.value("SELECT value FROM pgherald.secret")).replace("-", "").encode()
    return f"/unsubscribe/{make_token(signing_key(secret), Subscription(RULE, str(key), language))}"


def consents(database: Database) -> list[bool]:
    return [row[0] for row in database.execute("SELECT email_notifications_enabled FROM public.users ORDER BY id")]


def without_nonce(text: str) -> str:
    return re.sub(r'nonce="[^"]*"', "", text)


def test_by_one_click(database: Database, pgherald: Pgherald) -> None:
    (pgherald.folder / "pgherald.toml").write_text(CONFIG, encoding="utf-8")
    plan, _ = database.add_plan("Café", "a@example.org"), database.add_plan("Café", "b@example.org")
    path = path_of(database, plan)
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        # A scanner follows the link.
        asked = client.get(path, Host="mail.example.org")
        assert asked.status == 200
        assert 'method="post"' in asked.text
        assert consents(database) == [True, True]
        # A provider presses, from no page; and again.
        done = client.post(path, ONE_CLICK, Host="mail.example.org")
        assert (done.status, "You are unsubscribed" in done.text) == (200, True)
        assert consents(database) == [False, True]
        again = client.post(path, ONE_CLICK, Host="mail.example.org", Origin="https://mail.google.com")
        # A row that is not there: the same answer, to the byte.
        answers = [done, again, client.post(path_of(database, 4711), ONE_CLICK)]
        assert {answer.status for answer in answers} == {200}
        assert len({without_nonce(answer.text) for answer in answers}) == 1
        assert len({without_nonce(client.get(where).text) for where in [path, path_of(database, 4711)]}) == 1
        # Nobody's token, or a part of one: the same answer too, whatever rows there are.
        strange = [
            path_of(database, plan)[:-2] + "xx",
            path_of(database, 4711)[:-2] + "xx",
            path[:-1],
            "/unsubscribe/%00",
        ]
        refused = [ask(where) for where in [*strange, "/unsubscribe/"] for ask in (client.get, client.post)]
        assert {answer.status for answer in refused} == {400}
        assert len({without_nonce(answer.text) for answer in refused}) == 1
        answers += refused
        for answer in (asked, *answers):
            assert not {"set-cookie", "location"} & answer.headers.keys()
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "no-referrer"
        assert consents(database) == [False, True]
        # A multipart body is one click too.
        body = '--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'
        assert client.post(path, body, Content_Type="multipart/form-data; boundary=x").status == 200


def test_a_link_that_was_damaged_on_its_way_works(database: Database, pgherald: Pgherald) -> None:
    (pgherald.folder / "pgherald.toml").write_text(CONFIG, encoding="utf-8")
    made = []
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)

        def new_path() -> str:
            made.append(database.add_plan("Café", f"{len(made)}@example.org"))
            return path_of(database, made[-1])

        behind = (".", ",", ")", "%3E", "&gt;", "%22", "%20", "/", "%E2%80%8B", "%C2%AD", "=%0D%0A", "?utm_source=x")
        damaged = [f"{new_path()}{signs}" for signs in behind]
        for signs in ("%0D%0A", "=%0D%0A", "=", "%20", "%0A%3E%20", "%C2%AD", "%E2%80%8B", "?", "%AD"):
            path = new_path()
            damaged.append(f"{path[:60]}{signs}{path[60:]}")
        damaged += [
            f"/{new_path()}",
            f"//{new_path()}",
            new_path().upper(),
            f"/unsubscribe/{new_path().rpartition('/')[2].upper()}",
        ]
        for path in damaged:
            assert client.get(path, Host="mail.example.org").status == 200, path
            done = client.post(path, ONE_CLICK, Host="mail.example.org")
            assert (done.status, "You are unsubscribed" in done.text) == (200, True), path
        assert consents(database) == [False] * len(made)


def test_the_page_speaks_the_language_of_the_mail(database: Database, pgherald: Pgherald) -> None:
    (pgherald.folder / "pgherald.toml").write_text(CONFIG, encoding="utf-8")
    plan = database.add_plan("Café", "a@example.org")
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        asked = client.get(path_of(database, plan, "de-at"), Accept_Language="fr")
        assert ('<html lang="de">' in asked.text, "Abbestellen" in asked.text) == (True, True)
        assert "Sie sind abgemeldet" in client.post(path_of(database, plan, "de-at"), ONE_CLICK).text
        assert '<html lang="fr">' in client.get(path_of(database, plan), Accept_Language="fr").text
        assert "unvollständig" in client.get("/unsubscribe/x", Accept_Language="de-DE,de;q=0.9").text


def test_by_the_public_name_nothing_else_is_there(database: Database, pgherald: Pgherald) -> None:
    (pgherald.folder / "pgherald.toml").write_text(CONFIG, encoding="utf-8")
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        for path in (
            "/",
            "/metrics",
            "/readyz",
            "/events",
            "/explain?rule=x&key=1",
            "/static/page.css",
            "/unsubscribe",
        ):
            assert client.get(path, Host="mail.example.org").status == 421
        assert client.get("/unsubscribe/x", Host="evil.example").status == 421


@pytest.mark.slow
def test_too_many_and_what_cannot_be_done(database: Database, pgherald: Pgherald) -> None:
    (pgherald.folder / "pgherald.toml").write_text(CONFIG, encoding="utf-8")
    path = path_of(database, database.add_plan("Café", "a@example.org"))
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO other")
        failed = client.post(path, ONE_CLICK)
        assert (failed.status, failed.headers["retry-after"]) == (503, "60")
        assert "other" not in failed.text
        daemon.wait_event("unsubscribe_failed")
        database.execute("ALTER TABLE public.users RENAME COLUMN other TO email_notifications_enabled")
        # Junk does not use up the limit.
        assert {client.post("/unsubscribe/x", ONE_CLICK).status for _ in range(400)} == {400}
        assert client.post(path, ONE_CLICK).status == 200
        assert consents(database) == [False]
        lines = [event for event in daemon.events if event["event"] == "unsubscribe_link_damaged"]
        assert 1 <= len(lines) < 40
        assert lines[0]["level"] == "warning"
        statuses = [client.post(path, ONE_CLICK).status for _ in range(1000)]
        assert set(statuses) == {200, 503}
