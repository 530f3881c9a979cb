"""Programs that a release runs, and the error that ends it."""

import os
import subprocess
from pathlib import Path


class ReleaseError(Exception):
    """The release cannot be made, or a check of it failed. The text is ``<place>: <what is wrong>; <what to do>``."""


def run(
    *command: str | Path,
    place: str,
    advice: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    text: str = "",
) -> str:
    """Run a program with this input and return its standard output.

    Raises:
        ReleaseError: the program failed. The message quotes the last line that it printed.
    """
    done = subprocess.run(command, env=env, cwd=cwd, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise ReleaseError(f"{place}: {said[-1].strip()}; {advice}")
    return done.stdout


def without_python_path() -> dict[str, str]:
    """Return the environment in which only an installed package can be imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PGHERALD_"))}
