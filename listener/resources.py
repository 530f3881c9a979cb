"""The files that are shipped with the package: SQL, templates. A wheel has them inside it, a checkout beside it."""

from importlib.resources import files
from pathlib import Path


def resource(name: str) -> Path:
    """Return the path of a shipped file or folder, such as ``sql/triggers.sql``."""
    package = Path(str(files("listener")))
    inside = package / name
    return inside if inside.exists() else package.parent / name
