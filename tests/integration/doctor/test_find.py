"""The check of a rule's query `find`: it runs for an address that nobody has."""

import pytest

from tests.support.claimant import RULE
from tests.support.database import Database
from tests.support.doctor import Examine, names, rule_with

CHECK = f"find {RULE}"
GOOD = "SELECT d.id AS key FROM public.dateplan d JOIN public.users u ON u.id = d.user_id WHERE u.email = %(email)s"


@pytest.mark.usefixtures("plan")
def test_a_good_query_is_checked_and_a_rule_without_one_is_not(database: Database, doctor: Examine) -> None:
    assert CHECK not in doctor()
    findings = doctor(rule_with(find=GOOD))
    assert findings[CHECK].state == "ok"


@pytest.mark.parametrize(
    ("find", "state", "says"),
    [
        (GOOD.replace(" AS key", ""), "fault", "returns no column key"),
        (GOOD.replace("public.users", "public.nobody"), "fault", "public.nobody"),
        (GOOD.replace("= %(email)s", "<> %(email)s"), "warn", "an address that nobody has"),
    ],
)
@pytest.mark.usefixtures("plan")
def test_a_bad_query(doctor: Examine, find: str, state: str, says: str) -> None:
    names(doctor(rule_with(find=find)), CHECK, state, says, f"correct [rules.{RULE}] find")
