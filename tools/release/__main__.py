"""Build a release into dist/, check it, and print what was made.

    python -m tools.release [--image NAME]

The exit status is 0 for a whole release, and 1 if it cannot be made or a check fails. It is 3 if only the image is
missing, because no Docker engine answers.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tools.release import image, packages, sbom, sums
from tools.release.process import ReleaseError
from tools.release.source import Source, source

ROOT = Path(__file__).parents[2]
IMAGE_MISSING = 3


def main(arguments: list[str]) -> int:
    """Make the release and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="an image that the engine holds; `none` leaves it out; default: build it")
    wanted = parser.parse_args(arguments).image
    missing = wanted is None and not image.engine_answers()
    folder = ROOT / "dist"
    try:
        commit = source(ROOT)
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as work:
            _release(commit, folder, Path(work), None if missing or wanted == "none" else wanted or image.build())
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>12,}  dist/{file.name}")
    if missing:
        print("NOT BUILT: the image, because no Docker engine answers. IMAGE=none leaves it out.", file=sys.stderr)
    elif wanted == "none":
        print("without the image, as IMAGE=none says")
    return IMAGE_MISSING if missing else 0


def _release(commit: Source, folder: Path, work: Path, engine_image: str | None) -> None:
    """Build all files, and then check them as they are after their checksums were taken."""
    tree = commit.export(work / "tree")
    lock = tree / "requirements" / "run.lock"
    wheel, sdist = packages.build(tree, folder, commit.time, "--wheel", "--sdist")
    python = packages.install(wheel, lock, work / "venv")
    bills = [folder / f"pgherald-{commit.version}.cdx.json"]
    sbom.write(python, tree / "pyproject.toml", commit.version, commit.time, bills[0])
    if engine_image:
        archive = image.save(engine_image, commit.version, folder)
        held = image.check(archive, wheel, commit.version)
        sbom.check_complete(held["packages"], lock, archive.name)
        bills.append(archive.with_name(archive.name.replace(".tar.gz", ".cdx.json")))
        sbom.write_image(bills[0], held, bills[1])
    sums.write(folder)

    packages.check_metadata(wheel, sdist)
    packages.check_sdist(sdist, tree)
    again = packages.build(commit.export(work / "again"), work / "built", commit.time)
    packages.check_bytes(wheel, again[0], "from the sdist")
    packages.check_bytes(sdist, again[1], "of the same commit")
    packages.check_installed(python, tree, commit.version)
    for bill in bills:
        sbom.check(bill, lock)
    sums.check(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
