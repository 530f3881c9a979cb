"""The wheel holds the package and its files and nothing else, and the sdist builds the same wheel."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from listener import __version__

ROOT = Path(__file__).parents[2]
DIST_INFO = f"pgherald-{__version__}.dist-info"


@dataclass(frozen=True)
class Built:
    tree: Path
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    # A copy, so that a file saved meanwhile does not make the two wheels differ.
    tree = tmp_path_factory.mktemp("copy") / "pgherald"
    shutil.copytree(ROOT, tree, ignore=hidden)
    from_tree = tmp_path_factory.mktemp("tree")
    from_sdist = tmp_path_factory.mktemp("sdist")
    run("build", "--no-isolation", "--wheel", "--outdir", from_tree, tree)
    # Without --wheel or --sdist, the wheel is made of the sdist.
    run("build", "--no-isolation", "--outdir", from_sdist, tree)
    return Built(tree, only(from_tree, "*.whl"), only(from_sdist, "*.tar.gz"), only(from_sdist, "*.whl"))


def hidden(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(".") and name != ".gitignore"}


def test_the_wheel_holds_the_package_and_what_describes_it(built: Built) -> None:
    names = set(contents(built.wheel))
    assert {name.partition("/")[0] for name in names} == {"listener", DIST_INFO}
    for folder, suffix in (("sql", ".sql"), ("templates", ".j2")):
        shipped = {name for name in names if name.startswith(f"listener/{folder}/")}
        assert shipped == {
            f"listener/{file.relative_to(built.tree)}" for file in (built.tree / folder).rglob(f"*{suffix}")
        }
        assert shipped
    modules = {name for name in names if name.startswith("listener/") and name.endswith(".py")}
    assert modules == {str(file.relative_to(built.tree)) for file in (built.tree / "listener").rglob("*.py")}
    for folder in ("static", "templates"):
        files = {path.name for path in (built.tree / "listener" / "web" / folder).iterdir()}
        assert {Path(name).name for name in names if name.startswith(f"listener/web/{folder}/")} == files
        assert files
    assert {Path(name).suffix for name in names if not name.startswith(DIST_INFO)} == {
        ".py",
        ".sql",
        ".j2",
        ".typed",
        ".css",
        ".js",
        ".svg",
        ".json",
    }
    assert f"{DIST_INFO}/licenses/LICENSE" in names


def test_the_sdist_makes_the_same_wheel(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)
    with tarfile.open(built.sdist) as sdist:
        top = {Path(name).parts[1] for name in sdist.getnames()}
    assert top == {
        "listener", "sql", "templates", "cli.py", "pyproject.toml", "PKG-INFO", ".gitignore",
        "README.md", "CHANGELOG.md", "LICENSE",
    }  # fmt: skip


def test_installed_it_adds_one_package_that_finds_its_files(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, built.wheel)
    assert {path.name for path in target.iterdir()} == {"listener", DIST_INFO, "bin"}
    assert [path.name for path in (target / "bin").iterdir()] == ["pgherald"]
    script = """
import sys; sys.path.insert(0, sys.argv[1])
from listener.resources import resource
print(resource("sql/triggers.sql")); print(resource("templates/_layout.html.j2"))
print(resource("mail/clients.json")); print(resource("web/wording.json"))
"""
    found = subprocess.run(
        [sys.executable, "-c", script, target], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert [Path(line) for line in found.stdout.splitlines()] == [
        target / "listener" / "sql" / "triggers.sql",
        target / "listener" / "templates" / "_layout.html.j2",
        target / "listener" / "mail/clients.json",
        target / "listener" / "web/wording.json",
    ]
    assert all(Path(line).is_file() for line in found.stdout.splitlines())


def run(module: str, *arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def only(folder: Path, pattern: str) -> Path:
    (file,) = folder.glob(pattern)
    return file


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
