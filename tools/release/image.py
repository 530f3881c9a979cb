"""The container image: an archive for `docker load`, and a comparison of its contents with the wheel."""

import gzip
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from tools.release.process import ReleaseError, run

# Runs in the container. Debian's list remains in the image, although the program that reads it does not.
_LOOK = """
import importlib.metadata, json, pathlib, platform
release = platform.freedesktop_os_release()
paragraphs = pathlib.Path("/var/lib/dpkg/status").read_text().split("\\n\\n")
fields = [dict(line.split(": ", 1) for line in p.splitlines() if ": " in line and line[0] != " ") for p in paragraphs]
print(json.dumps({
    "packages": {d.name: d.version for d in importlib.metadata.distributions()},
    "files": importlib.metadata.distribution("pgherald").read_text("RECORD").splitlines(),
    "python": platform.python_version(),
    "distribution": release["ID"],
    "debian": [(f["Package"], f["Version"], f["Architecture"]) for f in fields if f],
}))
"""


def engine_answers() -> bool:
    """Return whether a Docker engine answers."""
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def build() -> str:
    """Build the image by `make image` and return its name."""
    run("make", "--silent", "image", place="make image", advice="run make image, which shows all of its output")
    return "pgherald"


def save(image: str, version: str, folder: Path) -> Path:
    """Save an image of the engine as ``pgherald:VERSION`` into a compressed archive, and return the archive."""
    _docker("tag", image, f"pgherald:{version}")
    architecture = _docker("image", "inspect", "--format", "{{.Architecture}}", image).strip()
    file = folder / f"pgherald-{version}-image-{architecture}.tar.gz"
    plain = file.with_suffix("")
    _docker("save", "--output", str(plain), f"pgherald:{version}")
    with plain.open("rb") as source, gzip.open(file, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    plain.unlink()
    return file


def check(file: Path, wheel: Path, version: str) -> dict[str, Any]:
    """Load the archive, run the command, and return the packages that the image holds.

    Raises:
        ReleaseError: the archive cannot be loaded, or the image has another version or other files than the wheel.
    """
    name = f"pgherald:{version}"
    # The archive must bring the image, not the engine.
    _docker("image", "rm", name)
    _docker("load", "--quiet", "--input", str(file))
    isolated = ("run", "--rm", "--interactive", "--network=none", "--read-only")
    if (said := _docker(*isolated, name, "--version").split())[-1:] != [version]:
        raise ReleaseError(
            f"{file.name}: pgherald --version prints {' '.join(said)!r}, not {version}; build the image again"
        )
    held: dict[str, Any] = json.loads(_docker(*isolated, "--entrypoint=python3", name, "-", text=_LOOK))
    check_files(held["files"], wheel, file.name)
    return held


def check_files(record: list[str], wheel: Path, place: str) -> None:
    """Raise ReleaseError if the installed package, whose RECORD this is, was not made of the wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        wanted = {line for line in archive.read(path).decode().splitlines() if line.startswith("listener/")}
    if differ := sorted(wanted ^ {line for line in record if line.startswith("listener/")}):
        path = differ[0].split(",")[0]
        raise ReleaseError(f"{place}: {path} is not that of {wheel.name}; build the image of this commit")


def _docker(*arguments: str, text: str = "") -> str:
    return run("docker", *arguments, place=f"docker {arguments[0]}", advice="look at the engine", text=text)
