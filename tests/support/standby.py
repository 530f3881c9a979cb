"""A standby of a test's server. https://www.postgresql.org/docs/current/warm-standby.html"""

import subprocess
from pathlib import Path

import psycopg

from listener.demo.cluster import Cluster


class Standby(Cluster):
    """Copies the primary's data when it starts for the first time, and follows it until it is promoted."""

    def __init__(self, primary: Cluster) -> None:
        super().__init__(primary._wanted)
        self._primary = primary
        self._password = primary._password

    def confirm(self) -> None:
        """From now on, the primary's commits wait until they are safe here too."""
        with psycopg.connect(self._primary.dsn(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make it a primary; returns when it takes writes."""
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            row = conn.execute("SELECT pg_promote(true, 30)").fetchone()
            assert row == (True,), "not promoted within 30 s"

    def _create_data_folder(self, folder: Path) -> None:
        # -R writes where the primary is, and that this is a standby.
        subprocess.run(
            [self.binaries / "pg_basebackup", "-d", self._primary.dsn(), "-D", self.data, "-R", "--checkpoint=fast", "--no-sync"],
            check=True, cwd=folder, start_new_session=True, **self._account.popen,
        )  # fmt: skip
