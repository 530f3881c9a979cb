"""The lock files: a hash for each package, no address of an index, one version of a package, and few for the demo."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
LOCKS = sorted(path.name for path in FOLDER.glob("*.lock"))


def pinned(name: str) -> set[tuple[str, str]]:
    """Packages with their versions; some have one for each Python."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9.-]+)(?:\[\S+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_has_hashes_and_no_index_is_named(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    packages = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(pinned(name)) > 0
    assert [package for package in packages if "--hash=sha256:" not in package] == []
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links", text)


@pytest.mark.parametrize("name", ["run.lock", "demo.lock", "build.lock"])
def test_versions_are_those_that_are_tested(name: str) -> None:
    """`make test` must not replace a package that `make demo` has installed."""
    assert pinned(name) <= pinned("dev.lock")


def test_the_demo_installs_what_running_needs_and_little_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["demo"], *extras["speed"]]
    demo = {package for package, _ in pinned("demo.lock")}
    assert {re.split(r"[\[>;]", requirement)[0] for requirement in wanted} <= demo
    assert {package for package, _ in pinned("run.lock")} <= demo
    assert len(demo) <= 45
