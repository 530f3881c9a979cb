"""The data folder of a temporary server, made by initdb."""

# ruff: noqa: S603 - the programs come from the folder we were given

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from listener.demo.binaries import Account
from listener.errors import PgheraldError
from listener.files import folder as private_folder
from listener.files import put


def create(binaries: Path, folder: Path, account: Account, password: str) -> None:
    """Run initdb for ``folder/data`` as `account`. The superuser postgres gets `password`.

    Raises:
        PgheraldError: initdb failed.
    """
    password_file = folder / "password"
    with private_folder(folder) as descriptor:
        put(descriptor, password_file.name, password.encode())
    account.give(password_file)
    done = subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256",
         "--pwfile", password_file, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
        capture_output=True, text=True, cwd=folder, env=server_environment(), start_new_session=True, **account.popen,
    )  # fmt: skip
    password_file.unlink()
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise PgheraldError(f"initdb failed: {lines[-1] if lines else f'exit status {done.returncode}'}")


def configure(data: Path, settings: Mapping[str, object]) -> None:
    """Append settings to postgresql.conf."""
    with open(data / "postgresql.conf", "a", encoding="utf-8", opener=no_link) as file:
        file.writelines("{} = '{}'\n".format(name, str(value).replace("'", "''")) for name, value in settings.items())


def no_link(path: str, flags: int) -> int:
    """Open a file, but no symbolic link. An `opener` for `open`.

    The folder belongs to the server's user. We may be root, and must not write where that user lets a link point.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def server_environment() -> dict[str, str]:
    """Return our environment without PGDATA, PGPORT, PGOPTIONS and the like, which would change the server."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**outside, "LC_ALL": "C", "TZ": "UTC"}
