"""Settings of the server, and files in a folder that another user may write to."""

from pathlib import Path

import pytest

from listener.demo import data_folder
from listener.demo.binaries import Account
from listener.errors import PgheraldError


def test_settings_are_appended_and_quoted(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("# shipped\n")
    data_folder.configure(tmp_path, {"port": 5433, "cluster_name": "jane's", "fsync": False})
    assert (tmp_path / "postgresql.conf").read_text() == (
        "# shipped\nport = '5433'\ncluster_name = 'jane''s'\nfsync = 'False'\n"
    )


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "postgresql.conf").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        data_folder.configure(tmp_path, {"port": 1})
    assert victim.read_text() == "precious"


def test_our_settings_of_libpq_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "yes")
    environment = data_folder.server_environment()
    assert "PGPORT" not in environment
    assert (environment["LC_ALL"], environment["KEPT"]) == ("C", "yes")


def test_initdbs_last_line_is_the_error_and_the_password_is_gone(tmp_path: Path) -> None:
    program = tmp_path / "initdb"
    program.write_text('#!/bin/sh\necho "creating"; echo "first" >&2; echo "no space left" >&2; exit 1\n')
    program.chmod(0o755)
    with pytest.raises(PgheraldError, match=r"^initdb failed: no space left$"):
        data_folder.create(tmp_path, tmp_path, Account(None), "secret")
    assert not (tmp_path / "password").exists()
