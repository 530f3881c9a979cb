"""The owner of a row: the row that it refers to, and the column with the owner's address."""

from collections.abc import Iterator, Sequence

from listener.scaffold.catalog import Reference, Table
from listener.scaffold.inference import About, Choice, JoinedColumn
from listener.scaffold.names import either, words

_EMAIL = ("email", "e_mail", "mail", "email_address")
_OWNERS = ("user", "owner", "customer", "account", "member", "person")
# The table of django-allauth: several addresses a user, one of them primary.
_ALLAUTH = "account_emailaddress"
_ALLAUTH_COLUMNS = ("email", "verified", "primary")


def is_address_book(table: Table) -> bool:
    """Return whether the table is django-allauth's, which has several addresses a user."""
    return table.name == _ALLAUTH and all(name in table.columns for name in _ALLAUTH_COLUMNS)


def own_email(table: Table) -> str | None:
    """Return the table's column with an address, if it has one."""
    texts = {words(column.name): column.name for column in table.columns.values() if column.is_text}
    return next((texts[name] for name in _EMAIL if name in texts), None)


def find_about(table: Table, tables: Sequence[Table], watched: Table) -> Iterator[About]:
    """Yield the tables that have one row at most about a row of `table`: a profile, preferences, a contact."""
    for other in tables:
        if other is table or other is watched:
            continue
        for reference in other.references:
            keys = [set(columns) for columns in (other.key, *other.unique) if columns]
            if reference.table is table and any(key <= set(reference.columns) for key in keys):
                yield About(other, reference)


def find_owners(table: Table, tables: Sequence[Table] = ()) -> list[JoinedColumn]:
    """Return the address of each row that a row of `table` refers to, if that row has one."""
    return [
        JoinedColumn(via, column, about)
        for via in table.references
        for about, column in _addresses(via.table, tables, table)
    ]


def choose_owner(table: Table, tables: Sequence[Table] = ()) -> Choice[JoinedColumn]:
    """Return the owner's address."""
    found = find_owners(table, tables)
    # A foreign key says more than a name.
    found = [field for field in found if field.via and field.via.declared] or found
    if len(found) > 1:
        found = choose_named(found, _OWNERS) or found
    if len(found) == 1:
        via = found[0].via
        return Choice(found[0], "" if via is None else doubt(via))
    if not found:
        found = [JoinedColumn(None, column, about) for about, column in _addresses(table, tables, table)]
        if len(found) == 1:
            return Choice(found[0])
    if not found:
        return Choice(None, f"no table that {table.qualified} refers to has a column named {either(_EMAIL)}")
    rows = list(dict.fromkeys(field.via.columns if field.via else () for field in found))
    if len(rows) == 1:
        return Choice(None, f"it may be {either([_written(field, table) for field in found])}")
    return Choice(None, f"it may be the row that {either([', '.join(row) for row in rows])} refers to")


def choose_named(fields: list[JoinedColumn], names: tuple[str, ...]) -> list[JoinedColumn]:
    """Return the field whose referring column has one of these names. The first name that fits exactly one decides."""
    for name in names:
        if len(found := [field for field in fields if field.via and _is_called(field.via, name)]) == 1:
            return found
    return []


def doubt(via: Reference) -> str:
    """Return why a reference should be checked; nothing if a foreign key says it."""
    if via.declared:
        return ""
    return f"{', '.join(via.columns)} refers to {via.table.qualified} by its name only, not by a foreign key; check it"


def _written(field: JoinedColumn, watched: Table) -> str:
    table = field.about.table if field.about else field.via.table if field.via else watched
    return f"{table.qualified}.{field.column}"


def _is_called(via: Reference, name: str) -> bool:
    return any(words(column).removesuffix("_id") == name for column in via.columns)


def _addresses(table: Table, tables: Sequence[Table], watched: Table) -> list[tuple[About | None, str]]:
    """Return where the address of a row of `table` is: in django-allauth's table, in the row, or in a row about it."""
    for other in tables:
        if is_address_book(other):
            for reference in other.references:
                if reference.table is table:
                    return [(About(other, reference, ("primary", "verified")), "email")]
    if (own := own_email(table)) is not None:
        return [(None, own)]
    return [
        (about, column)
        for about in find_about(table, tables, watched)
        if (column := own_email(about.table)) is not None
    ]
