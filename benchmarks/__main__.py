"""``python -m benchmarks [PART …]``: measure, print the table, write benchmarks/results/latest.json, draw docs/pictures."""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import deliver, machine, plots, report, scale, writers
from benchmarks.stage import Stage

ROOT = Path(__file__).resolve().parent.parent
Case = tuple[str, Callable[[Stage], dict[str, Any]]]


@dataclass(frozen=True)
class Size:
    """How much of everything; `quick` shows that it works and measures nothing."""

    repeat: int = 5
    rows: int = 200_000
    changes: int = 200
    backlogs: tuple[int, ...] = (1_000, 5_000, 20_000)
    settled: tuple[int, ...] = (0, 1_000_000, 5_000_000)
    after: int = 10_000
    clients: tuple[int, ...] = (1, 8, 32)
    seconds: float = 4
    bulk: int = 100_000
    rates: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    pair: int = 4_000
    daemons: tuple[int, ...] = (1, 2, 4, 8, 16)
    each: int = 800
    fleets: tuple[tuple[int, int], ...] = ((16, 8), (4, 32), (2, 64))
    halves: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    events: int = 40_000
    purged: int = 500_000
    partitions: tuple[int, ...] = (0, 8, 32)
    soak: int = 1_000_000
    soak_rate: int = 2_000
    short: int = 20
    short_seconds: int = 2


QUICK = Size(
    repeat=1,
    rows=20_000,
    changes=20,
    backlogs=(200,),
    settled=(0, 2_000),
    after=200,
    clients=(2,),
    seconds=1,
    bulk=2_000,
    rates=(100,),
    pair=200,
    daemons=(2,),
    each=50,
    fleets=((2, 16),),
    halves=(2,),
    events=2_000,
    purged=2_000,
    partitions=(0, 2),
    soak=2_000,
    soak_rate=500,
    short=2,
    short_seconds=1,
)


def parts(size: Size) -> dict[str, list[Case]]:
    return {
        "idle": [(who, lambda s, who=who: deliver.idle(s, who, size.changes)) for who in ("naive", "pgherald")],
        "drain": [(f"{n}", lambda s, n=n: deliver.drain(s, n)) for n in size.backlogs],
        "write": [
            (f"{case}, {n} clients", lambda s, c=case, n=n: writers.write(s, c, n, size.seconds))
            for n in size.clients
            for case in writers.CASES
        ],
        "unrelated": [],
        "bulk": [(case, lambda s, case=case: writers.bulk(s, case, size.bulk)) for case in writers.BULK],
        "gate": [(f"{r}", lambda s, r=r: writers.gate(s, r, size.seconds)) for r in size.rates],
        "pair": [(f"{n}", lambda s, n=n: deliver.fleet(s, n, size.pair, 0.02)) for n in (1, 2)],
        "daemons": [(f"{n}", lambda s, n=n: deliver.fleet(s, n, n * size.each, 0.1)) for n in size.daemons],
        "fleets": [
            (f"{n} daemons of {c} connections", lambda s, n=n, c=c: deliver.fleet(s, n, n * c * size.each // 8, 0.1, c))
            for n, c in size.fleets
        ],
        "asleep": [(f"{n}", lambda s, n=n: scale.asleep(s, n, 2 * size.seconds)) for n in size.daemons],
        "primary": [(f"{n}", lambda s, n=n: scale.primary(s, n, size.events)) for n in size.halves],
        "partitions": [(f"{n}", lambda s, n=n: scale.partitions(s, n, size.backlogs[-1])) for n in size.partitions],
        "retention": [("purge", lambda s: scale.retention(s, size.purged))],
        "settled": [],
        "soak": [("steady", lambda s: deliver.soak(s, size.soak, size.soak_rate))],
    }


# Long, and as good once.
ONCE = {"soak": 1}


def measured(stage: Stage, part: str, cases: list[Case], repeat: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Interleaved, every other round backwards, so that what changes meanwhile falls on all alike."""
    for number in range(min(repeat, ONCE.get(part, repeat))):
        for name, run in cases if number % 2 == 0 else reversed(cases):
            yield name, run(stage)


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts(Size()))}; default: all")
    parser.add_argument("--quick", action="store_true", help="everything, small: shows that it works")
    parser.add_argument("--repeat", type=int, help="rounds; default 5")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latest.json")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "pictures")
    given = parser.parse_args()
    size = QUICK if given.quick else Size()
    chosen = parts(size)
    for part in given.parts:
        if part not in chosen:
            parser.error(f"no part {part!r}")
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with Stage(size.rows) as stage:
        about = {
            "machine": machine.described(),
            "postgresql": stage.cluster.version,
            "python": sys.version.split()[0],
            "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        }
        for part in given.parts or chosen:
            rounds = given.repeat or (size.short if part == "unrelated" else size.repeat)
            # Its table keeps what was sent, so that every drain takes rows of its own.
            most = size.rows // (len(size.settled) * size.after)
            if part == "settled":
                found = deliver.settled(stage, size.settled, size.after, min(rounds, most))
            elif part == "unrelated":
                found = writers.unrelated(stage, size.clients[-1], rounds, size.short_seconds)
            else:
                found = measured(stage, part, chosen[part], rounds)
            for name, result in found:
                print(f"  {part}: {name}: {report.line(result)}", file=sys.stderr, flush=True)
                results.setdefault(part, {}).setdefault(name, []).append(result)
    if not given.quick:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(given.out.read_text()) if given.out.exists() else {"parts": {}}
        results = {**before["parts"], **results}
        given.out.write_text(json.dumps({"about": about, "parts": results}, indent=1) + "\n")
        plots.draw(results, given.pictures)
    print(report.table(about, results))


if __name__ == "__main__":
    main()
