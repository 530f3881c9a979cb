"""Tables as `init` reads them, made by hand."""

from listener.scaffold.catalog import Column, Reference, Table

_CATEGORIES = {"text": "S", "boolean": "B", "date": "D", "timestamptz": "D", "progress": "E"}
_TYPES = {"timestamptz": "timestamp with time zone", "int": "integer"}


def table(name: str, *columns: str, references: list[Reference] | None = None, unique: str | None = None) -> Table:
    """``table("plan", "id int", "note text")``; the first column is the primary key, and `unique` another key."""
    made = {}
    for text in columns:
        column, type, *rest = text.split(maxsplit=2)
        quoted = column if column == column.lower() and column != "primary" else f'"{column}"'
        checks = tuple(each for each in rest if each.startswith("CHECK"))
        made[column] = Column(
            column, quoted, _TYPES.get(type, type), _CATEGORIES.get(type, "N"), (), checks, "NOT NULL" not in rest
        )
    key = (next(iter(made)),)
    uniques = [key, *([(unique,)] if unique else [])]
    return Table("public", name, f"public.{name}", made, key, list(references or ()), uniques)


def refers(column: str, target: Table, *, declared: bool = True) -> Reference:
    return Reference((column,), target, target.key, declared)
