"""What a condition costs the application: `when`, with and without `from` and `changes`, beside one value and no trigger.

    python benchmarks/state.py [--rows 20000] [--repetitions 7] [--binaries /usr/lib/postgresql/17/bin]

The kinds are interleaved in random order, on a server of its own. Ratios are to the run of the same repetition without
triggers, and to that with one value. Every figure is a median.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

import psycopg

from benchmarks.capture import NEW, TABLE
from listener.demo.cluster import Cluster
from listener.resources import resource

WHEN = """"when" => 'new.status IN (''VE'', ''DE'') AND new.plan_id >= 0'"""
KINDS = {
    "none": None,
    "one value": "becomes => '{VE}'",
    "when": WHEN,
    "when, from, changes": f"""{WHEN}, "from" => 'old.status = ''PE''', changes => '{{created_at}}'""",
    "one value, statement": "becomes => '{VE}', capture => 'statement'",
    "when, statement": f"{WHEN}, capture => 'statement'",
}
STATEMENTS = {
    "unrelated update": "UPDATE public.dateplan SET updated_at = now()",
    "update PE -> VE": "UPDATE public.dateplan SET status = 'VE', updated_at = now()",
    "update VE -> VE": "UPDATE public.dateplan SET updated_at = now()",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--binaries", type=Path)
    options = parser.parse_args()
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    settings = {"shared_buffers": "512MB", "max_wal_size": "8GB", "autovacuum": "off"}
    with Cluster(options.binaries, settings) as cluster, psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(TABLE)
        conn.execute(resource("sql/triggers.sql").read_bytes())
        for _ in range(options.repetitions):
            for kind in random.sample(list(KINDS), len(KINDS)):
                measure(conn, kind, options.rows, taken)
        print(conn.info.parameter_status("server_version"), f"{options.rows} rows, {options.repetitions} repetitions")
    for what in STATEMENTS:
        for kind in KINDS:
            of = {base: _ratio(taken[what, kind], taken[what, base]) for base in ("none", "one value")}
            print(f"{what:18} {kind:22} {statistics.median(taken[what, kind]):6.3f} s  " + "  ".join(
                f"x{ratio:.2f} of {base}" for base, ratio in of.items()
            ))  # fmt: skip


def _ratio(times: list[float], base: list[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(times, base, strict=True))


def measure(conn: psycopg.Connection, kind: str, rows: int, taken: dict[tuple[str, str], list[float]]) -> None:
    """Run the statements on new rows with the triggers of `kind`."""
    conn.execute("SELECT pgherald.unwatch('dateplan_verified')")
    if (arguments := KINDS[kind]) is not None:
        conn.execute(f"SELECT pgherald.watch('dateplan_verified', 'public.dateplan', {arguments})")
    conn.execute("TRUNCATE public.dateplan, pgherald.outbox")
    psycopg.ClientCursor(conn).execute(NEW, {"status": "PE", "a": 1, "b": rows})
    for what, statement in STATEMENTS.items():
        conn.execute("VACUUM public.dateplan")
        conn.execute("CHECKPOINT")
        begin = time.perf_counter()
        conn.execute(statement)
        taken[what, kind].append(time.perf_counter() - begin)
    captured = conn.execute("SELECT count(*) FROM pgherald.outbox").fetchone()
    assert captured == (0 if arguments is None else rows,), captured


if __name__ == "__main__":
    main()
