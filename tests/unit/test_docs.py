"""The pages keep up with the code: what they list is all there is, and their links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from listener.replies import TABLE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
# Not those of level debug: they are for whoever reads the code.
LOGGED = re.compile(r'\b(?:log\.(?:info|warning|error|critical)|say)\(\s*"([a-z_]+)"')
SOURCES = [file.read_text(encoding="utf-8") for file in (ROOT / "listener").rglob("*.py")]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", file.read_text(encoding="utf-8"))
    assert [target for target in targets if not (file.parent / target).exists()] == []


def test_the_layers_are_those_that_are_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        (contract,) = tomllib.load(stream)["tool"]["importlinter"]["contracts"]
    assert page("architecture.md").rpartition("## Layers")[2].split("```")[1].split("\n")[1:-1] == contract["layers"]


def test_operations_lists_every_log_event() -> None:
    said = {name for source in SOURCES for name in LOGGED.findall(source)}
    assert len(said) > 15
    assert {name for name in said if f"`{name}`" not in page("operations.md")} == set()


def test_the_glossary_lists_every_reason_of_a_refusal() -> None:
    reasons = {row.verdict.reason for row in TABLE}
    assert len(reasons) > 8
    assert {reason for reason in reasons if f"`{reason}`" not in page("glossary.md")} == set()
