"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    ok = "ok"
    warn = "warn"
    fault = "fault"


@dataclass(frozen=True, slots=True)
class ReportedCheck:
    """`remedy` is empty where there is nothing to do."""

    check: str
    state: State
    seen: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding that has no name yet."""

    state: State
    seen: str
    remedy: str = ""


def ok(seen: str) -> CheckResult:
    return CheckResult(State.ok, seen)


def warn(seen: str, remedy: str) -> CheckResult:
    return CheckResult(State.warn, seen, remedy)


def fault(seen: str, remedy: str) -> CheckResult:
    return CheckResult(State.fault, seen, remedy)


class NotChecked(Exception):
    """Something that the check needs is missing; another check says what is wrong with that, or `remedy` does."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy
