"""The promise is kept for some seconds of schema changes beside writers."""

import pytest

from tests.chaos.program import run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_breaks_and_nothing_is_lost_or_goes_unseen() -> None:
    done = run("tests.chaos.soak", "--seconds", 30)
    assert done.returncode == 0
    assert "lost 0, doubled 0" in done.stdout


def test_an_unknown_change_is_an_error_with_the_known_ones() -> None:
    done = run("tests.chaos.soak", "--changes", "rename_everything")
    assert done.returncode == 2
    assert "--changes: unknown rename_everything; choose from add_and_drop_column" in done.stderr
