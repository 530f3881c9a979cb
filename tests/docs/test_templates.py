"""docs/templates.md shows the shipped email as it is."""

import re
from pathlib import Path
from textwrap import indent

from tools.pictures import FOLDER, messages

PAGE = (FOLDER.parent / "templates.md").read_text(encoding="utf-8")


def test_the_text_part() -> None:
    text = messages()["en"].content.text
    shown = "\n".join(line.rstrip() for line in indent(text, "    ").splitlines())
    assert shown in PAGE


def test_the_pictures_are_there_and_small() -> None:
    shown = {Path(name).name for name in re.findall(r"\]\(pictures/(\S+?)\)", PAGE)}
    there = {file.name for file in FOLDER.iterdir() if not file.name.startswith(("page-", "speed-"))}
    assert shown <= there
    assert len(there) == 13
    assert all(file.stat().st_size < 60_000 for file in FOLDER.iterdir())
