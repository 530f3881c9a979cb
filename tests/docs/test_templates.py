"""docs/templates.md shows the shipped email and the calendar entry as they are."""

import re
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent, indent

from listener.address import parse_address
from listener.config.rules import default_rules
from listener.config.sections import Mail
from listener.config.settings import Settings
from listener.mail.composer import Composer
from listener.mail.templates import Templates
from tools.pictures import FOLDER, NAME, messages

PAGE = (FOLDER.parent / "templates.md").read_text(encoding="utf-8")


def test_the_text_part() -> None:
    text = messages()["en"].content.text
    shown = "\n".join(line.rstrip() for line in indent(text, "    ").splitlines())
    assert shown in PAGE


def test_the_calendar_entry(tmp_path: Path) -> None:
    source, shown = (dedent(block) for block in re.findall(r"(?m)(?:^    (?:SUMMARY|BEGIN).*\n)(?:^    .*\n)+", PAGE))
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "event.ics.j2").write_text(source, encoding="utf-8")
    mail = {"from": "Date Plans <no-reply@example.org>", "base_url": "https://app.example.org"}
    rule = default_rules()[NAME].model_copy(update={"link": "/dateplans/{key}"})
    settings = Settings(rules={NAME: rule}, mail=Mail.model_validate(mail))
    times = {"starts_at": datetime(2026, 12, 31, 18, tzinfo=UTC), "ends_at": datetime(2026, 12, 31, 20, tzinfo=UTC)}
    made = Composer(settings, Templates([NAME], tmp_path), b"no secret").compose(
        NAME,
        "4711",
        {"place": "Café Zürich", "language": "en-GB", "timezone": "Europe/Berlin", **times},
        parse_address("anna@example.org"),
        "k" * 26,
        datetime(2026, 11, 22, 18, 30, tzinfo=UTC),
    )
    assert (made.content.calendar or "").replace("\r\n", "\n") == shown


def test_the_pictures_are_there_and_small() -> None:
    shown = {Path(name).name for name in re.findall(r"\]\(pictures/(\S+?)\)", PAGE)}
    there = {file.name for file in FOLDER.iterdir() if not file.name.startswith(("page-", "speed-"))}
    assert shown <= there
    assert len(there) == 13
    assert all(file.stat().st_size < 60_000 for file in FOLDER.iterdir())
