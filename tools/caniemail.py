"""Make listener/mail/clients.json from the data of npm's package caniemail: `make clients`.

python -m tools.caniemail package.json caniemail.json
"""

import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "listener" / "mail" / "clients.json"
# The mail programs that most people use, by caniemail's family and platform.
CLIENTS = {
    "Gmail": [("gmail", "desktop-webmail"), ("gmail", "ios"), ("gmail", "android")],
    "Outlook on Windows": [("outlook", "windows")],
    "Outlook.com": [("outlook", "outlook-com")],
    "Apple Mail": [("apple-mail", "macos"), ("apple-mail", "ios")],
    "Yahoo": [("yahoo", "desktop-webmail"), ("yahoo", "ios"), ("yahoo", "android")],
}
# An email may be unreadable without these. Features that only adorn (round corners, shadows, a dark scheme) are left out.
FEATURES = [
    "css-align-items",
    "css-aspect-ratio",
    "css-at-import",
    "css-background-image",
    "css-clip-path",
    "css-column-count",
    "css-display-flex",
    "css-display-grid",
    "css-flex-direction",
    "css-float",
    "css-function-clamp",
    "css-function-max",
    "css-function-min",
    "css-gap",
    "css-grid-template",
    "css-inset",
    "css-justify-content",
    "css-left-right-top-bottom",
    "css-linear-gradient",
    "css-mask-image",
    "css-object-fit",
    "css-opacity",
    "css-position",
    "css-pseudo-class-checked",
    "css-pseudo-element-after",
    "css-pseudo-element-before",
    "css-transform",
    "css-unit-calc",
    "css-unit-vh",
    "css-unit-vw",
    "css-variables",
    "css-visibility",
    "css-writing-mode",
    "css-z-index",
    "html-audio",
    "html-background",
    "html-base",
    "html-button-submit",
    "html-dialog",
    "html-form",
    "html-image-maps",
    "html-input-text",
    "html-link",
    "html-marquee",
    "html-meter",
    "html-object",
    "html-picture",
    "html-popover",
    "html-progress",
    "html-select",
    "html-srcset",
    "html-svg",
    "html-textarea",
    "html-video",
    "image-avif",
    "image-base64",
    "image-svg",
    "image-webp",
]


def lacking(stats: dict[str, Any]) -> list[str]:
    """Return the clients that lack a feature on one platform at least, in the newest version that was tested."""
    found = []
    for client, platforms in CLIENTS.items():
        tested = [list(stats.get(family, {}).get(platform, {}).values()) for family, platform in platforms]
        if any(results and results[-1].startswith("n") for results in tested):
            found.append(client)
    return found


def main(package: str, data: str) -> None:
    """Write the table from the package's own package.json and its data file."""
    release = json.loads(Path(package).read_text(encoding="utf-8"))
    known = json.loads(Path(data).read_text(encoding="utf-8"))
    stats = {feature["slug"]: feature["stats"] for feature in known["data"]}
    table = {
        "source": f"npm package caniemail {release['version']}, data of {known['last_update_date'][:10]}; www.caniemail.com",
        "license": "MIT; copyright Avi Goldman, Andrew Powell, and caniemail.com",
        "lacking": {slug: clients for slug in FEATURES if (clients := lacking(stats[slug]))},
    }
    TABLE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
