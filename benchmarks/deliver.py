"""From the change to the mail server: idle latency, backlogs, two daemons, a table full of settled events."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, naive, writers
from benchmarks.stage import RULE, Daemon, Database, Sink, Stage, TimedSink, daemons, wait_until

Result = dict[str, Any]


def idle(stage: Stage, who: str, changes: int) -> Result:
    """Single changes, 50 ms apart: milliseconds from COMMIT's answer to the dot at the sink."""
    with stage.database("bare" if who == "naive" else "now") as db, TimedSink() as sink:
        if who == "naive":
            db.conn.execute(naive.TRIGGER)
            command = [sys.executable, str(Path(naive.__file__))]
        else:
            command = []
        with Daemon(db.url, sink.port, *command) as daemon:
            daemon.wait_ready()
            time.sleep(1.0)
            meter = machine.Meter.start(daemon=daemon.pid, server=stage.server_pid, sink=sink.process.pid)
            took = latencies(lambda row: db.verify(row, row), sink, range(1, changes + 21), 0.05)
            spent = meter.read()
    # The first twenty warm caches and connections.
    took = sorted(took[20:])
    return {
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[min(len(took) - 1, int(len(took) * 0.99))],
        "latencies_ms": [round(ms, 3) for ms in took],
        "others": spent["others"],
    }


def latencies(
    change: Callable[[int], object], sink: TimedSink, rows: Sequence[int], pause: float, within: float = 20
) -> list[float]:
    """Change these rows one by one, with a pause of so many seconds. Return the milliseconds of each.

    `within`: seconds from the last change to the last mail, at most.
    """
    committed = {}
    for row in rows:
        change(row)
        committed[f"u{row}"] = time.monotonic()
        time.sleep(pause)
    wait_until(lambda: committed.keys() <= sink.arrived.keys(), within, "mails")
    return [(sink.arrived[user] - at) * 1000 for user, at in committed.items()]


def drain(stage: Stage, backlog: int) -> Result:
    """A backlog that one statement made while no daemon ran; then the daemon is started."""
    with stage.database() as db:
        return drained(stage, db, 1, backlog)


def settled(stage: Stage, sizes: Sequence[int], backlog: int, rounds: int) -> Iterator[tuple[str, Result]]:
    """A drain of one table that holds ever more settled events, and each time of a new one."""
    with stage.database() as full:
        held = first = 0
        for size in sizes:
            fill(full, held, size)
            held = size
            for _ in range(rounds):
                with stage.database() as new:
                    yield f"new, beside {size}", drained(stage, new, 1, backlog)
                yield f"{size}", drained(stage, full, first + 1, backlog)
                first += backlog


def drained(stage: Stage, db: Database, first: int, backlog: int) -> Result:
    """A drain of rows `first` and on of this database."""
    db.verify(first, first + backlog - 1)
    db.run("ANALYZE pgherald.outbox")
    db.run("CHECKPOINT")
    with Sink() as sink, Daemon(db.url, sink.port) as daemon:
        return {**_timed(stage, db, sink, [daemon], backlog), "sink": sink.name}


def fleet(stage: Stage, number: int, mails: int, delay: float, connections: int = 8) -> Result:
    """So many daemons of so many connections each, and a mail server that takes `delay` seconds for each mail."""
    settings = {"PGHERALD_SMTP_CONNECTIONS": str(connections)}
    with (
        stage.database() as db,
        TimedSink(delay) as sink,
        daemons(db.url, sink.port, number, **settings) as running,
    ):
        time.sleep(1.5)
        db.verify(1, mails)
        return _timed(stage, db, sink, running, mails)


def _timed(stage: Stage, db: Database, sink: Sink, running: list[Daemon], backlog: int) -> Result:
    wait_until(lambda: sink.count, 20, "mail")
    first = time.monotonic()
    counted = sink.count
    pids = {f"daemon{i}": daemon.pid for i, daemon in enumerate(running)}
    stated = db.statements()
    meter = machine.Meter.start(server=stage.server_pid, sink=sink.process.pid, **pids)
    wait_until(lambda: sink.count >= backlog, 600, f"last of {backlog} mails")
    spent = meter.read()
    stated = db.statements() - stated
    thousands = (backlog - counted) / 1000
    rate = (backlog - counted) / spent["seconds"]
    wait_until(lambda: not _unsettled(db), 20, "last settling")
    assert not running[0].warnings(), running[0].warnings()[:3]
    return {
        "mails_per_s": rate,
        "first_mail_s": first - running[0].started,
        "worker_cpu_s_per_1000": sum(spent[name] for name in pids) / thousands,
        "server_cpu_s_per_1000": spent["server"] / thousands,
        "sink_cpu_s_per_1000": spent["sink"] / thousands,
        "statements_per_1000": stated / thousands,
        "peak_mb": machine.peak_megabytes(running[0].pid),
        "others": spent["others"],
    }


def cost(stage: Stage, version: str, events: int, rate: int) -> Result:
    """The server's processor time for an event, from the change to the settled event, in microseconds.

    `rate`: changes a second beside the daemon, each in a transaction of its own. 0: one statement before it starts.
    """
    with stage.database(version) as db, Sink() as sink:
        meter = machine.Meter.start(server=stage.server_pid)
        if not rate:
            db.verify(1, events)
        capture = meter.read()["server"]
        with Daemon(db.url, sink.port, version=version) as daemon:
            meter = machine.Meter.start(server=stage.server_pid, sink=sink.process.pid, daemon=daemon.pid)
            if rate:
                daemon.wait_ready()
                events, _ = writers.pgbench(stage, db, writers.REACHES, 4, events / rate, rate)
            wait_until(lambda: sink.count >= events, 600, f"last of {events} mails")
            wait_until(lambda: not _unsettled(db), 20, "last settling")
            spent = meter.read()
            assert not daemon.warnings(), daemon.warnings()[:3]
    return {
        "server_us": (capture + spent["server"]) / events * 1e6,
        "worker_us": spent["daemon"] / events * 1e6,
        **({} if rate else {"capture_us": capture / events * 1e6, "mails_per_s": events / spent["seconds"]}),
        "others": spent["others"],
    }


def _unsettled(db: Database) -> int:
    states = "('available', 'claimed', 'transmitting', 'in_doubt')"
    return int(
        db.run(f"SELECT count(*) FROM (SELECT FROM pgherald.outbox WHERE state IN {states} LIMIT 1) AS unsettled")[0][0]
    )


def fill(db: Database, held: int, size: int) -> None:
    """Events settled long ago, as the daemon leaves them: so many are there, and so many there shall be."""
    history = '[{"at": "2026-01-01T00:00:00+00:00", "what": "claimed", "detail": "host:1"},' \
              ' {"at": "2026-01-01T00:00:00+00:00", "what": "transmitting", "detail": "consent given"},' \
              ' {"at": "2026-01-01T00:00:00+00:00", "what": "sent", "detail": "250 2.0.0 Ok"}]'  # fmt: skip
    db.run(
        "INSERT INTO pgherald.outbox (rule, key, state, attempt, captured_at, captured_xid, scheduled_at, settled_at, claim, claimed_by,"
        " claimed_at, snapshot, history)"
        " SELECT %s, 'old' || g, 'sent', 1, t, '3', t, t, g, 1, t, '3:3:', %s::jsonb"
        "   FROM generate_series(%s + 1, %s) AS g, LATERAL (SELECT now() - '100 d'::interval + g * '1 s'::interval AS t) AS at",
        RULE, history, held, size,
    )  # fmt: skip
    db.run("VACUUM ANALYZE pgherald.outbox")


def soak(stage: Stage, total: int, rate: int, every: float = 2.0) -> Result:
    """So many events at a steady rate: memory of the daemon and the time of a claim, sampled."""
    samples = []
    with stage.database() as db, Sink() as sink, Daemon(db.url, sink.port) as daemon:
        daemon.wait_ready()
        began = time.monotonic()
        changed, sampled, calls, spent = 0, began, 0.0, 0.0
        while sink.count < total:
            due = min(total, int((time.monotonic() - began) * rate))
            while changed < due:
                # Rows go back and come again: their number is limited, and that of the changes is not.
                batch = min(due - changed, 200)
                first = changed % stage.rows + 1
                last = min(first + batch - 1, stage.rows)
                db.run("UPDATE public.dateplan SET status = 'PE' WHERE id BETWEEN %s AND %s", first, last)
                db.verify(first, last)
                changed += last - first + 1
            if (now := time.monotonic()) - sampled > every:
                before = calls, spent
                calls, spent, _ = db.claims()
                made, took = calls - before[0], spent - before[1]
                samples.append({
                    "s": round(now - began, 1), "mails": sink.count, "waiting": changed - sink.count,
                    "mb": round(machine.megabytes(daemon.pid), 1), "claim_ms": round(took / made, 3),
                })  # fmt: skip
                sampled = now
            time.sleep(0.01)
        seconds = time.monotonic() - began
        warnings = daemon.warnings()
    return {"mails": total, "seconds": seconds, "offered_per_s": rate, "samples": samples, "warnings": len(warnings)}
