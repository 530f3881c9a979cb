"""What one primary carries: many daemons, the database's half of many more, retention, an outbox in partitions."""

import re
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from benchmarks import deliver, machine
from benchmarks.stage import PROGRAM, Daemon, Sink, Stage, environment, install
from listener.resources import resource

Result = dict[str, Any]


def daemons(stage: Stage, number: int, mails: int, connections: int = 8) -> Result:
    """So many daemons, and a mail server so far away that the processor is not the limit."""
    return deliver.pair(stage, number, mails, delay=0.1, PGHERALD_SMTP_CONNECTIONS=str(connections))


def asleep(stage: Stage, number: int, seconds: float) -> Result:
    """What so many daemons cost while nothing happens."""
    with stage.database() as db, Sink() as sink, ExitStack() as running:
        started = [running.enter_context(Daemon(db.url, sink.port)) for _ in range(number)]
        for daemon in started:
            daemon.wait_ready()
        time.sleep(2.0)
        meter = machine.Meter.start(server=stage.server_pid, **{f"daemon{i}": one.pid for i, one in enumerate(started)})
        stated = deliver.statements(db)
        time.sleep(seconds)
        stated = deliver.statements(db) - stated
        spent = meter.read()
        connections = db.run("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")[0][0]
    return {
        "server_cores": spent["server"] / spent["seconds"],
        "daemon_cores_each": sum(cpu for name, cpu in spent.items() if name.startswith("daemon"))
        / spent["seconds"]
        / number,
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
        wal = db.run("SELECT pg_current_wal_insert_lsn()")[0][0]
        meter = machine.Meter.start(server=stage.server_pid, **{f"half{i}": one.pid for i, one in enumerate(halves)})
        _go_on(halves)
        _all_say(halves, "done")
        spent = meter.read()
        ((written,),) = db.run("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", wal)
        ((left,),) = db.run("SELECT count(*) FROM pgherald.outbox WHERE state <> 'sent'")
        assert not left, f"{left} events are not settled"
        _go_on(halves)
    return {
        "events_per_s": events / spent["seconds"],
        "server_cpu_s_per_1000": spent["server"] / events * 1000,
        "server_cores": spent["server"] / spent["seconds"],
        "halves_cores": sum(cpu for name, cpu in spent.items() if name.startswith("half")) / spent["seconds"],
        "wal_bytes_per_event": float(written / events),
        "others": spent["others"],
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
        wal = db.run("SELECT pg_current_wal_insert_lsn()")[0][0]
        meter = machine.Meter.start(server=stage.server_pid)
        settings = {"PGHERALD_DATABASE_URL": db.url}
        subprocess.run(
            [PROGRAM, "purge", "--older-than", "1d"], env=environment(**settings), check=True, capture_output=True
        )
        spent = meter.read()
        ((written,),) = db.run("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", wal)
        assert db.run("SELECT count(*) FROM pgherald.outbox") == [(0,)]
    return {
        "events_per_s": events / spent["seconds"],
        "server_cpu_s_per_1000": spent["server"] / events * 1000,
        "wal_bytes_per_event": float(written / events),
        "others": spent["others"],
    }


def partitions(stage: Stage, number: int, backlog: int) -> Result:
    """A drain whose outbox is in so many partitions by `id`, as docs/scaling.md has it; 0: whole, as shipped."""
    with stage.database("bare") as db:
        whole = resource("sql/triggers.sql").read_text()
        text = re.sub(r"^WITH \(fillfactor.*?\);$", "PARTITION BY RANGE (id);", whole, flags=re.MULTILINE | re.DOTALL)
        install(db, text if number else whole)
        # The backlog lies in the last of them.
        for first in range(number):
            db.run(
                f"CREATE TABLE pgherald.outbox_{first} PARTITION OF pgherald.outbox"
                f" FOR VALUES FROM ({(first - number + 1) * backlog + 1}) TO ({(first - number + 2) * backlog + 1})"
            )
        return deliver.drained(stage, db, 1, backlog)
