"""Files that only the user can read: mode 0600, complete or absent, and never written through another user's link.

A folder is held open by its descriptor, so that nobody can exchange it between two steps. A file appears by a rename, which
replaces a name and follows no link.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@contextmanager
def folder(path: Path, *, within: int | None = None) -> Iterator[int]:
    """Open the folder, and yield its descriptor. Create it and its parents with mode 0700 if they are missing.

    `within` is the descriptor of the folder that `path` starts from.

    Raises:
        OSError: the folder cannot be opened or created, or its last name is a symbolic link.
    """
    try:
        _make(path, within)
        descriptor = os.open(path, _FOLDER, dir_fd=within)
    except OSError as exc:
        if _is_link(path, within):
            # The system's message, "Not a directory", would not help.
            why = "is a symbolic link, and is not followed; name the folder that it leads to"
            raise OSError(errno.ELOOP, why, str(path)) from exc
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(path: Path, within: int | None) -> None:
    try:
        os.mkdir(path, 0o700, dir_fd=within)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make(path.parent, within)
        # Another thread that writes a message may have created it meanwhile.
        with suppress(FileExistsError):
            os.mkdir(path, 0o700, dir_fd=within)


def _is_link(path: Path, within: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(path, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        return False


def put(descriptor: int, name: str, data: bytes, *, by_way_of: int | None = None) -> None:
    """Write a file into the open folder, and sync it to the disk. A regular file of that name is replaced.

    `by_way_of` is the descriptor of another folder, which has the file while it is incomplete.

    Raises:
        OSError: the file cannot be written, or the name belongs to a link, a pipe, a device or a folder.
    """
    with suppress(FileNotFoundError):
        # The rename itself would be safe. But run by root with the name /dev/null, it would replace the device.
        if not stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise FileExistsError(
                errno.EEXIST, "is not a regular file, and was not replaced; remove it, or choose another name", name
            )
    way = descriptor if by_way_of is None else by_way_of
    unfinished = f".{secrets.token_hex(8)}.tmp"
    file = os.open(unfinished, _NEW_FILE, 0o600, dir_fd=way)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(file)
        os.rename(unfinished, name, src_dir_fd=way, dst_dir_fd=descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=way)
        raise
    os.fsync(descriptor)
