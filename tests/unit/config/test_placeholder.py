"""A file that `init` left to be completed is refused, with every place in one line."""

from pathlib import Path

import pytest

from listener.config.placeholder import refuse_placeholders
from listener.config.settings import load
from listener.errors import ConfigError

RULE = """
[rules.a]
table = "public.a"
becomes = "{}"
template = "a"
lookup = "SELECT 1 {} %(keys)s"
[rules.b]
table = "public.b"
key = ["id", "{}"]
becomes = "x"
template = "b"
lookup = "SELECT 1 %(keys)s"
"""


def written(folder: Path, *values: str) -> Path:
    file = folder / "pgherald.toml"
    file.write_text(RULE.format(*values))
    return file


def test_every_place_is_named_in_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, "CHANGE_ME", 'd.\\"CHANGE_ME\\"', "CHANGE_ME")
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert str(refused.value) == (
        f"{file}: [rules.a] becomes, lookup; [rules.b] key: CHANGE_ME marks what `pgherald init` could not decide; "
        "replace it as the comment there says"
    )


def test_the_command_that_writes_the_rules_reads_the_rest(tmp_path: Path) -> None:
    file = written(tmp_path, "CHANGE_ME", "", "id")
    file.write_text(file.read_text() + '[rules.c]\nunknown = 1\n[database]\nurl = "postgresql://db"\n')
    assert load(file, rules=False).database.url == "postgresql://db"


def test_a_comment_of_the_query_may_stay(tmp_path: Path) -> None:
    assert load(written(tmp_path, "x", "-- CHANGE_ME, consent: unclear\\n", "part")).rules["a"].becomes == ("x",)


@pytest.mark.parametrize("rules", [None, [], {"a": "CHANGE_ME"}, {"a": {"becomes": "CHANGE_MENU"}}])
def test_other_content_is_left_to_the_other_checks(rules: object) -> None:
    refuse_placeholders({"rules": rules}, Path("pgherald.toml"))
