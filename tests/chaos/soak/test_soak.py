"""The promise is kept for some seconds of schema changes beside writers."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]


def soak(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.soak", *map(str, arguments)],
        cwd=_ROOT, capture_output=True, text=True, encoding="utf-8", timeout=290, check=False,
    )  # fmt: skip
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_breaks_and_nothing_is_lost_or_goes_unseen() -> None:
    done = soak("--seconds", 30)
    assert done.returncode == 0
    assert "lost 0, doubled 0" in done.stdout


def test_an_unknown_change_is_an_error_with_the_known_ones() -> None:
    done = soak("--changes", "rename_everything")
    assert done.returncode == 2
    assert "--changes: unknown rename_everything; choose from add_and_drop_column" in done.stderr
