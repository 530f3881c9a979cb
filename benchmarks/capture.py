"""What capture costs the application: one statement that changes many rows, without triggers and with either kind.

    python benchmarks/capture.py [--rows 100000] [--repetitions 7] [--binaries /usr/lib/postgresql/17/bin]

The kinds are interleaved in random order, on an embedded server of its own; ratios are to the run without triggers of the
same repetition, and every figure is a median. The table is as Django makes one: a primary key and two indexed foreign keys.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from listener.demo.cluster import Cluster
from listener.resources import resource

TABLE = """
    CREATE TABLE public.dateplan (id bigint PRIMARY KEY, user_id bigint NOT NULL, plan_id bigint NOT NULL, status varchar(2) NOT NULL,
                                  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON public.dateplan (user_id); CREATE INDEX ON public.dateplan (plan_id);
"""
NEW = "INSERT INTO public.dateplan (id, user_id, plan_id, status) SELECT g, g %% 9999, g %% 999, %(status)s FROM generate_series(%(a)s::bigint, %(b)s) AS g"
CHANGE = "UPDATE public.dateplan SET status = %(status)s, updated_at = now()"
KINDS = ("none", "row", "statement")


Times = dict[tuple[str, str], list[float]]


def interleaved(
    description: str | None,
    kinds: Sequence[str],
    rows: int,
    measure: Callable[[psycopg.Connection, str, int, Times], None],
) -> tuple[int, Times]:
    """Read the options, and measure each kind in each repetition, in random order.

    Return the number of rows, and the seconds by statement and kind.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--binaries", type=Path)
    options = parser.parse_args()
    taken: Times = defaultdict(list)
    settings = {"shared_buffers": "512MB", "max_wal_size": "8GB", "autovacuum": "off"}
    with Cluster(options.binaries, settings) as cluster, psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(TABLE)
        conn.execute(resource("sql/triggers.sql").read_bytes())
        for _ in range(options.repetitions):
            for kind in random.sample(kinds, len(kinds)):
                measure(conn, kind, options.rows, taken)
        print(conn.info.parameter_status("server_version"), f"{options.rows} rows, {options.repetitions} repetitions")
    return options.rows, taken


def seconds(conn: psycopg.Connection, statement: str, values: dict[str, object] | None = None) -> float:
    """Return how long a statement takes after a VACUUM and a checkpoint."""
    conn.execute("VACUUM public.dateplan")
    conn.execute("CHECKPOINT")
    begin = time.perf_counter()
    conn.execute(statement, values)
    return time.perf_counter() - begin


def main() -> None:
    rows, taken = interleaved(__doc__, KINDS, 100_000, measure)
    for what in dict.fromkeys(what for what, _ in taken):
        for kind in KINDS:
            times = taken[what, kind]
            ratios = [mine / without for mine, without in zip(times, taken[what, "none"], strict=True)]
            added = 1e6 * (statistics.median(times) - statistics.median(taken[what, "none"])) / rows
            spread = f"[{min(ratios):.2f}-{max(ratios):.2f}]"
            print(
                f"{what:22} {kind:10} {statistics.median(times):7.3f} s  x{statistics.median(ratios):.2f} {spread:14} +{added:.1f} us a row"
            )


def measure(conn: psycopg.Connection, kind: str, rows: int, taken: Times) -> None:
    conn.execute("SELECT pgherald.unwatch('dateplan_verified')")
    if kind != "none":
        conn.execute("SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => %s)", (kind,))
    conn.execute("TRUNCATE public.dateplan, pgherald.inbox")
    first, second = {"a": 1, "b": rows}, {"a": rows + 1, "b": 2 * rows}
    for what, statement, values in (
        ("insert as PE", NEW, {"status": "PE", **first}),
        ("update PE -> VE", CHANGE, {"status": "VE"}),
        ("update VE -> VE", CHANGE, {"status": "VE"}),
        ("update VE -> XX", CHANGE, {"status": "XX"}),
        ("insert as VE", NEW, {"status": "VE", **second}),
    ):
        taken[what, kind].append(seconds(conn, statement, values))
    captured = conn.execute("SELECT count(*) FROM pgherald.inbox").fetchone()
    assert captured == (0 if kind == "none" else 2 * rows,), captured


if __name__ == "__main__":
    main()
