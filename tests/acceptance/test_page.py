"""The page: its content, who may see it, and values of a row appear as text only."""

import json
import re
from collections.abc import Iterator
from http.client import HTTPResponse
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer
from tests.support.web import ANY_PORT, Client

RULE = "dateplan_verified"
TOKEN = "correct-horse-battery"
WITH_TOKEN = {**ANY_PORT, "PGHERALD_HTTP_ADMIN_TOKEN": TOKEN}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HOSTILE = "<script>alert(1)</script>'\"&\u202e{{ 7 * 7 }}\x1b[31m"


def fail_one(database: Database, mail: MailServer, email: str = "nobody@example.org") -> int:
    plan = database.add_plan("Café", email)
    mail.script("rcpt", answer("550 5.1.1 <x>alert(2)</x> no such user"), times=1)
    database.verify(plan)
    wait_until(lambda: [event["state"] for event in database.events()][-1] == "failed")
    return int(database.events()[-1]["id"])


def frames(response: HTTPResponse) -> Iterator[tuple[str, str]]:
    """Server-sent events: their names and data."""
    name = ""
    for raw in response:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data:"):
            yield name, line.removeprefix("data:").strip()


def test_what_happens_is_sent_as_it_happens(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        page = client.get("/").text
        assert "read-only" in page
        assert 'action="rules/' not in page
        with urlopen(f"{client.url}/events", timeout=60) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            events = frames(stream)
            name, data = next(events)
            assert (name, set(json.loads(data))) == (
                "sections",
                {"problems", "tiles", "plots", "rules", "in_doubt", "failed", "latest", "workers"},
            )
            plan = database.add_plan("Café", "jane@example.org")
            database.verify(plan)
            latest = next(
                news["latest"] for _, data in events if f"key={plan}" in (news := json.loads(data)).get("latest", "")
            )
            assert "sent" in latest
            # No address, whole or masked, is kept with an event that was sent.
            assert "jane@example.org" not in latest
            # It ends with the daemon, and does not keep it.
            assert daemon.stop() == 0


def test_hostile_rows_are_text(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        fail_one(database, mail)
        database.execute(
            """INSERT INTO pgherald.outbox (rule, key, state, reason, settled_at, history)
               VALUES (%(x)s, %(x)s, 'failed', 'x', now(), jsonb_build_array(jsonb_build_object('at', now(), 'what', %(x)s::text, 'detail', %(x)s::text)))""",
            {"x": HOSTILE},
        )
        database.execute("UPDATE pgherald.outbox SET rule = %s WHERE reason = 'x'", (RULE,))
        database.execute(
            "INSERT INTO pgherald.worker (name, version, lease, breaker_reason) VALUES (%(x)s, '1', '1h', %(x)s)",
            {"x": HOSTILE},
        )
        page = wait_until(lambda: text if "alert(1)" in (text := client.get("/").text) else None)
        story = client.get(f"/explain?rule={RULE}&key={quote(HOSTILE)}").text
        for text in (page, story):
            assert "<script>alert" not in text
            assert "<x>" not in text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
            assert "{{ 7 * 7 }}" in text
            assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
            assert set(re.findall(r"<script[^>]*>", text)) <= {'<script src="static/page.js" defer>'}
            assert not re.search(r"\son\w+=|\sstyle=|javascript:", text)
        for rule in (HOSTILE, "x" * 5000):
            answered = client.get(f"/explain?rule={quote(rule)}&key=1")
            assert answered.status == 404
            assert "<script>alert" not in answered.text


def test_the_story_of_a_row(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan, other = database.add_plan("Café", "a@example.org"), database.add_plan("Café", "b@example.org")
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        database.verify(plan)
        mail.wait_for(1)
        wait_until(lambda: database.events()[0]["state"] == "sent")
        said = client.get(f"/explain?rule={RULE}&key={plan}")
        assert said.status == 200
        assert [what in said.text for what in ("captured", "claimed", "transmitting", "sent")] == [True] * 4
        assert "is &#39;PE&#39;, not &#39;VE&#39;" in client.get(f"/explain?rule={RULE}&key={other}").text
        assert client.get(f"/explain?rule={RULE}&key=4711").status == 404


def test_only_who_has_the_token_acts(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=WITH_TOKEN) as daemon:
        client = Client(daemon)
        failed = fail_one(database, mail)
        paths = [f"/rules/{RULE}/pause", f"/rules/{RULE}/resume", f"/events/{failed}/retry", f"/events/{failed}/sent"]
        for path in paths:
            assert client.post(path).status == 403
            assert client.post(path, Cookie="pgherald=x").status == 403
            assert client.post(path, Authorization="Bearer wrong").status == 403
            assert client.post(path, **BEARER, Origin="https://evil.example").status == 403
            assert client.post(path, **BEARER, Sec_Fetch_Site="cross-site").status == 403
            assert client.get(path, **BEARER).status == 405
        assert client.post(f"/rules/{RULE}/pause", **BEARER).status == 303
        assert database.value("SELECT paused_at IS NOT NULL FROM pgherald.rule")
        page = client.get("/", **BEARER).text
        assert "paused since" in page
        assert f'action="rules/{RULE}/resume"' in page
        assert f'action="events/{failed}/retry"' in page
        assert client.post(f"/events/{failed}/retry", **BEARER).status == 303
        assert client.post(f"/events/{failed}/sent", **BEARER).status == 409
        assert client.post(f"/events/{failed}/discard", **BEARER).status == 404
        [event] = database.events()
        assert event["state"] == "available"
        assert event["history"][-1]["detail"] == "on the page"
        assert client.post(f"/rules/{RULE}/resume", **BEARER).status == 303
        mail.wait_for(1)


def test_a_login_is_a_cookie_for_this_site_alone(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=WITH_TOKEN) as daemon:
        client = Client(daemon)
        assert client.post("/login", urlencode({"token": "wrong"})).status == 403
        assert client.post("/login", urlencode({"token": TOKEN}), Origin="https://evil.example").status == 403
        done = client.post("/login", urlencode({"token": TOKEN}))
        cookie = done.headers["set-cookie"]
        assert done.status == 303
        assert {"HttpOnly", "SameSite=Strict"} <= set(re.split("; ?", cookie))
        assert TOKEN not in cookie
        session = cookie.partition(";")[0]
        assert client.post(f"/rules/{RULE}/pause", Cookie=session).status == 303
        assert client.post(f"/rules/{RULE}/pause", Cookie=session, Origin="https://evil.example").status == 403
        assert client.post("/logout", Cookie=session).status == 303
        assert client.post(f"/rules/{RULE}/resume", Cookie=session).status == 403
        # Guesses lock nobody out.
        answers = [client.post("/login", urlencode({"token": str(i)})).status for i in range(15)]
        assert set(answers) == {403}
        again = client.post("/login", urlencode({"token": TOKEN}), Origin=client.url.replace("http:", "https:"))
        assert (again.status, "; Secure" in again.headers["set-cookie"], "; Secure" in cookie) == (303, True, False)
        session = again.headers["set-cookie"].partition(";")[0]
        assert client.post("/logout", Cookie=session, Origin="https://evil.example").status == 403
        assert client.post(f"/rules/{RULE}/resume", Cookie=session).status == 303
        daemon.wait_event("login_refused", level="warning")
        assert not any(TOKEN in line for line in daemon.lines)


def test_without_a_token_nobody_acts(database: Database, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        for given in ("", "None", "null"):
            assert client.post("/login", urlencode({"token": given})).status == 403
            assert client.post(f"/rules/{RULE}/pause", Authorization=f"Bearer {given}").status == 403
        assert not database.value("SELECT paused_at FROM pgherald.rule")


def test_a_short_token_is_refused(database: Database, pgherald: Pgherald) -> None:
    done = pgherald("run", "--once", env={"PGHERALD_HTTP_ADMIN_TOKEN": "tooshort"})
    assert done.returncode == 78
    assert "[http] admin_token: must have at least 16 characters" in done.stderr
    assert "tooshort" not in done.stderr


def test_only_its_own_files(database: Database, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        for path in ("page.py", "..%2fpage.py", "%2e%2e/server.py", "", "../templates/page.html.j2"):
            assert client.get(f"/static/{path}").status == 404
        for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
            assert client.get(f"/static/{name}").headers["content-type"].startswith(kind)
