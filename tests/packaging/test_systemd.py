"""systemd understands the unit, and the unit leaves a compromised daemon little to reach."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# systemd knows these from version 254 on. An older one ignores them.
NEWER_KEYS = ("RestartSteps", "RestartMaxDelaySec")
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "pgherald.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False)


def version() -> int:
    return int(analyze("--version").stdout.split()[1])


def test_verify(tmp_path: Path) -> None:
    # It looks for the program, too.
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/pgherald/bin/pgherald", str(Path(sys.executable).parent / "pgherald"))
    )
    done = analyze("verify", "--man=no", unit)
    # On a machine without systemd running, it may say so; what it says of the unit names it.
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    if version() < 254:
        unknown = [line for line in said if "Unknown key" in line and any(key in line for key in NEWER_KEYS)]
        assert len(unknown) == len(NEWER_KEYS)
        said = [line for line in said if line not in unknown]
    assert (done.returncode, said) == (0, [])


def test_a_restart_follows_only_where_it_can_help_and_not_ever_faster() -> None:
    keys = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert keys["Restart"] == "on-failure"
    assert keys["RestartPreventExitStatus"].split() == ["2", str(os.EX_CONFIG)]
    assert [keys[key] for key in ("RestartSec", *NEWER_KEYS)] == ["5s", "5", "1min"]
    # Without a limit: nothing else sends the emails.
    assert keys["StartLimitIntervalSec"] == "0"


def test_exposure() -> None:
    done = analyze("security", "--offline=true", UNIT)
    found = re.search(r"Overall exposure level for pgherald\.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < 1.5


@pytest.mark.parametrize("variable", ["", "PGHERALD_DATABASE_URL"])
def test_the_command_for_root_reads_what_the_service_reads(tmp_path: Path, variable: str) -> None:
    script = (UNIT.parent / "pgherald").read_text().replace("/opt/pgherald/bin/pgherald", "env")
    environment = {"PATH": os.environ["PATH"], **({variable: "postgresql://owner@db/app"} if variable else {})}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    secrets = re.findall(r"(?m)^LoadCredential=(\w+):(.*)$", UNIT.read_text())
    expected = {f"PGHERALD_{name.upper()}_FILE": file for name, file in secrets}
    expected["PGHERALD_CONFIG"] = "/etc/pgherald/pgherald.toml"
    # A login that is set takes precedence over that of the daemon.
    expected.pop(f"{variable}_FILE", None)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: value for name, value in seen.items() if name in expected or name.endswith("_FILE")} == expected
