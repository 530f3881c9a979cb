"""Each check of `make release` refuses what it is for. `make test-release` has the packages that two of them need."""

import json
import os
import shutil
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.release import __main__ as release
from tools.release import image, packages, sbom, sums
from tools.release.process import ReleaseError
from tools.release.source import Source, source

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "run.lock"
VERSION = "1.2.3"
COMMITTED = "1795000000"


def git(checkout: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=checkout, check=True, capture_output=True)


def commit(checkout: Path, **files: str) -> None:
    for name, text in files.items():
        (checkout / name).write_text(text)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--message", "a change")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that can be released, reduced to the files that are looked at."""
    folder = tmp_path / "pgherald"
    (folder / "listener").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(folder))
    (folder / "listener" / "__init__.py").write_text(f'__version__ = "{VERSION}"\n')
    commit(folder, **{"CHANGELOG.md": f"# Changelog\n\n## [{VERSION}] - unreleased\n\n## [1.2.2] - 2026-01-01\n"})
    return folder


def test_a_clean_checkout_is_its_commit_without_ignored_files(checkout: Path, tmp_path: Path) -> None:
    commit(checkout, **{".gitignore": "*.secret\n"})
    (checkout / "a.secret").touch()
    found = source(checkout)
    assert found.version == VERSION
    assert abs(int(found.time) - time.time()) < 3600
    assert sorted(path.name for path in found.export(tmp_path / "tree").iterdir()) == [
        ".gitignore", "CHANGELOG.md", "listener",
    ]  # fmt: skip


def changed(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("")


def untracked(checkout: Path) -> None:
    (checkout / "listener" / "new.py").touch()


def other_changelog(checkout: Path) -> None:
    commit(checkout, **{"CHANGELOG.md": "## [1.2.4] - unreleased\n## [1.2.3] - 2026-01-01\n"})


def no_section(checkout: Path) -> None:
    commit(checkout, **{"CHANGELOG.md": "# Changelog\n"})


def tagged_before(checkout: Path) -> None:
    git(checkout, "tag", f"v{VERSION}")
    commit(checkout, news="1")


def tagged_without_date(checkout: Path) -> None:
    git(checkout, "tag", f"v{VERSION}")


def no_checkout(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (changed, r"^checkout: 1 not as committed, the first CHANGELOG\.md; commit or remove the changes$"),
        (untracked, r"the first listener/new\.py; "),
        (
            other_changelog,
            r"^CHANGELOG\.md: the first section is 1\.2\.4, but listener/__init__\.py has 1\.2\.3; make ",
        ),
        (no_section, r"^CHANGELOG\.md: no version is found; "),
        (tagged_before, r"^listener/__init__\.py: 1\.2\.3 was released as commit [0-9a-f]+; raise the version$"),
        (tagged_without_date, r"^CHANGELOG\.md: 1\.2\.3 is unreleased, but tag v1\.2\.3 names this commit; "),
        (no_checkout, r"^checkout: fatal: not a git repository.*; release from a checkout of git$"),
    ],
)
def test_no_release_is_made_of(checkout: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(checkout)
    with pytest.raises(ReleaseError, match=said) as raised:
        source(checkout)
    assert "\n" not in str(raised.value)


def test_a_tagged_commit_with_the_date_can_be_released(checkout: Path) -> None:
    commit(checkout, **{"CHANGELOG.md": f"## [{VERSION}] - 2026-11-27\n"})
    git(checkout, "tag", "--annotate", f"v{VERSION}", "--message", VERSION)
    assert source(checkout).version == VERSION


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    """At another time, in another folder, with other rights of files, and from the sdist."""
    needed = (*packages.SHIPPED, *packages.FILES, ".gitignore")
    for name in ("one", "two"):
        for entry in needed:
            (tmp_path / name).mkdir(exist_ok=True)
            if (ROOT / entry).is_dir():
                shutil.copytree(ROOT / entry, tmp_path / name / entry, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(ROOT / entry, tmp_path / name / entry)
    for file in (tmp_path / "two").rglob("*"):
        file.chmod(0o700 if file.is_dir() else 0o600)
        os.utime(file, (1e9, 1e9))
    first = packages.build(tmp_path / "one", tmp_path / "first", COMMITTED, "--wheel", "--sdist")
    again = packages.build(tmp_path / "two", tmp_path / "again", COMMITTED)
    for made, other in zip(first, again, strict=True):
        packages.check_bytes(made, other, "in a test")
    packages.check_sdist(first[1], tmp_path / "one")
    with zipfile.ZipFile(first[0]) as archive:
        assert {entry.date_time[:3] for entry in archive.infolist()} == {time.gmtime(int(COMMITTED))[:3]}
    with pytest.raises(ReleaseError, match="a second build in a test has other bytes"):
        packages.check_bytes(*first, "in a test")


def test_an_sdist_that_lacks_a_file(tmp_path: Path) -> None:
    tree, sdist = tmp_path / "tree", tmp_path / "a.tar.gz"
    (tree / "sql").mkdir(parents=True)
    for name in (*packages.FILES, "sql/roles.sql", "sql/triggers.sql"):
        (tree / name).touch()
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(tree, "pgherald-1", filter=lambda entry: None if "roles" in entry.name else entry)
    with pytest.raises(ReleaseError, match=r"a\.tar\.gz: lacks sql/roles\.sql; "):
        packages.check_sdist(sdist, tree)


def installed(folder: Path, tree: Path, version: str = VERSION, sql: str = "CREATE TABLE … pgherald.watch(") -> Path:
    """An environment whose command prints this, and whose package holds the tree's files. Return its Python."""
    package = folder / "lib" / "python3.11" / "site-packages" / "listener"
    for file in ("sql/a.sql", "templates/deep/a.j2", "listener/a.py"):
        for place in (tree / file, package / file.removeprefix("listener/")):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file)
    program = folder / "bin" / "pgherald"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "pgherald, version {version}" || echo "{sql}"\n')
    program.chmod(0o755)
    return program.with_name("python")


def test_an_installed_wheel_with_all_its_files(tmp_path: Path) -> None:
    packages.check_installed(installed(tmp_path / "venv", tmp_path / "tree"), tmp_path / "tree", VERSION)


@pytest.mark.parametrize(
    ("version", "sql", "said"), [("9", "", "prints .* not 1.2.3"), (VERSION, "BEGIN", "lacks the")]
)
def test_an_installed_command_that_prints_something_else(tmp_path: Path, version: str, sql: str, said: str) -> None:
    python = installed(tmp_path / "venv", tmp_path / "tree", version, sql)
    with pytest.raises(ReleaseError, match=said):
        packages.check_installed(python, tmp_path / "tree", VERSION)


@pytest.mark.parametrize("name", ["sql/a.sql", "templates/deep/a.j2", "a.py"])
def test_an_installed_wheel_without_a_file_or_with_another(tmp_path: Path, name: str) -> None:
    python = installed(tmp_path / "venv", tmp_path / "tree")
    (file,) = (tmp_path / "venv").rglob(f"listener/{name}")
    for spoil in (lambda: file.write_text("other"), file.unlink):
        spoil()
        with pytest.raises(ReleaseError, match=f"the installed wheel: lacks {name} as it is in the commit"):
            packages.check_installed(python, tmp_path / "tree", VERSION)


def test_a_wheel_that_does_not_describe_itself(tmp_path: Path) -> None:
    pytest.importorskip("twine", reason="`make test-release` installs it")
    with zipfile.ZipFile(wheel := tmp_path / "a-1-py3-none-any.whl", "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
        archive.writestr("a-1.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    with pytest.raises(
        ReleaseError, match=r"^metadata: WARNING +`long_description` missing\.; correct pyproject\.toml$"
    ):
        packages.check_metadata(wheel)


def test_a_locked_package_that_is_missing_or_has_another_version() -> None:
    held = sbom.locked(LOCK)
    assert len(held) == LOCK.read_text().count("==")
    # As the packages spell themselves.
    held["typing_extensions"] = held.pop("typing-extensions")
    sbom.check_complete(held, LOCK, "bill")
    with pytest.raises(ReleaseError, match=r"^bill: has aiohttp 1\.0, but run\.lock pins 3\.\S+; build it again$"):
        sbom.check_complete({**held, "aiohttp": "1.0"}, LOCK, "bill")
    del held["yarl"]
    with pytest.raises(ReleaseError, match=r"^bill: has yarl None, but"):
        sbom.check_complete(held, LOCK, "bill")


def bill(file: Path) -> None:
    """Write a bill of the locked packages."""
    components = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
        for name, version in sbom.locked(LOCK).items()
    ]
    root = {"type": "application", "name": "pgherald", "version": VERSION}
    text = {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": root}, "components": components}
    file.write_text(json.dumps(text))


def test_a_bill_that_the_schema_does_not_allow(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="`make test-release` installs it")
    bill(file := tmp_path / "a.cdx.json")
    sbom.check(file, LOCK)
    file.write_text(file.read_text().replace('"library"', '"shelf"', 1))
    with pytest.raises(ReleaseError, match=r"a\.cdx\.json: CycloneDX 1\.6 does not allow it: .*shelf"):
        sbom.check(file, LOCK)


def test_the_bill_of_an_image_has_debian_s_packages_and_python_beside_the_wheel_s(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="`make test-release` installs it")
    bill(wheel := tmp_path / "wheel.cdx.json")
    debian = [["tzdata", "2026b-0+deb12u1", "all"], ["libstdc++6", "12.2.0-14", "amd64"]]
    sbom.write_image(
        wheel, {"distribution": "debian", "python": "3.13.0", "debian": debian}, file := tmp_path / "image"
    )
    sbom.check(file, LOCK)
    addresses = [component["purl"] for component in json.loads(file.read_text())["components"]]
    assert addresses[-3:] == [
        "pkg:generic/python@3.13.0",
        "pkg:deb/debian/tzdata@2026b-0%2Bdeb12u1?arch=all",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64",
    ]


def test_an_image_of_another_commit(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel := tmp_path / "a.whl", "w") as archive:
        archive.writestr(
            "a.dist-info/RECORD", "listener/a.py,sha256=1,1\nlistener/b.py,sha256=2,1\na.dist-info/RECORD,,\n"
        )
    same = ["../../../bin/pgherald,sha256=9,9", "listener/a.py,sha256=1,1", "listener/b.py,sha256=2,1"]
    image.check_files(same, wheel, "image")
    for other in (same[:2], [*same[:2], "listener/b.py,sha256=3,1"], [*same, "listener/c.py,sha256=4,1"]):
        with pytest.raises(ReleaseError, match=r"^image: listener/[bc]\.py is not that of a\.whl; build the image of"):
            image.check_files(other, wheel, "image")


def test_a_file_that_changed_is_missing_or_has_no_checksum(tmp_path: Path) -> None:
    for name in ("a.whl", "b.tar.gz"):
        (tmp_path / name).write_text(name)
    sums.write(tmp_path)
    sums.check(tmp_path)
    (tmp_path / "a.whl").write_text("tampered")
    with pytest.raises(ReleaseError, match=r"^SHA256SUMS: a\.whl: FAILED; build the release again$"):
        sums.check(tmp_path)
    (tmp_path / "a.whl").unlink()
    with pytest.raises(ReleaseError, match=r"^SHA256SUMS: a\.whl: FAILED"):
        sums.check(tmp_path)
    sums.write(tmp_path)
    (tmp_path / "c.whl").touch()
    with pytest.raises(ReleaseError, match=r"^SHA256SUMS: lacks c\.whl; "):
        sums.check(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "answers", "status", "images"),
    [([], True, 0, ["built"]), ([], False, 3, [None]), (["--image", "none"], False, 0, [None]),
     (["--image", "mine"], True, 0, ["mine"])],
)  # fmt: skip
def test_only_no_engine_leaves_the_image_out_without_being_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    arguments: list[str], answers: bool, status: int, images: list[str | None],
) -> None:  # fmt: skip
    made: list[str | None] = []

    def make(commit: Source, folder: Path, work: Path, engine_image: str | None) -> None:
        folder.mkdir()
        made.append(engine_image)

    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "source", lambda root: Source(root, VERSION, "1"))
    monkeypatch.setattr(release, "_release", make)
    monkeypatch.setattr(image, "engine_answers", lambda: answers)
    monkeypatch.setattr(image, "build", lambda: "built")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "of an earlier release").touch()
    assert (release.main(arguments), made) == (status, images)
    said = capsys.readouterr()
    assert ("NOT BUILT: the image" in said.err) is (status == 3)
    assert "earlier" not in said.out


def test_a_refusal_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Path
) -> None:
    monkeypatch.setattr(release, "ROOT", checkout)
    untracked(checkout)
    assert release.main(["--image", "none"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
