"""Make the pictures in docs/pictures from the shipped email, in a real browser: `make pictures`.

It needs Debian's chromium and fonts-noto-color-emoji.
"""

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from listener.address import parse_address
from listener.config.rules import default_rules
from listener.config.sections import Http, Mail
from listener.config.settings import Settings
from listener.mail.composer import Composer, Message
from listener.mail.templates import Templates
from listener.preview import page as gallery

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
NAME = "dateplan_verified"


def messages() -> dict[str, Message]:
    """Return the shipped email in each language, and the example in Arabic, with the link and the unsubscribe line that are optional."""
    rule = default_rules()[NAME].model_copy(update={"link": "/dateplans/{key}", "unsubscribe": "application"})
    settings = Settings(
        rules={NAME: rule},
        mail=Mail.model_validate({"from": "Date Plans <no-reply@example.org>", "base_url": "https://app.example.org"}),
        http=Http(public_url="https://mail.example.org"),
    )
    templates = Templates([NAME], FOLDER.parents[1] / "examples" / "templates")
    composer = Composer(settings, templates, b"no secret")
    when = datetime(2026, 11, 22, 18, 30, tzinfo=UTC)
    return {
        language or "en": composer.compose(
            NAME,
            "4711",
            {"place": "Café Zürich", "language": language},
            parse_address("anna@example.org"),
            "k" * 26,
            when,
        )
        for language in templates.languages(NAME)
    }


def main(folder: Path) -> None:
    """Write a picture for each language, width and colour scheme, and one of the preview page."""
    folder.mkdir(parents=True, exist_ok=True)
    made = messages()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for language, message in made.items():
            for width in (600, 360):
                for scheme in ("light", "dark"):
                    html = message.content.html or ""
                    _picture(browser, html, width, scheme, folder / f"{NAME}-{language}-{width}-{scheme}.png")
        page = gallery.page(NAME, "4711", {"as sent": made["en"]})
        # Chromium leaves frames blank that are below the window.
        _picture(browser, page, 1090, "light", folder / "preview.png", height=2400)
        browser.close()


def _picture(browser: Browser, html: str, width: int, scheme: str, file: Path, height: int = 200) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_content(html, wait_until="load")
    taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    if height > 200:
        taken = taken.resize((taken.width // 2, taken.height // 2))
    # The pages are flat: 128 colours are enough, at a third of the size.
    taken.convert("RGB").quantize(128).save(file, optimize=True)
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
