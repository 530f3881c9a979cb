"""Where the files that come with the package are: beside it in a wheel, above it in a checkout."""

from importlib.resources import files
from pathlib import Path


def resource(name: str) -> Path:
    """The shipped file or folder `name`, such as ``sql/triggers.sql``."""
    package = Path(str(files("listener")))
    inside = package / name
    return inside if inside.exists() else package.parent / name
