"""The commit that a release is made of."""

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tools.release.process import ReleaseError, run

_VERSION = re.compile(r'^__version__ = "(\S+)"$', re.MULTILINE)
_SECTION = re.compile(r"^## \[(\S+)\] - (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A commit without changes, its version, and its time in seconds since 1970."""

    root: Path
    version: str
    time: str

    def export(self, folder: Path) -> Path:
        """Write the commit's files into a folder. Files that git ignores cannot get into a release this way."""
        archive = folder.with_suffix(".tar")
        _git(self.root, "archive", "--output", str(archive), "HEAD")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        return folder


def source(root: Path) -> Source:
    """Return the checkout's commit.

    Raises:
        ReleaseError: the checkout has changes, or the version is not that of the changelog and of the tag.
    """
    if changed := _git(root, "status", "--porcelain").splitlines():
        raise ReleaseError(
            f"checkout: {len(changed)} not as committed, the first {changed[0][3:]}; commit or remove the changes"
        )
    version = _only(_VERSION, root / "listener" / "__init__.py").group(1)
    heading = _only(_SECTION, root / "CHANGELOG.md")
    if heading[1] != version:
        raise ReleaseError(
            f"CHANGELOG.md: the first section is {heading[1]}, but listener/__init__.py has {version}; make them agree"
        )
    if _git(root, "tag", "--list", f"v{version}"):
        _agree_with_tag(root, version, heading[2])
    return Source(root, version, _git(root, "log", "-1", "--format=%ct").strip())


def _agree_with_tag(root: Path, version: str, date: str) -> None:
    tagged = _git(root, "rev-parse", "--short", f"v{version}^{{commit}}").strip()
    if tagged != _git(root, "rev-parse", "--short", "HEAD").strip():
        raise ReleaseError(f"listener/__init__.py: {version} was released as commit {tagged}; raise the version")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise ReleaseError(
            f"CHANGELOG.md: {version} is {date}, but tag v{version} names this commit;"
            " remove the tag, write the date of the release and commit"
        )


def _only(pattern: re.Pattern[str], file: Path) -> re.Match[str]:
    found = pattern.search(file.read_text(encoding="utf-8"))
    if found is None:
        raise ReleaseError(f"{file.name}: no version is found; write a line that matches {pattern.pattern}")
    return found


def _git(root: Path, *arguments: str) -> str:
    return run("git", "-C", root, *arguments, place="checkout", advice="release from a checkout of git")
