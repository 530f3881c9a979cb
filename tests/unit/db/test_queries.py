"""The files of named queries: their form, and that psycopg caches what it makes of each text."""

import re
from importlib.resources import files
from pathlib import Path

import psycopg._queries
import pytest

from listener.db.queries import load
from listener.outbox.store import QUERIES as OUTBOX
from listener.worker.registry import QUERIES as WORKER

FOLDER = Path(str(files("listener"))).parent / "sql" / "queries"
SUBJECTS = sorted(path.stem for path in FOLDER.glob("*.sql"))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_query_has_its_name_and_a_description(subject: str) -> None:
    queries = load(subject)
    assert queries
    for name, text in queries.items():
        first, second, *_ = text.split("\n")
        assert first == f"-- name: {name}"
        assert re.match(r"-- [A-Z]", second), f"{name} has no description"
        assert ";" not in re.sub(r"--.*", "", text), f"{name} is more than one statement"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_name_is_used_twice_and_no_line_is_too_long(subject: str) -> None:
    text = (FOLDER / f"{subject}.sql").read_text(encoding="utf-8")
    names = re.findall(r"(?m)^-- name: (.*)$", text)
    assert len(names) == len(set(names)) == len(load(subject))
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_psycopg_parses_the_text_of_a_workers_query_only_once() -> None:
    """A longer text would be parsed for its parameters at each call, in Python."""
    limit = psycopg._queries.MAX_CACHED_STATEMENT_LENGTH
    # A raw cursor sends the claim as it is.
    parsed = {name: text for name, text in {**OUTBOX, **WORKER}.items() if name != "claim"}
    assert {name: len(text) for name, text in parsed.items() if len(text) > limit} == {}


def test_a_percent_sign_in_a_comment_would_be_a_parameter() -> None:
    for subject in SUBJECTS:
        for name, text in load(subject).items():
            comments = "\n".join(re.findall(r"--.*", text))
            assert "%" not in comments, f"{subject}.{name}"
