"""Each rule gets its share of the claims, in small batches too, and a rule that was quiet comes first."""

from collections import Counter
from collections.abc import Mapping

import pytest

from listener.outbox.turns import Turns


def claim(turns: Turns, waiting: Counter[str], limit: int, shares: Mapping[str, int]) -> list[str]:
    """Take the earliest turns, as the query does, and return the rule of each event."""
    asked = turns.next(shares)
    times = sorted(
        (turn.start + number / turn.share, turn.rule)
        for turn in asked
        for number in range(min(waiting[turn.rule], limit))
    )
    taken = [rule for _, rule in times[:limit]]
    waiting.subtract(taken)
    turns.took(asked, limit, taken)
    return taken


def test_one_at_a_time_the_rules_alternate() -> None:
    turns, waiting = Turns(), Counter(a=100, b=100, c=100)
    taken = [rule for _ in range(30) for rule in claim(turns, waiting, 1, dict.fromkeys("abc", 1))]
    assert all(sorted(taken[n : n + 3]) == ["a", "b", "c"] for n in range(0, 30, 3))


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_each_gets_its_share_whatever_a_claim_takes(limit: int) -> None:
    turns, waiting = Turns(), Counter(a=10_000, b=10_000, c=10_000)
    taken: Counter[str] = Counter()
    while taken.total() < 3000:
        taken.update(claim(turns, waiting, limit, {"a": 1, "b": 2, "c": 7}))
    assert taken["a"] == pytest.approx(0.1 * taken.total(), abs=limit)
    assert taken["b"] == pytest.approx(0.2 * taken.total(), abs=limit)


@pytest.mark.parametrize("share", [1, 100])
def test_a_quiet_rule_has_its_turn_at_once(share: int) -> None:
    turns, waiting = Turns(), Counter(busy=1000)
    shares = {"busy": share, "quiet": 1}
    for _ in range(50):
        claim(turns, waiting, 1, shares)
    waiting["quiet"] = 2
    assert claim(turns, waiting, 1, shares) == ["quiet"]


def test_nobody_gains_by_waiting() -> None:
    turns, waiting = Turns(), Counter(busy=1000)
    shares = {"busy": 1, "quiet": 1}
    for _ in range(50):
        claim(turns, waiting, 1, shares)
    waiting["quiet"] = 1000
    taken = Counter(rule for _ in range(20) for rule in claim(turns, waiting, 1, shares))
    assert taken == {"busy": 10, "quiet": 10}


def test_once_nothing_is_left_the_past_is_forgotten() -> None:
    turns, waiting = Turns(), Counter(a=1)
    claim(turns, waiting, 1, {"a": 1, "b": 100})
    assert [turn.start for turn in turns.next({"a": 1})] == [1.0]
    claim(turns, waiting, 1, {"a": 1, "b": 100})
    assert [turn.start for turn in turns.next({"a": 1})] == [0.0]


def test_a_rule_that_is_not_asked_for_has_its_turn_when_it_is_back() -> None:
    turns, waiting = Turns(), Counter(a=100, b=100)
    claim(turns, waiting, 2, {"a": 1, "b": 1})
    for _ in range(5):
        claim(turns, waiting, 1, {"a": 1})
    assert claim(turns, waiting, 1, {"a": 1, "b": 1}) == ["b"]


@pytest.mark.parametrize(
    ("limit", "taken", "found_end"),
    [
        (10, {"a": 10}, False),
        (10, {"a": 9}, True),
        (10, {}, True),
        # The query looks at twice the share: of `a` it may have left some.
        (10, {"a": 8, "b": 1}, True),
        (20, {"a": 11, "b": 1}, True),
        (40, {"a": 30, "b": 1, "c": 1}, False),
        (40, {"a": 26, "b": 1, "c": 1}, True),
    ],
)
def test_whether_a_claim_has_left_some(limit: int, taken: dict[str, int], found_end: bool) -> None:
    turns = Turns()
    asked = turns.next(dict.fromkeys("abcd", 1))
    assert turns.took(asked, limit, list(Counter(taken).elements())) is found_end
