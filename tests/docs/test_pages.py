"""The pages match the code: the names in them exist, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from listener import __version__
from listener.db.pools import MAX_SESSIONS
from listener.smtp.verdicts import TABLE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
# Events of level debug are left out: they are for readers of the code.
LOGGED = re.compile(r'\b(?:log\.(?:info|warning|error|critical)|say)\(\s*"([a-z_]+)"')
SOURCES = [file.read_text(encoding="utf-8") for file in (ROOT / "listener").rglob("*.py")]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", file.read_text(encoding="utf-8"))
    assert [target for target in targets if not (file.parent / target).exists()] == []


def test_architecture_names_modules_that_are_there() -> None:
    named = set(re.findall(r"`([\w/]+)\.py`", page("architecture.md")))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / "listener" / f"{name}.py").exists()} == set()


def test_the_dba_guide_has_the_number_of_sessions() -> None:
    """No other page has it: the others refer to this one."""
    assert f"| **{MAX_SESSIONS}** | **in all, without `http.listen`** |" in page("dba.md")


def test_operations_lists_every_log_event() -> None:
    said = {name for source in SOURCES for name in LOGGED.findall(source)}
    assert len(said) > 15
    assert {name for name in said if f"`{name}`" not in page("operations.md")} == set()


def test_the_glossary_lists_every_reason_that_is_written_in_the_code() -> None:
    given = re.compile(r'(?:NotToSend\(event, |BadData\(|Settlement\(event, "\w+", "\w+", )"([a-z_]+)"')
    reasons = {reason for source in SOURCES for reason in given.findall(source)}
    assert {"no_recipient", "bad_address", "moved"} <= reasons
    assert {reason for reason in reasons if f"`{reason}`" not in page("glossary.md")} == set()


def test_the_glossary_lists_every_reason_of_a_refusal() -> None:
    reasons = {row.verdict.reason for row in TABLE}
    assert len(reasons) > 8
    assert {reason for reason in reasons if f"`{reason}`" not in page("glossary.md")} == set()


def test_pages_name_the_packages_of_this_version() -> None:
    named = re.findall(r"pgherald[-:](\d+\.\d+\.\d+)", "".join(file.read_text(encoding="utf-8") for file in PAGES))
    assert len(named) > 5
    assert set(named) == {__version__}
