"""systemd understands the unit, and the unit leaves a compromised daemon little to reach."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "pgherald.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_verify(tmp_path: Path) -> None:
    # It looks for the program, too.
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/pgherald/bin/pgherald", str(Path(sys.executable).parent / "pgherald"))
    )
    done = analyze("verify", "--man=no", unit)
    # On a machine without systemd running, it may say so; what it says of the unit names it.
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_exposure() -> None:
    done = analyze("security", "--offline=true", UNIT)
    found = re.search(r"Overall exposure level for pgherald\.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < 1.5
