"""``python -m benchmarks.quiet_rule [BACKLOG] [CHANGES]``: a quiet rule's emails beside the backlog of another rule.

Times are milliseconds from COMMIT's answer to the dot at the mail server. The other rule's backlog is delivered at full
speed, at a rate of 20 a second, or not at all because the rule is paused; last, there is no backlog. The changes are 250 ms
apart.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.deliver import latencies
from benchmarks.stage import RULE, Daemon, Database, Stage, TimedSink

_RULE = """[rules.{name}]
table = "public.dateplan"
becomes = "{value}"
template = "dateplan_verified"
lookup = \"\"\"
SELECT d.id AS key, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])\"\"\"
"""
_CASES = {
    "at full speed": {},
    "at 20 emails a second": {"PGHERALD_SMTP_RATE": "20"},
    "paused": {},
    "no backlog": {},
}


def main(backlog: int, changes: int) -> None:
    """Print a line for each case."""
    with tempfile.TemporaryDirectory() as folder, Stage(backlog + changes) as stage:
        config = Path(folder) / "pgherald.toml"
        config.write_text(
            _RULE.format(name=RULE, value="VE") + _RULE.format(name="quiet", value="DE"), encoding="utf-8"
        )
        for case, settings in _CASES.items():
            with stage.database() as db:
                took, waiting = _latencies(db, case, backlog, changes, {**settings, "PGHERALD_CONFIG": str(config)})
            print(
                f"{case:22} median {statistics.median(took):6.1f} ms, most {max(took):6.1f} ms; "
                f"in the other rule's backlog at the end: {waiting}",
                flush=True,
            )


def _latencies(
    db: Database, case: str, backlog: int, changes: int, settings: dict[str, str]
) -> tuple[list[float], int]:
    db.run("SELECT pgherald.watch('quiet', 'public.dateplan', becomes => '{DE}')")
    if case != "no backlog":
        db.verify(1, backlog)
    if case == "paused":
        db.run("UPDATE pgherald.rule SET paused_at = now() WHERE rule = %s", RULE)
    db.run("ANALYZE pgherald.outbox")
    db.run("CHECKPOINT")
    with TimedSink() as sink, Daemon(db.url, sink.port, **settings) as daemon:
        daemon.wait_ready()
        time.sleep(1.0)
        took = latencies(
            lambda row: db.run("UPDATE public.dateplan SET status = 'DE' WHERE id = %s", row),
            sink, range(backlog + 1, backlog + changes + 1), 0.25, within=120,
        )  # fmt: skip
        [[waiting]] = db.run(
            "SELECT (SELECT count(*) FROM pgherald.outbox WHERE rule = %s AND settled_at IS NULL)"
            " + (SELECT count(*) FROM pgherald.inbox WHERE rule = %s)", RULE, RULE,
        )  # fmt: skip
    return took, waiting


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("100000", "40")))
