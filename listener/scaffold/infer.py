"""A rule for an unknown database: which table, who owns its rows, and which column is the owner's consent."""

import re
from collections.abc import Sequence

from listener.config.rules import DEFAULT_NAME
from listener.errors import SchemaError
from listener.scaffold.catalog import Column, Reference, Table
from listener.scaffold.consent import choose_consent
from listener.scaffold.inference import Choice, Inference, JoinedColumn
from listener.scaffold.names import either, listed, words
from listener.scaffold.watched import WatchedRule

# The value of the built-in example, tried if --becomes is not given.
_BECOMES = "VE"
_STATUS = ("status", "state")
_EMAIL = ("email", "e_mail", "mail", "email_address")
_PLACE = ("place", "name", "title")
_OWNERS = ("user", "owner", "customer", "account", "member", "person")
_PLACES = ("place", "plan", "venue", "location")


def choose_table(tables: Sequence[Table], name: str | None) -> Table:
    """Return the table `name`. Without a name, return one called dateplan, or the only one that fits.

    A table fits if it has a status and an owner with an email address.

    Raises:
        SchemaError: no table or more than one fits.
    """
    if name is not None:
        found = [table for table in tables if name in (table.qualified, f"{table.schema}.{table.name}")]
        found = found or [table for table in tables if table.name == name]
        what = f"table {name}"
    else:
        found = [table for table in tables if re.search(r"(^|_)date_?plans?$", words(table.name))]
        found = found or [table for table in tables if _statuses(table) and _owners(table)]
        what = "table with a status whose owner has an email address"
    if not found:
        remedy = "check its name and schema, and [database] url" if name else "choose one with --table"
        raise SchemaError(f"there is no {what} in this database; {remedy}")
    if len(found) > 1:
        names = ", ".join(table.qualified for table in found)
        raise SchemaError(f"there is more than one {what}: {names}; choose one with --table")
    return found[0]


def infer(
    table: Table, becomes: str | None, tables: Sequence[Table] = (), watched: WatchedRule | None = None
) -> Inference:
    """Infer a rule for `table`, one of `tables`.

    `becomes` is the value from the command line, if any. If the database watches the table already, as after a migration
    of Django, the rule is that of `watched`.
    """
    if watched is not None:
        key, column, value = Choice(tuple(watched.key)), Choice(watched.column), Choice(watched.value)
    else:
        key = _key(table)
        column = _column(table)
        value = Choice(becomes) if becomes is not None else _becomes(table, column.value)
    name = _name(table, value.value) if watched is None else watched.rule
    owner = _owner(table)
    owner_table = owner.value.via.table if owner.value and owner.value.via else table if owner.value else None
    return Inference(
        name=name,
        table=table,
        key=key,
        column=column,
        becomes=value,
        owner=owner,
        consent=choose_consent(owner.value, owner_table, tables),
        place=_place(table, owner.value) if name == DEFAULT_NAME else None,
        capture="row" if watched is None else watched.capture,
    )


def _key(table: Table) -> Choice[tuple[str, ...]]:
    """Return the columns of the primary key that `watch()` accepts. Partitioned tables often have a date in it."""
    if not table.key:
        return Choice(None, f"{table.qualified} has no primary key")
    left_out = [table.columns[name] for name in table.key if not table.columns[name].may_be_key]
    key = tuple(name for name in table.key if table.columns[name].may_be_key)
    if not left_out:
        return Choice(key)
    why = f"{listed(left_out)} cannot be part of it, because the type is {either(list(dict.fromkeys(each.type for each in left_out)))}"
    return Choice(key, f"{why}; check that {' and '.join(key)} identifies a row") if key else Choice(None, why)


def _name(table: Table, becomes: str | None) -> str:
    text = words(table.name)
    if becomes == _BECOMES and text.replace("_", "").rstrip("s").endswith("dateplan"):
        return DEFAULT_NAME
    value = words(becomes or "changed")
    return re.sub(r"^(?![a-z])", "rule_", f"{text}_{value}".strip("_"))[:40].rstrip("_")


def _statuses(table: Table) -> list[Column]:
    exact = [table.columns[name] for name in _STATUS if name in table.columns]
    return exact[:1] or [column for column in table.columns.values() if words(column.name).endswith(_STATUS)]


def _column(table: Table) -> Choice[str]:
    found = _statuses(table)
    if len(found) == 1:
        return Choice(found[0].name)
    if not found:
        return Choice(None, f"{table.qualified} has no column named like a status")
    return Choice(None, f"{table.qualified} has several columns named like a status: {listed(found)}")


def _becomes(table: Table, column: str | None) -> Choice[str]:
    if column is None:
        return Choice(None, "the status column is not known; set the value with --becomes")
    of = table.columns[column]
    known = of.labels or tuple(value for check in of.checks for value in re.findall(r"'((?:[^']|'')*)'", check))
    if known and _BECOMES not in known:
        return Choice(None, f"{column} is one of {', '.join(known)}; choose one with --becomes")
    if not (of.is_text or of.category == "E"):
        return Choice(
            None, f"{column} is of type {of.type}, which cannot be {_BECOMES!r}; set the value with --becomes"
        )
    return Choice(_BECOMES)


def _email(table: Table) -> str | None:
    texts = {words(column.name): column.name for column in table.columns.values() if column.is_text}
    return next((texts[name] for name in _EMAIL if name in texts), None)


def _owners(table: Table) -> list[JoinedColumn]:
    return [JoinedColumn(via, email) for via in table.references if (email := _email(via.table))]


def _owner(table: Table) -> Choice[JoinedColumn]:
    found = _owners(table)
    # A foreign key says more than a name.
    found = [field for field in found if field.via and field.via.declared] or found
    if len(found) > 1:
        found = _named(found, _OWNERS) or found
    if len(found) == 1:
        via = found[0].via
        return Choice(found[0], "" if via is None else _by_name(via))
    if not found and (email := _email(table)):
        return Choice(JoinedColumn(None, email))
    if not found:
        return Choice(None, f"no table that {table.qualified} refers to has a column named {either(_EMAIL)}")
    columns = [", ".join(field.via.columns) for field in found if field.via]
    return Choice(None, f"it may be the row that {either(columns)} refers to")


def _named(fields: list[JoinedColumn], names: tuple[str, ...]) -> list[JoinedColumn]:
    """Return the field whose referring column has one of these names. The first name that fits exactly one decides."""
    for name in names:
        if (
            len(
                found := [
                    field for field in fields if field.via and field.via.columns[0].lower() in (name, f"{name}_id")
                ]
            )
            == 1
        ):
            return found
    return []


def _place(table: Table, owner: JoinedColumn | None) -> Choice[JoinedColumn]:
    if _PLACE[0] in table.columns:
        return Choice(JoinedColumn(None, _PLACE[0]))
    others = [via for via in table.references if (owner is None or via is not owner.via) and not _email(via.table)]
    for name in _PLACE:
        fields = [JoinedColumn(via, name) for via in others if name in via.table.columns]
        fields = (_named(fields, _PLACES) or fields) if len(fields) > 1 else fields
        if len(fields) == 1 and (via := fields[0].via):
            return Choice(fields[0], _by_name(via))
        if fields:
            return Choice(
                None, f"it may be {either([f'{field.via.table.qualified}.{name}' for field in fields if field.via])}"
            )
    own = [table.columns[name] for name in _PLACE if name in table.columns]
    hint = f"; {table.qualified} itself has {listed(own)}" if own else ""
    return Choice(None, f"no other table that {table.qualified} refers to has a column named {either(_PLACE)}{hint}")


def _by_name(via: Reference) -> str:
    if via.declared:
        return ""
    return f"{', '.join(via.columns)} refers to {via.table.qualified} by its name only, not by a foreign key; check it"
