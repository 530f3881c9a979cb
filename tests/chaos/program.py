"""Run tests.chaos or tests.chaos.soak as its own process, as make does."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module with these arguments, and show its output beside that of the test."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=_ROOT, capture_output=True, text=True, encoding="utf-8", timeout=290, check=False,
    )  # fmt: skip
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done
