"""The wheel and the sdist: their bytes, their metadata, and the wheel as it is installed."""

import os
import sys
import tarfile
import venv
from pathlib import Path

from tools.release.process import ReleaseError, run, without_python_path

# The package needs these folders, and a reader of the sdist these files.
SHIPPED = ("listener", "sql", "templates")
FILES = ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "cli.py")


def build(tree: Path, folder: Path, time: str, *kinds: str) -> tuple[Path, Path]:
    """Build the wheel and the sdist of a tree. Without `--wheel` and `--sdist`, the wheel is made of the sdist."""
    run(
        sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", folder, tree,
        place=tree.name, advice="see the output of python -m build", env={**os.environ, "SOURCE_DATE_EPOCH": time},
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return wheel, sdist


def check_bytes(built: Path, again: Path, difference: str) -> None:
    """Raise ReleaseError if two builds of a file differ."""
    if built.read_bytes() != again.read_bytes():
        raise ReleaseError(f"{built.name}: a second build {difference} has other bytes; compare them with diffoscope")


def check_metadata(*files: Path) -> None:
    """Raise ReleaseError if an index would refuse or misprint the metadata."""
    run(
        sys.executable, "-m", "twine", "check", "--strict", *files,
        place="metadata", advice="correct pyproject.toml", env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip


def check_sdist(sdist: Path, tree: Path) -> None:
    """Raise ReleaseError if the sdist lacks a file that the package is built of, or that describes it."""
    needed = {file.relative_to(tree) for name in SHIPPED for file in (tree / name).rglob("*") if file.is_file()}
    with tarfile.open(sdist) as archive:
        held = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    if missing := sorted(map(str, (needed | {Path(name) for name in FILES}) - held)):
        raise ReleaseError(f"{sdist.name}: lacks {', '.join(missing[:3])}; correct the targets in pyproject.toml")


def install(wheel: Path, lock: Path, folder: Path) -> Path:
    """Install the wheel and the locked packages into a new environment, and return its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pinned = ("--require-hashes", "--only-binary", ":all:", "--requirement", lock)
    _pip(python, "install", "--quiet", *pinned, place=lock.name)
    _pip(python, "install", "--quiet", "--no-deps", "--no-index", wheel, place=wheel.name)
    _pip(python, "check", place=lock.name)
    return python


def check_installed(python: Path, tree: Path, version: str) -> None:
    """Raise ReleaseError if the installed command does not start, or lacks a file that the tree has."""
    pgherald = python.with_name("pgherald")
    place = "the installed wheel"
    said = run(pgherald, "--version", place=place, advice="correct the wheel", env=without_python_path())
    if said.split()[-1:] != [version]:
        raise ReleaseError(f"{place}: pgherald --version prints {said.strip()!r}, not {version}; correct the wheel")
    printed = run(pgherald, "install", "--print", place=place, advice="correct the wheel", env=without_python_path())
    if "CREATE TABLE" not in printed or "pgherald.watch(" not in printed:
        raise ReleaseError(f"{place}: pgherald install --print lacks the tables or a rule; correct the wheel")
    (package,) = python.parents[1].glob("lib/python*/site-packages/listener")
    for name in SHIPPED:
        for file in filter(Path.is_file, (tree / name).rglob("*")):
            path = file.relative_to(tree / "listener" if name == "listener" else tree)
            if not (package / path).is_file() or (package / path).read_bytes() != file.read_bytes():
                raise ReleaseError(
                    f"{place}: lacks {path} as it is in the commit; correct the targets in pyproject.toml"
                )


def _pip(python: Path, *arguments: str | Path, place: str) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, *arguments, place=place, advice="run make lock, or correct pyproject.toml", env=without_python_path())
