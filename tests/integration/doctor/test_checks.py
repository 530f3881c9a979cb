"""All checks run, whatever one of them meets."""

import pytest

from listener.doctor import notifications
from listener.doctor.result import State
from tests.support.database import Database
from tests.support.doctor import HEALTHY, Examine, all_checked, ill
from tests.support.mail import MailServer


def test_an_empty_table_is_no_fault(database: Database, doctor: Examine) -> None:
    findings = doctor()
    assert ill(findings) == HEALTHY
    assert all_checked(findings)


def test_a_check_that_breaks_hides_no_other(plan: int, doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(_: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(notifications, "queue", breaks)
    findings = doctor()
    assert len(findings) == 29
    assert ill(findings) == HEALTHY
    assert findings["queue"].seen == "not checked: ZeroDivisionError: unforeseen"


def test_no_database_hides_no_other_fault(doctor: Examine, mail: MailServer) -> None:
    mail.stop()
    findings = doctor(PGHERALD_DATABASE_URL="postgresql://127.0.0.1:1/x", PGHERALD_MAIL_FROM="a@localhost")
    assert ill(findings) == {"database", "sender", "smtp"}
    assert "refused" in findings["database"].seen
    assert all(bool(finding.remedy) == (finding.state is not State.ok) for finding in findings.values())
    assert len(findings) == 29
