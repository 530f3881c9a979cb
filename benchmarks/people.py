"""``python -m benchmarks.people``: rows with three people each, against three times as many rows with one person."""

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.deliver import _timed
from benchmarks.stage import Daemon, Sink, Stage

_LOOKUP = """
SELECT d.id AS key, d.status AS current, n AS person, concat(n, u.email) AS email,
       u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 CROSS JOIN generate_series(1, 3) AS n
 WHERE d.id = ANY (%(keys)s::bigint[])"""
_RULE = f"""[rules.dateplan_verified]
table = "public.dateplan"
becomes = "VE"
template = "dateplan_verified"
each = "person"
lookup = \"\"\"{_LOOKUP}\"\"\"
"""


def main(rows: int, rounds: int) -> None:
    """Print the emails a second of both, and their ratio, round after round."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder, Stage(3 * rows) as stage:
        config = Path(folder) / "pgherald.toml"
        config.write_text(_RULE, encoding="utf-8")
        for _ in range(rounds):
            people = _drain(stage, rows, 3 * rows, PGHERALD_CONFIG=str(config))
            single = _drain(stage, 3 * rows, 3 * rows)
            ratios.append(people / single)
            print(f"{people:.0f} {single:.0f} {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


def _drain(stage: Stage, rows: int, mails: int, **settings: str) -> float:
    with stage.database() as db:
        db.verify(1, rows)
        db.run("ANALYZE pgherald.outbox")
        db.run("CHECKPOINT")
        with Sink() as sink, Daemon(db.url, sink.port, **settings) as daemon:
            return float(_timed(stage, db, sink, [daemon], mails)["mails_per_s"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("10000", "5")))
