"""The promise is kept for some seconds of everything breaking; and a bug put in on purpose is found."""

import re

import pytest

from tests.chaos.program import run


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_the_promise_is_kept(policy: str) -> None:
    done = run("tests.chaos", "--seconds", 30, "--policy", policy)
    assert done.returncode == 0
    assert "lost 0" in done.stdout
    if policy == "hold":
        assert "doubled 0" in done.stdout


MUTANTS = {"settle_without_fence": "doubled", "mark_after_dot": "doubled", "wake_cleared_after_drain": "late"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("mutant", "found"), MUTANTS.items())
def test_a_bug_put_in_on_purpose_is_found(mutant: str, found: str) -> None:
    # Twenty seconds bring it to light as a rule, not always.
    for _ in range(8):
        done = run("tests.chaos", "--seconds", 20, "--policy", "hold", "--mutant", mutant)
        if is_found := bool(re.search(rf"^BROKEN: .*\d+ {found}", done.stdout, re.MULTILINE)):
            break
    assert is_found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_brings_it_to_light_breaks_nothing_by_itself(mutant: str) -> None:
    assert run("tests.chaos", "--seconds", 20, "--policy", "hold", "--provoke", mutant).returncode == 0
