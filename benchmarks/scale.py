"""What one primary carries: daemons asleep, the database's half of many, retention, an outbox in partitions."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import psycopg

from benchmarks import deliver, machine
from benchmarks.stage import (
    HERE,
    PROGRAM,
    Daemon,
    Database,
    Sink,
    Stage,
    TimedSink,
    daemons,
    environment,
    install,
)
from listener.resources import resource

Result = dict[str, Any]


def asleep(stage: Stage, number: int, seconds: float) -> Result:
    """What so many daemons cost while nothing happens."""
    with stage.database() as db, Sink() as sink, daemons(db.url, sink.port, number) as running:
        time.sleep(2.0)
        meter = machine.Meter.start(server=stage.server_pid, **{f"daemon{i}": one.pid for i, one in enumerate(running)})
        stated = db.statements()
        time.sleep(seconds)
        stated = db.statements() - stated
        spent = meter.read()
        connections = db.run("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")[0][0]
    return {
        "server_cores": spent["server"] / spent["seconds"],
        "daemon_cores_each": _together(spent, "daemon") / spent["seconds"] / number,
        "statements_per_s_each": stated / spent["seconds"] / number,
        "connections_each": connections / number,
        "others": spent["others"],
    }


def primary(stage: Stage, number: int, events: int) -> Result:
    """What so many halves of a daemon (`simulated.py`) take through the outbox together."""
    with stage.database() as db, ExitStack() as running:
        db.verify(1, events)
        db.run("ANALYZE pgherald.outbox")
        halves = [running.enter_context(_half(db.url)) for _ in range(number)]
        _all_say(halves, "ready")

        def work() -> None:
            _go_on(halves)
            _all_say(halves, "done")

        spent, result = _cost(stage, db, events, work, **{f"half{i}": one.pid for i, one in enumerate(halves)})
        ((sent,),) = db.run("SELECT count(*) FROM pgherald.outbox WHERE state = 'sent'")
        assert sent == events, f"{events - sent} events are not settled"
        _go_on(halves)
    return {
        **result,
        "server_cores": spent["server"] / spent["seconds"],
        "halves_cores": _together(spent, "half") / spent["seconds"],
    }


def claims(stage: Stage, version: str, events: int, every: float = 0.25) -> Result:
    """The server's time for a claim while one half of a daemon takes a backlog of so many events, sampled."""
    samples: list[dict[str, float]] = []
    with stage.database(version) as db, _half(db.url, version) as half:
        db.run(
            "INSERT INTO public.dateplan SELECT g, g, 1 + g %% 1000, 'VE' FROM generate_series(%s + 1, %s) AS g",
            stage.rows, stage.rows + events,
        )  # fmt: skip
        db.run("CHECKPOINT")
        _all_say([half], "ready")
        _go_on([half])
        began = time.monotonic()
        calls, spent, rows = db.claims()
        while rows < events and half.poll() is None:
            time.sleep(every)
            before = calls, spent
            calls, spent, rows = db.claims()
            if made := calls - before[0]:
                samples.append({"events": rows, "claim_ms": (spent - before[1]) / made})
        seconds = time.monotonic() - began
        _all_say([half], "done")
        _go_on([half])
    # A twentieth of the events each, the first and the last one being compared.
    windows = [
        median(found)
        for n in range(20)
        if (found := [one["claim_ms"] for one in samples if n <= one["events"] / events * 20 <= n + 1])
    ]
    return {
        "events_per_s": events / seconds,
        "first_ms": windows[0],
        "last_ms": windows[-1],
        "last_to_first": windows[-1] / windows[0],
        "most_to_first": max(windows) / windows[0],
        "samples": samples,
    }


def snapshot(stage: Stage, version: str, events: int, seconds: float, changes: int) -> Result:
    """What a daemon does after so many events were delivered that an old snapshot keeps.

    Blocks a second while nothing happens, and then single changes, 250 ms apart: milliseconds from COMMIT's answer to
    the dot at the sink.
    """
    with stage.database(version) as db, psycopg.connect(db.url) as old, TimedSink() as sink:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        db.verify(1, events)
        with _half(db.url, version) as half:
            _all_say([half], "ready")
            _go_on([half])
            _all_say([half], "done")
            _go_on([half])
        with Daemon(db.url, sink.port, version=version) as daemon:
            daemon.wait_ready()
            time.sleep(3.0)
            blocks, statements = db.blocks(), db.statements()
            time.sleep(seconds)
            blocks, statements = db.blocks() - blocks, db.statements() - statements
            took = deliver.latencies(
                lambda row: db.verify(row, row), sink, range(events + 1, events + changes + 1), 0.25
            )
    return {
        "p50_ms": median(took),
        "most_ms": max(took),
        "idle_blocks_per_s": blocks / seconds,
        "idle_statements_per_s": statements / seconds,
    }


def _half(url: str, version: str = "now") -> "subprocess.Popen[str]":
    # By its path and without the folder of it, so that the daemon's code is that of the version.
    command = [sys.executable, "-P", str(HERE / "simulated.py"), url]
    return subprocess.Popen(command, env=environment(version), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _go_on(halves: "list[subprocess.Popen[str]]") -> None:
    for half in halves:
        assert half.stdin is not None
        half.stdin.write("\n")
        half.stdin.flush()


def _all_say(halves: "list[subprocess.Popen[str]]", word: str) -> None:
    for half in halves:
        assert half.stdout is not None
        if half.stdout.readline().strip() != word:
            raise RuntimeError("a half of a daemon has ended; what it said is above")


def retention(stage: Stage, events: int) -> Result:
    """`pgherald purge` of so many settled events."""
    with stage.database() as db:
        deliver.fill(db, 0, events)
        command, settings = [PROGRAM, "purge", "--older-than", "1d"], environment(PGHERALD_DATABASE_URL=db.url)
        _, result = _cost(
            stage, db, events, lambda: subprocess.run(command, env=settings, check=True, capture_output=True)
        )
        assert db.run("SELECT count(*) FROM pgherald.outbox") == [(0,)]
    return result


def _cost(
    stage: Stage, db: Database, events: int, work: Callable[[], object], **pids: int
) -> tuple[dict[str, float], Result]:
    """What the work on so many events spends, and that for each event."""
    wal = db.run("SELECT pg_current_wal_insert_lsn()")[0][0]
    meter = machine.Meter.start(server=stage.server_pid, **pids)
    work()
    spent = meter.read()
    ((written,),) = db.run("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", wal)
    return spent, {
        "events_per_s": events / spent["seconds"],
        "server_cpu_s_per_1000": spent["server"] / events * 1000,
        "wal_bytes_per_event": float(written / events),
        "others": spent["others"],
    }


def _together(spent: dict[str, float], kind: str) -> float:
    return sum(seconds for name, seconds in spent.items() if name.startswith(kind))


def partitions(stage: Stage, number: int, backlog: int) -> Result:
    """A drain whose outbox is in so many partitions by `id`, as docs/scaling.md has it; 0: whole, as shipped."""
    with stage.database("bare") as db:
        whole = resource("sql/triggers.sql").read_text()
        options = re.search(r"^WITH \(fillfactor.*?\)(?=;$)", whole, flags=re.MULTILINE | re.DOTALL)
        assert options is not None
        install(db, whole.replace(options[0], "PARTITION BY RANGE (id)") if number else whole)
        # The backlog lies in the last of them.
        for first in range(number):
            db.run(
                f"CREATE TABLE pgherald.outbox_{first} PARTITION OF pgherald.outbox"
                f" FOR VALUES FROM ({(first - number + 1) * backlog + 1}) TO ({(first - number + 2) * backlog + 1}) {options[0]}"
            )
        return deliver.drained(stage, db, 1, backlog)
