"""The page in a real browser: a new email appears without a reload, in each size and colour scheme."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from listener.demo.cluster import Cluster
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.configuration import configuration, lookup_with
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer
from tests.support.web import ANY_PORT, Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RULE = "dateplan_verified"
TOKEN = "correct-horse-battery"
CHROMIUM = "/usr/bin/chromium"
SIZES = {"desktop": {"width": 1200, "height": 860}, "phone": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), "these tests need Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


# A browser is slow where all cores are busy.
expect.set_options(timeout=60_000)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a page. A browser warning, or a violation of the content security policy, fails the test."""
    context = browser.new_context(viewport=SIZES["desktop"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    # The daemon ends before the page does, which asks for it again.
    assert [what for what in said if "ERR_CONNECTION_REFUSED" not in what] == []


def test_a_mail_appears_while_one_looks(database: Database, mail: MailServer, pgherald: Pgherald, page: Page) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        page.goto(Client(daemon).url)
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#latest")).to_contain_text("no event yet")
        expect(page.locator(".tile", has_text="sent").locator("b")).to_have_text("0")
        plan = database.add_plan("Café", "jane@example.org")
        database.verify(plan)
        mail.wait_for(1)
        expect(page.locator("#latest li")).to_contain_text("sent")
        expect(page.locator(".tile", has_text="sent").locator("b")).to_have_text("1")
        expect(page.locator("#plots rect.sent")).to_have_count(1)
        expect(page.locator("#workers")).to_contain_text("leader")
        page.locator("#latest a.key").click()
        expect(page.locator(".history")).to_contain_text("transmitting")
        page.fill("input[name=key]", str(database.add_plan("Café", "other@example.org")))
        page.locator(".search button").click()
        expect(page.locator(".history")).to_contain_text("status is 'PE', not 'VE'")


def test_a_person_acts(database: Database, mail: MailServer, pgherald: Pgherald, page: Page) -> None:
    with pgherald.daemon(env={**ANY_PORT, "PGHERALD_HTTP_ADMIN_TOKEN": TOKEN}) as daemon:
        mail.script("rcpt", answer("550 5.1.1 no such user"), times=1)
        database.verify(database.add_plan("Café", "jane@example.org"))
        wait_until(lambda: [event["state"] for event in database.events()] == ["failed"])
        page.goto(Client(daemon).url)
        expect(page.locator("#failed li")).to_contain_text("bad_address")
        expect(page.locator(".act button")).to_have_count(0)
        page.fill("input[name=token]", TOKEN)
        page.get_by_text("Log in to act").click()
        page.get_by_text("pause", exact=True).click()
        expect(page.locator("#rules")).to_contain_text("paused since")
        page.get_by_text("retry", exact=True).click()
        expect(page.locator("#failed")).to_contain_text("none is left: they were retried")
        expect(page.locator(".tile").first).to_contain_text("1")
        assert mail.messages == []
        page.locator("#problems").get_by_text("resume", exact=True).click()
        mail.wait_for(1)
        expect(page.locator("#latest li")).to_contain_text("sent")
        page.get_by_text("log out").click()
        expect(page.locator(".act button")).to_have_count(0)


def test_it_comes_back_with_the_daemon(database: Database, pgherald: Pgherald, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    with pgherald.daemon(env=ANY_PORT) as daemon:
        url = Client(daemon).url
        page.goto(url)
        expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#live")).to_have_text("reconnecting")
    with pgherald.daemon(env={"PGHERALD_HTTP_LISTEN": url.removeprefix("http://")}):
        expect(page.locator("#live")).to_have_text("live")
    context.close()


def test_the_last_values_stay_while_the_database_is_away(
    lone_database: Database, cluster: Cluster, pgherald: Pgherald, browser: Browser
) -> None:
    pgherald.settings = {**pgherald.settings, "PGHERALD_DATABASE_URL": lone_database.url}
    lone_database.execute("UPDATE pgherald.rule SET paused_at = now()")
    lone_database.execute(
        "INSERT INTO pgherald.outbox (rule, key) SELECT %s, g FROM generate_series(1, 7) AS g", (RULE,)
    )
    context = browser.new_context()
    page = context.new_page()
    with pgherald.daemon(env=ANY_PORT) as daemon:
        page.goto(Client(daemon).url)
        expect(page.locator(".tile b").first).to_have_text("7")
        lone_database.close()
        cluster.stop("immediate")
        expect(page.locator("#unavailable")).to_contain_text("The database does not answer: ")
        expect(page.locator("#live")).to_have_text("no database")
        page.reload()
        expect(page.locator("#unavailable")).to_contain_text("The values below are from ")
        expect(page.locator(".tile b").first).to_have_text("7")
        cluster.start()
        expect(page.locator("#unavailable")).to_be_hidden()
        expect(page.locator("#live")).to_have_text("live")
    context.close()


@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_can_be_read(
    database: Database, mail: MailServer, pgherald: Pgherald, browser: Browser, size: str, light: str
) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key, state, reason, settled_at) VALUES (%s, repeat('long', 60), 'failed', 'x', now())", (RULE,))  # fmt: skip
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT 'rule_' || r || '_' || repeat('of_owner_', 6), 1 FROM generate_series(1, 20) AS r")  # fmt: skip
    database.execute(
        "INSERT INTO pgherald.worker (name, version, lease, breaker_reason, suspended_rules, suspended_since, suspended_reasons) "
        "VALUES ('host:1', '1', '1 h', '535 no', ARRAY[%s], ARRAY[now()], ARRAY[repeat('column', 60)])",
        (RULE,),
    )
    with pgherald.daemon(env=ANY_PORT) as daemon:
        context = browser.new_context(viewport=SIZES[size], color_scheme=light)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(Client(daemon).url)
        expect(page.locator("#failed .key")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
        # The worst news comes first, and is seen without scrolling.
        suspended, breaker = (
            page.locator(".problem", has_text="is suspended"),
            page.locator(".problem", has_text="535 no"),
        )
        places = [suspended, breaker, page.locator("#tiles"), page.locator("#failed"), page.locator("#latest")]
        tops = [box["y"] for place in places if (box := place.bounding_box())]
        assert tops == sorted(tops)
        assert tops[2] < SIZES[size]["height"]
        # A name breaks after an underscore only.
        assert page.evaluate(BROKEN_WORDS, ".rules td.rule") == []
        # Contrast of text and of what is less important, by WCAG 2.2: 4.5 to 1.
        for selector in ("body", "small", ".mark.failed", ".axis", ".problem.bad", ".problem:not(.bad)"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, selector
        context.close()


# The words of an element that stand on more than one line.
BROKEN_WORDS = """(selector) => {
  const broken = [];
  for (const element of document.querySelectorAll(selector)) {
    for (const text of element.childNodes) {
      if (text.nodeType !== Node.TEXT_NODE) continue;
      for (const word of text.data.matchAll(/\\w+/g)) {
        const range = document.createRange();
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        if (range.getClientRects().length > 1) broken.push(word[0]);
      }
    }
  }
  return broken;
}"""
CONTRAST = """(selector) => {
  const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const shine = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const element = document.querySelector(selector);
  const ink = shine(numbers(getComputedStyle(element).color));
  let ground = element;
  while (ground && (numbers(getComputedStyle(ground).backgroundColor)[3] === 0)) ground = ground.parentElement;
  const paper = shine(numbers(getComputedStyle(ground).backgroundColor));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""


def test_the_preview_shows_a_calendar_entry(database: Database, pgherald: Pgherald, page: Page, tmp_path: Path) -> None:
    database.add_plan("Café Zürich 🎉 שלום", "jane@example.org", status="VE")
    config = configuration(tmp_path, lookup=lookup_with("timestamptz '2026-12-31 18:00+00'"))
    pgherald("preview", RULE, "--out", tmp_path / "out", env={"PGHERALD_CONFIG": str(config)}, check=True)
    page.goto((tmp_path / "out" / "index.html").as_uri())
    shown = page.locator("pre.calendar")
    expect(shown).to_be_visible()
    expect(shown).to_contain_text("DTSTART:20261231T180000Z")
    expect(shown).to_contain_text("SUMMARY:DatePlan: Café Zürich 🎉 שלום")
    box = shown.bounding_box()
    assert box is not None
    assert box["height"] > 200
    shown.screenshot(path=tmp_path / "calendar.png")
