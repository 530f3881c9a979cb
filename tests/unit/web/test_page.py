"""The page's handlers without a database: what they show, and what they refuse before they would ask it."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from listener.config.settings import Settings
from listener.db.errors import UNAVAILABLE
from listener.errors import DatabaseUnavailable
from listener.status.health import Part
from listener.status.overview import WorkerState
from listener.web import page as module
from listener.web.page import Page
from tests.support.overview import NOW, FixedOverviews, overview

RULE = "dateplan_verified"
TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def overviews() -> FixedOverviews:
    return FixedOverviews(overview(available=3))


async def parts() -> dict[str, Part]:
    return {"smtp": Part(False, "breaker open: 421")}


@pytest.fixture
async def client(overviews: FixedOverviews, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setenv("PGHERALD_HTTP_ADMIN_TOKEN", TOKEN)
    settings = Settings()
    page = Page(settings, lambda: settings.http, SimpleNamespace(rules=settings.rules, parts=parts), overviews)  # type: ignore[arg-type]
    app = web.Application()
    app.add_routes(page.routes())
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_overview(client: Client, overviews: FixedOverviews) -> None:
    shown = await (await client.get("/")).text()
    assert "<b>3</b><span>waiting</span>" in shown
    assert 'id="unavailable" class="banner bad" hidden' in shown
    assert 'class="problem' in shown
    assert "Log in to act" in shown
    assert 'action="rules/' not in shown
    assert "1,200 bounced, 3 complained" not in shown
    assert overviews.current is not None
    reported = replace(overviews.current.rules[0], bounced=1200, complained=3)
    overviews.current = replace(overviews.current, rules=[reported])
    assert "1,200 bounced, 3 complained" in await (await client.get("/")).text()
    assert 'action="rules/paid/pause"' in await (await client.get("/", headers=BEARER)).text()


async def test_without_the_database_the_last_values_stay(client: Client, overviews: FixedOverviews) -> None:
    overviews.last, overviews.current = overviews.current, None
    overviews.error = f"{UNAVAILABLE}: connection refused"
    shown = await (await client.get("/")).text()
    assert (
        "The database does not answer: connection refused. The values below are from 2026-11-22 20:00:00 UTC." in shown
    )
    assert "hidden" not in shown.partition("The database")[0].rpartition("<p")[2]
    assert 'class="board stale"' in shown
    assert "<b>3</b><span>waiting</span>" in shown
    assert "This daemon</h2>" not in shown


async def test_a_daemon_that_never_reached_the_database_says_what_it_knows(
    client: Client, overviews: FixedOverviews
) -> None:
    overviews.current, overviews.error = None, "connection refused"
    shown = await (await client.get("/")).text()
    assert "This daemon has read nothing from it yet." in shown
    assert "breaker open: 421" in shown


async def test_the_worst_news_come_first(client: Client, overviews: FixedOverviews) -> None:
    worker = WorkerState(1, "vm:1", "1", NOW, 1.0, True, True, "535 <b>no</b>", 0, True)
    assert overviews.current is not None
    broken = replace(overviews.current.rules[0], suspended_at=NOW, suspended_reason="no column")
    overviews.current = replace(overviews.current, workers=[worker], rules=[broken])
    shown = await (await client.get("/", headers=BEARER)).text()
    places = [
        shown.index(words)
        for words in ("the mail server is unavailable", "535 &lt;b&gt;", "workers/retry", "since 2026-11-22 20:00:00 UTC: no column", 'id="tiles"')
    ]  # fmt: skip
    assert places == sorted(places)
    assert "suspended since <time>20:00:00 UTC</time>" in shown


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/explain?rule=none&key=1", 404, "there is no rule none"),
        ("/explain", 404, "there is no rule"),
    ],
)
async def test_a_question_that_names_no_row(client: Client, path: str, status: int, words: str) -> None:
    response = await client.get(path)
    assert response.status == status
    assert words in await response.text()


@pytest.mark.parametrize("name", ["page.py", "..%2fpage.py", "_frame.html.j2"])
async def test_only_its_own_files_are_served(client: Client, name: str) -> None:
    assert (await client.get(f"/static/{name}")).status == 404


@pytest.mark.parametrize("name", ["page.css", "page.js", "icon.svg"])
async def test_its_own_files_are_served(client: Client, name: str) -> None:
    assert (await client.get(f"/static/{name}")).status == 200


async def test_login_and_logout(client: Client) -> None:
    refused = await client.post("/login", data={"token": "wrong"})
    assert refused.status == 403
    assert "Wrong token." in await refused.text()
    accepted = await client.post("/login", data={"token": TOKEN}, allow_redirects=False)
    assert (accepted.status, accepted.headers["Location"]) == (303, ".")
    assert "log out" in await (await client.get("/")).text()
    await client.post("/logout", allow_redirects=False)
    assert "Log in to act" in await (await client.get("/")).text()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"token"),
        ("application/x-www-form-urlencoded; charset=none", b"token=a"),
        ("application/x-www-form-urlencoded; charset=idna", b"token=\xff"),
        ("application/x-www-form-urlencoded", b"token=\xff%00%ed%a0%80"),
        ("application/x-www-form-urlencoded", b"&;=&token"),
        ("application/json", b"{}"),
        ("", b""),
    ],
)
async def test_a_login_that_is_no_form(client: Client, kind: str, body: bytes) -> None:
    refused = await client.post("/login", data=body, headers={"Content-Type": kind})
    assert refused.status == 403
    assert "Wrong token." in await refused.text()


async def test_questions_do_not_pile_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    database = threading.Event()

    def read(*_: object) -> None:
        database.wait(30)
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(module, "connect", read)
    asked = [asyncio.create_task(client.get(f"/explain?rule={RULE}&key={i}")) for i in range(30)]
    refused = [await answer for answer in itertools.islice(asyncio.as_completed(asked), 8)]
    database.set()
    answers = await asyncio.gather(*asked)
    assert [answer.status for answer in answers] == 30 * [503]
    assert {await answer.text() for answer in refused} == {
        "Too many requests at the same time; try again in a few seconds.\n"
    }
    texts = [await answer.text() for answer in answers]
    assert sum("it is away" in text for text in texts) == 22


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"/rules/{RULE}/stop", 404), ("/rules/none/pause", 404), ("/events/1/discard", 404), ("/events/x/retry", 404)],
)
async def test_an_action_that_does_not_exist(client: Client, path: str, status: int) -> None:
    assert (await client.post(path, headers=BEARER)).status == status


async def test_no_action_without_the_token(client: Client) -> None:
    for path in (f"/rules/{RULE}/pause", "/events/1/retry"):
        assert (await client.post(path)).status == 403
