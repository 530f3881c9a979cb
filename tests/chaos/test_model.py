"""The models in docs/model, explored to their last state; and their mutants, each of which must break the promise.

They need a model checker and a C compiler: ``apt-get install spin gcc libc6-dev``. Set
PGHERALD_WITHOUT_SPIN=1 where they cannot be installed.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "docs" / "model"

# All is explored with one fault, and one event that comes twice into a daemon's hands; then with two faults and without.
TWO_FAULTS = {"FAULTS": "2", "CARRIERS": "2"}
# A crash of the server ends the sessions of both daemons, so that it alone has as many states as two faults.
CRASH = {"CRASHES": "1", "FAULTS": "0", "CARRIERS": "2"}
# Steps of a fault, which a run without one does not reach.
FAULT_STEPS = {"(killed[c])", "faults = (faults-1)", "claimed_in[c] = 0"}

# docs/model/README.md describes each.
HANDOVER_MUTANTS = [
    "SETTLE_UNFENCED",
    "MARK_UNFENCED",
    "MARK_AFTER_DOT",
    "NO_LEASE_CHECK",
    "LEASE_OF_NEXT_LIFE",
    "RESEND_EARLY",
    "UNTOLD",
    "SECOND_DOUBT_RESENT",
    "NO_REPLY_IS_NO",
    "ANSWER_BY_EVENT",
    "CLAIM_UNSWEPT",
    "SPREAD_UNFENCED",
    "SPREAD_IN_TWO",
    "TAKE_OVER_UNLOCKED",
    "INSERTED_FIRST",
    "DELETED_FIRST",
    "NEVER_TWICE",
]
# These break it under the policy `hold` as well.
HOLD_MUTANTS = [
    "SETTLE_UNFENCED",
    "MARK_UNFENCED",
    "MARK_AFTER_DOT",
    "UNTOLD",
    "NO_REPLY_IS_NO",
    "ANSWER_BY_EVENT",
    "CLAIM_UNSWEPT",
    "SPREAD_UNFENCED",
    "SPREAD_IN_TWO",
    "TAKE_OVER_UNLOCKED",
    "INSERTED_FIRST",
    "DELETED_FIRST",
]
# These need a crash of the server.
CRASH_MUTANTS = ["MARK_UNFLUSHED"]
GATE_MUTANTS = [
    "NO_SECOND_DRAIN",
    "CLEAR_AFTER_DRAIN",
    "AWAKE_FLAG",
    "UNLOCK_BEFORE_VISIBLE",
    "OPEN_ORPHANED",
    "NO_WAKE_ON_CONNECT",
    "TAKEN_OVER_UNRUNG",
]
# Where a model must get to, or its promise says little.
HANDOVER_WITNESSES = {
    "a copy for each doubt, and then settled": "state == sent && accepted == 2",
    "a doubt held for a person": "state == in_doubt && held",
    "accepted, and refused when sent again": "state == failed && accepted == 1",
    "one event twice in a daemon's hands": "wish[0] == mark && wish[2] == mark",
    "spread by a worker that died, and claimed by another": "is_spread && state == claimed && claim == 2 && claimed_in[0] == 0 && lives == 3",
    "in flight since an earlier life": "wish[0] == mark && claimed_in[0] != life[0]",
    "in doubt, and about to be sent by who marked it": "state == in_doubt && claim == 1 && yes[0] && !over[until]",
    "in doubt, and a late reply about to settle it": "state == in_doubt && claim == 1 && outcome[0] == sent",
    "to be sent once more, and a late reply about to settle it": "state == available && claim == 1 && outcome[0] == sent",
    "refused for now, when it was in doubt": "state == in_doubt && claim == 1 && wish[0] == settle && outcome[0] == available",
    "taken over by one daemon, and claimed by the other": "soft_take_over && soft_claim && claim == 2",
}
CRASH_WITNESSES = {
    "in the inbox again, with a worker that claimed it": "in_inbox && in_hand[0]",
    "taken over twice, once by a worker whose claim a crash has undone": "in_hand[0] && in_hand[1] && state == transmitting && claim == 2",
    "a lost claim of an event that is to be sent once more": "!crashes && state == available && doubts == 1 && in_hand[0]",
    "sent after a crash": "!crashes && state == sent && doubts == 0",
}
GATE_WITNESSES = {
    "a sleeper about to be rung": "asleep && closed && row[0] == committed && rings[0]",
    "rung while the gate is being opened": "opening && closed && rings[0]",
    "asleep, and a take-over is about to ring": "asleep && !wake && row[moved] == moving && moved_rings",
    "committed and unheard while the session is lost": "asleep && down && !wake && UNHEARD(0)",
}


@dataclass(frozen=True)
class Exploration:
    """The findings of pan, the program that spin makes of a model."""

    errors: int
    said: str


Explore = Callable[..., Exploration]


@pytest.fixture
def explore(tmp_path: Path) -> Explore:
    """`explore("gate", MUTANT="")` with these names defined."""
    if os.environ.get("PGHERALD_WITHOUT_SPIN"):
        pytest.skip("PGHERALD_WITHOUT_SPIN is set")
    for program in ("spin", "gcc"):
        if shutil.which(program) is None:
            pytest.fail(
                f"{program} is not installed: apt-get install spin gcc libc6-dev, or set PGHERALD_WITHOUT_SPIN=1"
            )

    def run(*command: str | Path) -> str:
        # As files in a folder of their own: spin writes into the current one, and takes no quotes in -D.
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command[0]} ends with {done.returncode}: {said}"
        return said

    def explored(model: str, optimised: bool = False, **names: str) -> Exploration:
        defined = "".join(f"#define {name} {value}\n" for name, value in names.items())
        (tmp_path / "model.pml").write_text(f'{defined}#include "{MODELS / model}.pml"\n')
        run("spin", "-a", "model.pml")
        # Without partial order reduction: the promise watches global variables, and all depends on them.
        run("gcc", "-O2" if optimised else "-O0", "-w", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c")
        said = run(tmp_path / "pan", "-m1000000")
        errors = re.search(r"errors: (\d+)", said)
        assert errors is not None, said
        return Exploration(int(errors[1]), said)

    return explored


def assert_kept(explored: Exploration, but: Set[str] = frozenset()) -> None:
    assert explored.errors == 0, explored.said
    assert "max search depth too small" not in explored.said
    assert "Search not completed" not in explored.said
    # Every statement was reached, but for the ends of processes that have none, and the cry that the promise is broken.
    unreached = re.findall(r'\.pml:\d+, state \d+, "(.*)"', explored.said)
    assert set(unreached) - but <= {"-end-", "assert(0)"}, explored.said


def assert_broken(explored: Exploration) -> None:
    assert explored.errors == 1, explored.said
    assert "assertion violated" in explored.said, explored.said


@pytest.mark.parametrize("policy", [{}, {"HOLD": ""}], ids=["resend", "hold"])
@pytest.mark.parametrize("size", [{}, TWO_FAULTS], ids=["one fault", "two faults"])
def test_the_hand_over_keeps_the_promise(explore: Explore, policy: dict[str, str], size: dict[str, str]) -> None:
    assert_kept(explore("handover", optimised=True, **policy, **size))


@pytest.mark.parametrize("policy", [{}, {"HOLD": ""}], ids=["resend", "hold"])
def test_it_keeps_the_promise_through_a_crash_of_the_server(explore: Explore, policy: dict[str, str]) -> None:
    assert_kept(explore("handover", optimised=True, **policy, **CRASH), but=FAULT_STEPS)


@pytest.mark.parametrize("mutant", HANDOVER_MUTANTS)
def test_a_mutant_of_the_hand_over_breaks_it(explore: Explore, mutant: str) -> None:
    assert_broken(explore("handover", **{mutant: ""}))


@pytest.mark.parametrize("mutant", HOLD_MUTANTS)
def test_and_under_hold(explore: Explore, mutant: str) -> None:
    assert_broken(explore("handover", HOLD="", **{mutant: ""}))


@pytest.mark.parametrize("policy", [{}, {"HOLD": ""}], ids=["resend", "hold"])
@pytest.mark.parametrize("mutant", CRASH_MUTANTS)
def test_a_mutant_that_a_crash_of_the_server_finds(explore: Explore, mutant: str, policy: dict[str, str]) -> None:
    assert_broken(explore("handover", **{mutant: ""}, **policy, **CRASH))


@pytest.mark.parametrize("state", CRASH_WITNESSES)
def test_where_a_crash_of_the_server_gets_to(explore: Explore, state: str) -> None:
    assert_broken(explore("handover", WITNESS=f"({CRASH_WITNESSES[state]})", **CRASH))


@pytest.mark.parametrize("state", HANDOVER_WITNESSES)
def test_where_the_hand_over_gets_to(explore: Explore, state: str) -> None:
    assert_broken(explore("handover", WITNESS=f"({HANDOVER_WITNESSES[state]})"))


def test_the_gate_keeps_the_promise(explore: Explore) -> None:
    assert_kept(explore("gate", optimised=True))


@pytest.mark.parametrize("mutant", GATE_MUTANTS)
def test_a_mutant_of_the_gate_breaks_it(explore: Explore, mutant: str) -> None:
    assert_broken(explore("gate", **{mutant: ""}))


@pytest.mark.parametrize("state", GATE_WITNESSES)
def test_where_the_gate_gets_to(explore: Explore, state: str) -> None:
    assert_broken(explore("gate", WITNESS=f"({GATE_WITNESSES[state]})"))
