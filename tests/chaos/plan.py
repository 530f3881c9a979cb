"""The schedule of faults: the same seed gives the same faults, in the same order, at the same times."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.catcher import TROUBLES

# The faults, each with its relative frequency.
WEIGHTS = {
    "kill": 3,
    "term": 2,
    "stop": 2,
    "buried": 2,
    "backend": 3,
    "restart": 2,
    "cut": 3,
    "delay": 1,
    "mail down": 1,
    "mail": 4,
}
KINDS = tuple(WEIGHTS)
ALL = -1
_GAP = (0.4, 3.2)


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: when it begins, in seconds from the start. `seconds`: how long it lasts, at most. `target`: a daemon, or ALL."""

    at: float
    kind: str
    target: int
    how: str
    seconds: float

    def __str__(self) -> str:
        whom = "all" if self.target == ALL else str(self.target)
        return f"{self.at:7.2f} s  {self.kind:9}  {whom:3}  {self.how:16} for {self.seconds:.2f} s"


def plan(
    seed: int, seconds: float, daemons: int, lease: float, kinds: Sequence[str] = KINDS, gap: tuple[float, float] = _GAP
) -> list[Fault]:
    """Faults for so many seconds. Each kind comes once before any comes again, as far as the time goes."""
    chance = random.Random(seed)
    first = list(kinds)
    chance.shuffle(first)
    faults: list[Fault] = []
    at = chance.uniform(*gap)
    while at < seconds:
        kind = first.pop() if first else chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        how, length = _how(kind, chance, lease)
        target = ALL if kind == "cut" and chance.random() < 0.25 else chance.randrange(daemons)
        faults.append(Fault(at, kind, target, how, length))
        at += chance.uniform(*gap)
    return faults


def _how(kind: str, chance: random.Random, lease: float) -> tuple[str, float]:
    match kind:
        case "kill":
            return "-9", chance.uniform(0, 1.5)
        case "term":
            return chance.choice(["once", "once", "twice"]), chance.uniform(0, 1.0)
        case "stop":
            if chance.random() < 0.5:
                return "within the lease", chance.uniform(0.2, 0.8 * lease)
            return "beyond the lease", chance.uniform(1.2, 1.7) * lease
        case "buried":
            # Awake again when the others have just begun on what it had.
            return f"and {chance.randrange(400)} ms", 2 * lease
        case "backend":
            return chance.choice(["one", "all", "listen", "writers"]), 0.0
        case "restart":
            return chance.choice(["immediate", "immediate", "immediate", "kill -9", "fast"]), chance.uniform(0, 0.5)
        case "cut":
            return chance.choice(["resume", "reset", "half"]), chance.uniform(0.3, 1.7 * lease)
        case "delay":
            return f"{chance.choice([10, 50, 200])} ms", chance.uniform(1.0, 4.0)
        case "mail down":
            return "refuses", chance.uniform(0.3, 3.0)
        case "mail":
            return chance.choice(list(TROUBLES)), chance.uniform(0.3, 2.5)
    raise ValueError(kind)
