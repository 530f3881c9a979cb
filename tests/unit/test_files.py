"""Files for the user alone, and no way through a link that somebody has laid."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from listener.files import folder, put


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def write(path: Path, name: str, data: bytes = b"new") -> None:
    with folder(path) as descriptor:
        put(descriptor, name, data)


@pytest.fixture(autouse=True)
def _loose() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_folders_and_files_that_it_makes_are_the_users_alone(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", "file")
    assert [mode(path) for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file")] == [0o700, 0o700, 0o600]  # fmt: skip


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write(tmp_path, "file")
    write(tmp_path, "file", b"again")
    assert (mode(tmp_path), (tmp_path / "file").read_bytes()) == (0o755, b"again")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_file_that_others_could_read_is_replaced_and_not_filled(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o666)
    with (tmp_path / "file").open("rb") as reader:
        write(tmp_path, "file")
        assert reader.read() == b"old"
    assert mode(tmp_path / "file") == 0o600


def test_a_hard_link_is_left_with_its_own(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"old")
    (tmp_path / "file").hardlink_to(victim)
    write(tmp_path, "file")
    assert (victim.read_bytes(), (tmp_path / "file").read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("target", ["victim", "nowhere", "/dev/null"])
def test_no_link_to_a_file_is_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / "file").symlink_to(target)
    with pytest.raises(OSError, match="is not a regular file"):
        write(tmp_path, "file")
    assert (tmp_path / "victim").read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "victim"]


def test_no_pipe_device_or_folder_is_written_or_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="is not a regular file"):
            write(tmp_path, name)
    with pytest.raises(OSError, match="is not a regular file"), folder(Path("/dev")) as descriptor:
        put(descriptor, "null", b"")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("target", ["victim", "nowhere"])
@pytest.mark.parametrize("end", ["", "/", "/."])
def test_no_link_to_a_folder_is_followed(tmp_path: Path, target: str, end: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OSError, match="is a symbolic link"):
        write(Path(f"{tmp_path}/link{end}"), "file")
    assert list((tmp_path / "victim").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_link_above_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link" / "out", "file")
    assert (tmp_path / "real" / "out" / "file").exists()


def test_a_folder_exchanged_in_the_meantime_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    with folder(tmp_path / "out") as descriptor:
        (tmp_path / "out").rename(tmp_path / "away")
        (tmp_path / "out").symlink_to("victim")
        put(descriptor, "file", b"new")
    assert list((tmp_path / "victim").iterdir()) == []
    assert (tmp_path / "away" / "file").exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, "file")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}


def test_several_make_one_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(50):
            together = threading.Barrier(8)

            def one(
                number: int, path: Path = tmp_path / str(turn) / "a" / "b", together: threading.Barrier = together
            ) -> None:
                together.wait(10)
                write(path, str(number))

            list(pool.map(one, range(8)))
            assert len(list((tmp_path / str(turn) / "a" / "b").iterdir())) == 8
