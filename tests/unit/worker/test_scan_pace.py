"""How far back a claim reads, by what the last one cost that read everything."""

import pytest

from listener.worker.scan_pace import ScanPace

RULES = ["a", "b"]


def paced(cost: float, *, began: float = 100.0) -> ScanPace:
    """Return the pace after a claim of so many seconds that read everything."""
    pace = ScanPace()
    pace.read_all(began, began + cost, RULES, found_end=True)
    return pace


@pytest.mark.parametrize("thorough", [False, True])
def test_a_new_worker_and_one_whose_claims_are_cheap_read_everything(thorough: bool) -> None:
    for pace in (ScanPace(), paced(0.004)):
        assert pace.window(100.1, RULES, thorough=thorough) is None
        assert not pace.is_expensive


def test_an_expensive_claim_is_rare_and_never_the_first_after_a_ring() -> None:
    pace = paced(0.1)
    assert pace.is_expensive
    # The last claim that read everything began at 100 s. Five seconds more, for transactions that were open.
    assert pace.window(101.0, RULES, thorough=True) == pytest.approx(6.0)
    assert pace.window(200.0, RULES, thorough=False) == pytest.approx(105.0)
    assert pace.window(102.11, RULES, thorough=True) is None


@pytest.mark.parametrize(("urgent", "rest"), [(True, 2.0), (False, 20.0)])
def test_it_takes_a_twentieth_of_the_time_or_less(urgent: bool, rest: float) -> None:
    pace = paced(0.1)
    pace.is_urgent = urgent
    assert pace.wait(100.1) == pytest.approx(rest)
    assert pace.wait(100.1 + 2 * rest) == 0
    assert (pace.window(100.09 + rest, RULES, thorough=True) is None) is False
    assert pace.window(100.11 + rest, RULES, thorough=True) is None


def test_a_rule_that_was_not_asked_for_before_may_have_old_events() -> None:
    assert paced(0.1).window(101.0, [*RULES, "c"], thorough=False) is None
    assert paced(0.1).window(101.0, ["a"], thorough=False) is not None


def test_while_old_events_are_left_every_claim_reads_everything() -> None:
    pace = paced(0.1)
    pace.read_all(110.0, 110.1, RULES, found_end=False)
    assert pace.window(110.2, RULES, thorough=False) is None
    pace.read_all(110.2, 110.3, RULES, found_end=True)
    assert pace.window(110.4, RULES, thorough=False) == pytest.approx(5.2)
