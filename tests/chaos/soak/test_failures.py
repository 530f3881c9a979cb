"""An error of the application is blamed on pgherald if the twin does not have it too."""

from collections import Counter

import pytest

from tests.chaos.soak.failures import Failure, ours


def failure(sqlstate: str, text: str, twin: str | None = None) -> Failure:
    return Failure("booking", "update", "none", sqlstate, text, twin)


NAMED = failure("42501", 'permission denied\nSQL statement "INSERT INTO pgherald.outbox"')
STALE = failure("42804", "type of parameter 14 (bigint) does not match that when preparing the plan (integer)")
SWAP = failure("42703", 'column "place" does not exist', "42703")


@pytest.mark.parametrize("found", [NAMED, STALE])
def test_an_error_that_names_pgherald_or_its_stale_plan_is_ours(found: Failure) -> None:
    assert ours([found], Counter({found.sqlstate: 10})) == [found]


def test_an_error_that_the_twin_has_in_the_same_transaction_is_the_applications() -> None:
    assert ours([SWAP] * 20, Counter({"42703": 1})) == []


def test_a_race_that_hits_both_databases_in_turn_is_the_applications() -> None:
    assert ours([failure("40P01", "deadlock detected")] * 3, Counter({"40P01": 2})) == []


def test_an_error_that_the_twin_never_has_is_ours() -> None:
    deadlock = failure("40P01", "deadlock detected")
    assert ours([deadlock], Counter({"42703": 1})) == [deadlock]


def test_an_error_that_the_twin_has_far_less_often_is_ours() -> None:
    conflict = failure("40001", "could not serialize access")
    assert len(ours([conflict] * 20, Counter({"40001": 2}))) == 20


def test_a_serialization_failure_inside_a_trigger_is_compared_by_number() -> None:
    assert (
        ours([failure("40001", "could not serialize access\npgherald.capture_booking()")], Counter({"40001": 1})) == []
    )
