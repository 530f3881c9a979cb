"""What the tests of doctor share: reading its findings, and settings with a fault in them."""

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.doctor.result import CheckResult, State
from tests.support.database import Database

RULE = "dateplan_verified"
TRIGGERS, CAPTURE, LOOKUP, TEMPLATE, MAIL = (
    f"{kind} {RULE}" for kind in ("triggers", "capture", "lookup", "template", "mail")
)
# No daemon runs in these tests.
HEALTHY = {"daemon"}

Examine = Callable[..., dict[str, CheckResult]]


def ill(findings: dict[str, CheckResult]) -> set[str]:
    """The checks that are not ok. Left out are those that were not made, and that the tests connect as a superuser."""
    return {
        name
        for name, finding in findings.items()
        if finding.state is not State.ok
        and not finding.seen.startswith("not checked: ")
        and not (name == "login" and "is a superuser" in finding.seen)
    }


def names(findings: dict[str, CheckResult], check: str, state: str, *words: str) -> None:
    """Assert that only `check` found something, in these words, and that it has a remedy."""
    assert ill(findings) - HEALTHY == {check}
    finding = findings[check]
    assert finding.state == state
    assert finding.remedy
    for word in words:
        assert word in f"{finding.seen} -> {finding.remedy}"


def all_checked(findings: dict[str, CheckResult]) -> bool:
    """Whether every check was made."""
    return not any(finding.seen.startswith("not checked: ") for finding in findings.values())


def rule_with(**changes: Any) -> Callable[[Settings], Settings]:
    """Return a function that changes the rule in settings."""

    def change(settings: Settings) -> Settings:
        rule = settings.rules[RULE]
        return settings.model_copy(update={"rules": {RULE: Rule(**{**rule.model_dump(exclude_unset=True), **changes})}})

    return change


def without(text: str, part: str, other: str = "") -> str:
    """Replace `part`, which must be there."""
    assert part in text
    return text.replace(part, other)


def set_for_all(database: Database, name: str, value: str) -> None:
    """Change a setting for every session of the database."""
    statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
    database.execute(statement.format(*map(sql.Identifier, (database.value("SELECT current_database()"), name, value))))


def as_role(database: Database, role: str) -> str:
    """Return the database's URL for another role, whose password is ``secret``."""
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    return psycopg.conninfo.make_conninfo(**{**parts, "user": role, "password": "secret"})
