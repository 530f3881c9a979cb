"""The results of checks."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad a finding is: `fault` keeps emails from going out, `warn` may do so or puts privacy at risk."""

    ok = "ok"
    warn = "warn"
    fault = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check before the runner adds the check's name. `remedy` is empty if there is nothing to do."""

    state: State
    seen: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The finding of the check named `check`. The fields are those of `doctor --json`."""

    check: str
    state: State
    seen: str
    remedy: str = ""


def ok(seen: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(State.ok, seen)


def warn(seen: str, remedy: str) -> Finding:
    """Return a finding that may cause trouble."""
    return Finding(State.warn, seen, remedy)


def fault(seen: str, remedy: str) -> Finding:
    """Return a finding that keeps emails from going out."""
    return Finding(State.fault, seen, remedy)


class NotChecked(Exception):
    """The check cannot decide, because something that it needs is missing.

    Usually another check reports the cause. If none does, `remedy` says what to do.
    """

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy
