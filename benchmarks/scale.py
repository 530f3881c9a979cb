"""What one primary carries: daemons asleep, the database's half of many, retention, an outbox in partitions."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import deliver, machine
from benchmarks.stage import PROGRAM, Database, Sink, Stage, daemons, environment, install
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
        ((left,),) = db.run("SELECT count(*) FROM pgherald.outbox WHERE state <> 'sent'")
        assert not left, f"{left} events are not settled"
        _go_on(halves)
    return {
        **result,
        "server_cores": spent["server"] / spent["seconds"],
        "halves_cores": _together(spent, "half") / spent["seconds"],
    }


def _half(url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.simulated", url]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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
