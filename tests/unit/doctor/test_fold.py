"""Equal results are one line."""

from collections.abc import AsyncIterator

from listener.doctor.fold import fold, folded
from listener.doctor.result import CheckResult, State

AWAY = ("not checked: there is no connection to the database", "fix the fault above, then run doctor again")


def passed(check: str, seen: str = "fine") -> CheckResult:
    return CheckResult(check, State.ok, seen)


def test_rules_that_pass_are_one_line_and_others_are_not() -> None:
    bad = CheckResult("triggers c", State.fault, "disabled", "ENABLE")
    results = [passed("server"), passed("triggers a", "on a"), passed("triggers b", "on b"), bad, passed("capture a")]
    assert list(fold(results)) == [
        passed("server"), CheckResult("triggers", State.ok, "2 rules ok"), bad, passed("capture a")
    ]  # fmt: skip


def test_one_fault_behind_many_checks_is_one_line() -> None:
    fault = CheckResult("database", State.fault, "refused", "start it")
    names = ["server", "server log", "triggers a", "triggers b", "gate"]
    assert list(fold([fault, *(CheckResult(name, State.warn, *AWAY) for name in names)])) == [
        fault,
        CheckResult("server, server log, triggers a and 2 more", State.warn, *AWAY),
    ]


def test_the_same_fault_of_several_rules_names_the_rules() -> None:
    [line] = fold([CheckResult(f"lookup {name}", State.fault, "no", "yes") for name in "abcde"])
    assert line.check == "lookup a, b, c and 2 more"


async def test_the_mail_servers_result_is_shown_when_it_is_there() -> None:
    shown: list[str] = []

    async def results() -> AsyncIterator[CheckResult]:
        yield passed("triggers a")
        yield passed("triggers b")
        assert shown == []
        yield passed("sender")
        assert shown == ["triggers", "sender"]
        yield passed("smtp")

    async for line in folded(results()):
        shown.append(line.check)
    assert shown == ["triggers", "sender", "smtp"]
