"""install and uninstall with --print, for which no database is needed."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from listener.cli.install import install, uninstall
from listener.errors import PgheraldError

RULE = """
[rules.paid]
table = "public.plan"
becomes = "{becomes}"
template = "dateplan_verified"
lookup = "SELECT 1 WHERE 1 = ANY (%(keys)s::int[])"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Nothing listens there: a connection would fail.
    monkeypatch.setenv("PGHERALD_DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    return tmp_path / "pgherald.toml"


def test_the_sql_is_printed_without_a_connection(config: Path) -> None:
    config.write_text(RULE.format(becomes="VE"), encoding="utf-8")
    done = CliRunner().invoke(install, ["--print", "--config", str(config)])
    assert done.exit_code == 0
    assert "pgherald.watch('paid'" in done.output
    assert "CREATE ROLE" not in done.output
    with_roles = CliRunner().invoke(install, ["--print", "--create-roles", "--config", str(config)]).output
    assert "CREATE ROLE" in with_roles
    assert "DROP" in CliRunner().invoke(uninstall, ["--print", "--config", str(config)]).output


def test_sql_with_an_invisible_character_is_not_printed(config: Path) -> None:
    config.write_text(RULE.format(becomes="V\\u202eE"), encoding="utf-8")
    done = CliRunner().invoke(install, ["--print", "--config", str(config)])
    assert done.output == ""
    assert isinstance(done.exception, PgheraldError)
    assert "invisible characters" in str(done.exception)
