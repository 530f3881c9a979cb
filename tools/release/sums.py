"""SHA256SUMS, as sha256sum(1) reads it."""

import hashlib
from pathlib import Path

from tools.release.process import ReleaseError, run

NAME = "SHA256SUMS"


def write(folder: Path) -> None:
    """Write the checksum of each file of the folder into its SHA256SUMS."""
    lines = [f"{_digest(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.name != NAME]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def check(folder: Path) -> None:
    """Raise ReleaseError if a file of the folder has no checksum, or another one."""
    listed = {line.split("  ")[1] for line in (folder / NAME).read_text(encoding="utf-8").splitlines()}
    if unlisted := sorted({file.name for file in folder.iterdir()} - listed - {NAME}):
        raise ReleaseError(f"{NAME}: lacks {unlisted[0]}; build the release again")
    run("sha256sum", "--check", "--strict", "--quiet", NAME, place=NAME, advice="build the release again", cwd=folder)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
