"""The software bills of materials (SBOM), in CycloneDX JSON: https://cyclonedx.org/docs/1.6/json/."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tools.release.process import ReleaseError, run

SPECIFICATION = "1.6"


def write(python: Path, pyproject: Path, version: str, time: str, file: Path) -> None:
    """Write the SBOM of the packages that an environment holds, with their licences and their dependencies."""
    run(
        sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", SPECIFICATION, "--output-reproducible",
        "--pyproject", pyproject, "--output-file", file, python,
        place=file.name, advice="see the manual of cyclonedx-bom", env={**os.environ, "SOURCE_DATE_EPOCH": time},
    )  # fmt: skip
    bill = json.loads(file.read_text(encoding="utf-8"))
    # pyproject.toml does not hold the version, which hatchling reads from the package.
    bill["metadata"]["component"] |= {"version": version, "purl": f"pkg:pypi/pgherald@{version}"}
    _save(bill, file)


def write_image(wheel: Path, held: dict[str, Any], file: Path) -> None:
    """Write the SBOM of the image: the wheel's, Python, and the packages that Debian's package list names."""
    bill = json.loads(wheel.read_text(encoding="utf-8"))
    distribution = held["distribution"]
    components = [("python", held["python"], f"pkg:generic/python@{held['python']}")]
    for name, version, architecture in held["debian"]:
        address = f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}?arch={architecture}"
        components.append((name, version, address))
    bill["components"] += [
        {"bom-ref": address, "type": "library", "name": name, "version": version, "purl": address}
        for name, version, address in components
    ]
    bill["metadata"]["component"]["type"] = "container"
    _save(bill, file)


def locked(lock: Path) -> dict[str, str]:
    """Return the version of each package that a lock file names."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def check(file: Path, lock: Path) -> None:
    """Raise ReleaseError if the SBOM is invalid, or lacks a locked package or its version."""
    # Only `make release` installs this package.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = file.read_text(encoding="utf-8")
    if invalid := JsonStrictValidator(SchemaVersion.from_version(SPECIFICATION)).validate_str(text):
        fault = str(invalid).strip().splitlines()[0]
        raise ReleaseError(
            f"{file.name}: CycloneDX {SPECIFICATION} does not allow it: {fault}; correct tools/release/sbom.py"
        )
    # The image has a tzdata of Debian's beside Python's.
    python = [c for c in json.loads(text)["components"] if c["purl"].startswith("pkg:pypi/")]
    check_complete({component["name"]: component["version"] for component in python}, lock, file.name)


def check_complete(held: dict[str, str], lock: Path, place: str) -> None:
    """Raise ReleaseError if a locked package is missing among these, or has another version."""
    there = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in held.items()}
    for name, version in locked(lock).items():
        if there.get(name) != version:
            raise ReleaseError(f"{place}: has {name} {there.get(name)}, but {lock.name} pins {version}; build it again")


def _save(bill: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(bill, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
