"""Make the pictures of the status page in docs/pictures, in a real browser: `make pictures`.

It needs Debian's chromium. The states are made up, so that each problem is there at once.
"""

import io
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from listener.status.overview import MINUTES, EventState, Minute, Overview, RuleState, WorkerState
from listener.web.render import Renderer

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
STATIC = Path(__file__).parents[1] / "listener" / "web" / "static"
SIZES = {"desktop": (1200, 1010), "phone": (360, 740)}
NOW = datetime(2026, 11, 22, 17, 44, 10, tzinfo=UTC)
NAME = "dateplan_verified"


def fine() -> Overview:
    """Return an hour in which everything was delivered."""
    minutes = [
        Minute(
            NOW - timedelta(minutes=i), sent := 3 + round(9 * abs(math.sin(i / 9))), 0, 0, 0.011, 0.04 + 0.002 * sent
        )
        for i in reversed(range(MINUTES))
    ]
    worker = WorkerState(1, "mail-1:20482", "0.1.0", NOW - timedelta(hours=3), 1.0, True, True, None, 0, True)
    rules = [RuleState(name, 0, None, 0, None, None, None, 0, 0) for name in ("dateplan_cancelled_by_owner", NAME)]
    workers = [worker, replace(worker, id=2, name="mail-2:911", leader=False)]
    return Overview(rules, workers, True, [], [_event(i) for i in range(8)], [], [], minutes, 0.0, NOW)


def troubled() -> Overview:
    """Return the same with a suspended rule, a mail server that one daemon cannot use, failures and doubts."""
    o = fine()
    suspended = replace(
        o.rules[0],
        available=57,
        due_for=8300.0,
        in_doubt=1,
        suspended_at=NOW - timedelta(minutes=138),
        suspended_reason="the lookup of rule dateplan_cancelled_by_owner fails: column u.notify does not exist",
    )
    failed = replace(
        _event(3), state="failed", reason="rejected", detail="RCPT: 550 5.7.1 <a***@example.org>: rejected"
    )
    doubt = replace(_event(9), rule=suspended.name, state="in_doubt", reason="no_reply", detail="connection lost")
    workers = [o.workers[0], replace(o.workers[1], breaker="connect: connection refused")]
    minutes = [*o.minutes[:-1], replace(o.minutes[-1], failed=1)]
    rules, listed = [suspended, o.rules[1]], {"failed": [failed], "in_doubt_events": [doubt]}
    return replace(o, rules=rules, workers=workers, minutes=minutes, **listed)


def away() -> Overview:
    """Return the same while no daemon can use the mail server: emails wait."""
    o = fine()
    workers = [replace(worker, breaker="connect: relay.example.org:587: connection refused") for worker in o.workers]
    waiting = replace(o.rules[1], available=57, due_for=190.0)
    minutes = [*o.minutes[:-4], *(replace(m, sent=0, median=None, slow=None) for m in o.minutes[-4:])]
    return replace(o, rules=[o.rules[0], waiting], workers=workers, minutes=minutes)


def _event(number: int) -> EventState:
    at = NOW - timedelta(seconds=17 * number + 2)
    key, message_id = str(4711 - number), "3ebqgcaxgzk6rhfw3qteqncekm"
    return EventState(4711 - number, NAME, key, "sent", None, 1, at, 0.012, None, at, message_id=message_id)


def page(o: Overview) -> str:
    """Return the page as one file, with its style and without its script."""
    renderer = Renderer()
    context = {"rule": "", "key": "", "notice": "", "outage": "", "parts": {}, "may_act": False, "login_enabled": True}
    names = [rule.name for rule in o.rules]
    html = renderer.page("page", **context, rule_names=names, sections=renderer.sections(o, False))
    style, icon = (STATIC / name for name in ("page.css", "icon.svg"))
    return (
        html.replace('<link rel="stylesheet" href="static/page.css">', f"<style>{style.read_text('utf-8')}</style>")
        .replace('<img src="static/icon.svg" alt="" width="28" height="28">', icon.read_text("utf-8"))
        .replace("<svg xmlns", '<svg width="28" height="28" xmlns', 1)
        .replace('<span id="live" class="live" hidden>', '<span class="live">')
    )


def main(folder: Path) -> None:
    """Write a picture of each state and size."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for size, scheme in (("desktop", "light"), ("phone", "dark")):
            _picture(browser, page(fine()), size, scheme, folder / f"page-{size}.png")
        for size, scheme in (("desktop", "light"), ("phone", "light")):
            _picture(browser, page(troubled()), size, scheme, folder / f"page-problems-{size}.png")
        _picture(browser, page(away()), "phone", "light", folder / "page-mail-server-away-phone.png")
        browser.close()


def _picture(browser: Browser, html: str, size: str, scheme: str, file: Path) -> None:
    width, height = SIZES[size]
    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    view.set_content(html, wait_until="load")
    # The pages are flat: 64 colours are enough, at a third of the size.
    taken = Image.open(io.BytesIO(view.screenshot()))
    taken.convert("RGB").quantize(64).save(file, optimize=True)
    view.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
