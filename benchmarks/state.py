"""What a condition costs the application: `when`, with and without `from` and `changes`, beside one value and no trigger.

    python benchmarks/state.py [--rows 20000] [--repetitions 7] [--binaries /usr/lib/postgresql/17/bin]

The kinds are interleaved in random order, on a server of its own. Ratios are to the run of the same repetition without
triggers, and to that with one value. Every figure is a median.
"""

import statistics

import psycopg

from benchmarks.capture import NEW, Times, interleaved, seconds

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
    _, taken = interleaved(__doc__, list(KINDS), 20_000, measure)
    for what in STATEMENTS:
        for kind in KINDS:
            of = {base: _ratio(taken[what, kind], taken[what, base]) for base in ("none", "one value")}
            print(f"{what:18} {kind:22} {statistics.median(taken[what, kind]):6.3f} s  " + "  ".join(
                f"x{ratio:.2f} of {base}" for base, ratio in of.items()
            ))  # fmt: skip


def _ratio(times: list[float], base: list[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(times, base, strict=True))


def measure(conn: psycopg.Connection, kind: str, rows: int, taken: Times) -> None:
    """Run the statements on new rows with the triggers of `kind`."""
    conn.execute("SELECT pgherald.unwatch('dateplan_verified')")
    if (arguments := KINDS[kind]) is not None:
        conn.execute(f"SELECT pgherald.watch('dateplan_verified', 'public.dateplan', {arguments})")
    conn.execute("TRUNCATE public.dateplan, pgherald.inbox")
    psycopg.ClientCursor(conn).execute(NEW, {"status": "PE", "a": 1, "b": rows})
    for what, statement in STATEMENTS.items():
        taken[what, kind].append(seconds(conn, statement))
    captured = conn.execute("SELECT count(*) FROM pgherald.inbox").fetchone()
    assert captured == (0 if arguments is None else rows,), captured


if __name__ == "__main__":
    main()
