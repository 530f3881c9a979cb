"""What the application pays: the write path with and without the triggers, bulk statements, the gate."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import psycopg

from benchmarks import machine
from benchmarks.stage import TREES, Daemon, Database, Sink, Stage

Result = dict[str, Any]

# Each client walks through rows of its own; `:i` counts its changes.
REACHES = """
\\set i :i + 1
\\set id :client_id * :stride + :i
UPDATE public.dateplan SET status = 'VE' WHERE id = :id;
"""
_OTHER_COLUMN = REACHES.replace("status = 'VE'", "note = 'x'")
# The least that a trigger can do to keep a change.
_HEAP_ROW = """
    CREATE TABLE public.heap (rule text, key text);
    CREATE FUNCTION public.heap_row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.heap VALUES (TG_ARGV[0], NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER heap_row AFTER UPDATE ON public.dateplan FOR EACH ROW
        WHEN (NEW.status = 'VE' AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION public.heap_row('dateplan_verified');
"""
# The least that a trigger costs whose WHEN has to be read.
_SHORTEST = """
    CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER nothing AFTER UPDATE ON public.dateplan FOR EACH ROW
        WHEN (NEW.plan_id < 0) EXECUTE FUNCTION public.nothing();
"""
_WHEN = "new.status IN ('VE', 'DE') AND new.plan_id >= 0"
_BEFORE = len(TREES) > 1
BULK = ("no trigger", "row triggers", "statement triggers") + (
    "row triggers before",
    "statement triggers before",
) * _BEFORE
UNRELATED = ("no trigger", "no trigger, again", "shortest WHEN", "watched", "watched by when")
# `daemon asleep` holds the gate as a daemon that sleeps does, for the whole time: every change must ring.
CASES = ("no trigger", "bare heap row", "no daemon", "daemon busy", "daemon asleep") + ("no daemon before",) * _BEFORE
_GATE = "SELECT pg_advisory_lock(726354, 1)"


def write(stage: Stage, case: str, clients: int, seconds: float) -> Result:
    """Changes a second that pgbench's clients make, a transaction each."""
    with stage.database(_template(case)) as db:
        if case == "bare heap row":
            db.conn.execute(_HEAP_ROW)
        with _company(db, case) as sink:
            meter = machine.Meter.start(server=stage.server_pid)
            changes, rate = pgbench(stage, db, REACHES, clients, seconds)
            if sink is not None:
                return {"changes_per_s": rate, "mails_per_s": sink.count / seconds}
            spent = meter.read()
            return {"changes_per_s": rate, "server_us": spent["server"] / changes * 1e6, "others": spent["others"]}


def _template(case: str) -> str:
    if case.endswith("before"):
        return "before"
    return "bare" if case in ("no trigger", "no trigger, again", "shortest WHEN", "bare heap row") else "now"


def unrelated(stage: Stage, clients: int, rounds: int, seconds: float) -> Iterator[tuple[str, Result]]:
    """Changes a second that don't reach the state: another column is written. Short rounds, each in another order."""
    with ExitStack() as opened:
        databases = {case: opened.enter_context(stage.database(_template(case))) for case in UNRELATED}
        databases["shortest WHEN"].conn.execute(_SHORTEST)
        databases["watched by when"].run("SELECT pgherald.unwatch('dateplan_verified')")
        databases["watched by when"].run(
            "SELECT pgherald.watch('dateplan_verified', 'public.dateplan', \"when\" => %s)", _WHEN
        )
        for number in range(rounds):
            first = number % len(UNRELATED)
            for case in (UNRELATED[first:] + UNRELATED[:first])[:: -1 if number % 2 else 1]:
                yield case, {"changes_per_s": pgbench(stage, databases[case], _OTHER_COLUMN, clients, seconds)[1]}
                databases[case].run("VACUUM public.dateplan")


@contextmanager
def _company(db: Database, case: str) -> Iterator[Sink | None]:
    if case == "daemon busy":
        with Sink() as sink, Daemon(db.url, sink.port) as daemon:
            daemon.wait_ready()
            yield sink
    elif case == "daemon asleep":
        with psycopg.connect(db.url, autocommit=True) as conn:
            conn.execute("LISTEN pgherald")
            conn.execute(_GATE)
            yield None
    else:
        yield None


def pgbench(stage: Stage, db: Database, script: str, clients: int, seconds: float, rate: int = 0) -> tuple[int, float]:
    """Return the number of changes, and how many there were a second. `rate`: how many a second; 0: at full speed."""
    if stage.pgbench is None:
        raise RuntimeError("the write path is measured with pgbench, which is neither beside the server nor on PATH")
    with NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [stage.pgbench, "-n", "-M", "prepared", "-c", str(clients), "-j", "1" if rate else "2", "-T", f"{seconds:.0f}",
             *(["-R", str(rate)] if rate else []), "-D", "i=0", "-D", f"stride={stage.rows // clients}", "-f", file.name, db.url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    changes = int(re.search(r"actually processed: (\d+)", done.stdout)[1])  # type: ignore[index]
    assert changes < stage.rows, "the rows have run out; more rows, or fewer seconds"
    return changes, float(re.search(r"tps = ([\d.]+)", done.stdout)[1])  # type: ignore[index]


def bulk(stage: Stage, case: str, rows: int) -> Result:
    """One statement that takes many rows to the value."""
    with stage.database(_template(case)) as db:
        if case.startswith("statement triggers"):
            db.run("SELECT pgherald.unwatch('dateplan_verified')")
            db.run("SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => 'statement')")
        meter = machine.Meter.start(server=stage.server_pid)
        db.verify(1, rows)
        spent = meter.read()
        return {"seconds": spent["seconds"], "server_us": spent["server"] / rows * 1e6, "others": spent["others"]}


def gate(stage: Stage, rate: int, seconds: float) -> Result:
    """Changes at a steady rate beside a daemon: which share of them had to ring."""
    with stage.database() as db, Sink() as sink, Daemon(db.url, sink.port) as daemon:
        daemon.wait_ready()
        rung = 0

        def heard(notify: Any) -> None:
            nonlocal rung
            rung += not notify.payload

        time.sleep(0.5)
        with psycopg.connect(db.url, autocommit=True) as listening:
            listening.add_notify_handler(heard)
            listening.execute("LISTEN pgherald")
            changes, _ = pgbench(stage, db, REACHES, 4, seconds, rate)
            listening.execute("SELECT 1")
    return {"offered_per_s": rate, "changes_per_s": changes / seconds, "rang_share": rung / max(changes, 1)}
