"""What the application pays: the write path with and without the triggers, bulk statements, the gate."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import psycopg

from benchmarks.stage import Daemon, Database, Sink, Stage

Result = dict[str, Any]

# Each client walks through rows of its own; `:i` counts its changes.
_REACHES = """
\\set i :i + 1
\\set id :client_id * :stride + :i
UPDATE public.dateplan SET status = 'VE' WHERE id = :id;
"""
_OTHER_COLUMN = _REACHES.replace("status = 'VE'", "note = 'x'")
_OUTBOX_ONLY = """
    CREATE TABLE public.plain_outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL);
    CREATE FUNCTION public.plain() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.plain_outbox (key) VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER plain AFTER UPDATE ON public.dateplan FOR EACH ROW
        WHEN (NEW.status = 'VE' AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION public.plain();
"""
# The least that a trigger costs whose WHEN has to be read.
_SHORTEST = """
    CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER nothing AFTER UPDATE ON public.dateplan FOR EACH ROW
        WHEN (NEW.plan_id < 0) EXECUTE FUNCTION public.nothing();
"""
_WHEN = "new.status IN ('VE', 'DE') AND new.plan_id >= 0"
# `daemon asleep` holds the gate as a daemon that sleeps does, for the whole time: every change must ring.
BULK = ("no trigger", "row triggers", "statement triggers")
UNRELATED = ("no trigger", "no trigger, again", "shortest WHEN", "watched", "watched by when")
CASES = ("no trigger", "plain outbox row", "no daemon", "daemon busy", "daemon asleep")
_GATE = "SELECT pg_advisory_lock(726354, 1)"


def write(stage: Stage, case: str, clients: int, seconds: float) -> Result:
    """Changes a second that pgbench's clients make, a transaction each."""
    with stage.database("bare" if case in ("no trigger", "plain outbox row") else "watched") as db:
        if case == "plain outbox row":
            db.conn.execute(_OUTBOX_ONLY)
        with _company(db, case) as sink:
            result = _pgbench(stage, db, _REACHES, clients, seconds)
            if sink is not None:
                result["mails_per_s"] = sink.count / seconds
            return result


def unrelated(stage: Stage, clients: int, rounds: int, seconds: int) -> Iterator[tuple[str, Result]]:
    """Changes a second that don't reach the state: another column is written. Short rounds, each in another order."""
    with ExitStack() as opened:
        databases = {
            case: opened.enter_context(stage.database("watched" if case.startswith("watched") else "bare"))
            for case in UNRELATED
        }
        databases["shortest WHEN"].conn.execute(_SHORTEST)
        by_when = databases["watched by when"]
        by_when.run("SELECT pgherald.unwatch('dateplan_verified')")
        by_when.run("SELECT pgherald.watch('dateplan_verified', 'public.dateplan', \"when\" => %s)", _WHEN)
        for number in range(rounds):
            first = number % len(UNRELATED)
            for case in (UNRELATED[first:] + UNRELATED[:first])[:: -1 if number % 2 else 1]:
                yield case, _pgbench(stage, databases[case], _OTHER_COLUMN, clients, seconds)
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


def _pgbench(stage: Stage, db: Database, script: str, clients: int, seconds: float) -> Result:
    if stage.pgbench is None:
        raise RuntimeError("the write path is measured with pgbench, which is neither beside the server nor on PATH")
    with NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [stage.pgbench, "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds), "-D", "i=0",
             "-D", f"stride={stage.rows // clients}", "-f", file.name, db.url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    changes = int(re.search(r"actually processed: (\d+)", done.stdout)[1])  # type: ignore[index]
    assert changes < stage.rows, "the rows have run out; more rows, or fewer seconds"
    return {"changes_per_s": float(re.search(r"tps = ([\d.]+)", done.stdout)[1])}  # type: ignore[index]


def bulk(stage: Stage, case: str, rows: int) -> Result:
    """One statement that takes many rows to the value."""
    with stage.database("bare" if case == "no trigger" else "watched") as db:
        if case == "statement triggers":
            db.run("SELECT pgherald.unwatch('dateplan_verified')")
            db.run("SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => 'statement')")
        began = time.monotonic()
        db.verify(1, rows)
        return {"seconds": time.monotonic() - began}


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
            with NamedTemporaryFile("w", suffix=".sql") as file:
                file.write(_REACHES)
                file.flush()
                done = subprocess.run(
                    [str(stage.pgbench), "-n", "-M", "prepared", "-c", "4", "-j", "1", "-R", str(rate), "-T", str(seconds), "-D", "i=0",
                     "-D", f"stride={stage.rows // 4}", "-f", file.name, db.url],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
            listening.execute("SELECT 1")
    changes = int(re.search(r"actually processed: (\d+)", done.stdout)[1])  # type: ignore[index]
    return {"offered_per_s": rate, "changes_per_s": changes / seconds, "rang_share": rung / max(changes, 1)}
