"""The named queries of ``sql/queries``: one file a subject, one `-- name:` line a query."""

import re
from typing import LiteralString, cast

from listener.resources import resource


def load(subject: str) -> dict[str, LiteralString]:
    """The queries of one file by name, each with its `-- name:` line still in it."""
    text = resource(f"sql/queries/{subject}.sql").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^(?=-- name: )", text)[1:]
    # What ships with the package is as trusted as a literal in its source.
    return {_name(part): cast(LiteralString, part.rstrip().rstrip(";")) for part in parts}


def _name(part: str) -> str:
    return part.partition("\n")[0].removeprefix("-- name: ").strip()
