"""A rule for an unknown database: which table, who owns its rows, and which column is the owner's consent."""

import re
from collections.abc import Sequence

from listener.config.rules import DEFAULT_NAME
from listener.errors import SchemaError
from listener.scaffold.catalog import Table
from listener.scaffold.consent import choose_consent
from listener.scaffold.inference import Choice, Inference, JoinedColumn, State
from listener.scaffold.names import either, listed, words
from listener.scaffold.owner import choose_named, choose_owner, doubt, find_owners, is_address_book, own_email
from listener.scaffold.state import SHIPPED_VALUE, choose_state, find_conditions, find_statuses, is_shipped
from listener.scaffold.watched import WatchedRule

_PLACE = ("place", "name", "title")
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
        for state in (find_statuses, find_conditions):
            found = found or [table for table in tables if state(table) and _is_owned(table, tables)]
        what = "table with a status whose owner has an email address"
    if not found:
        remedy = "check its name and schema, and [database] url" if name else "choose one with --table"
        raise SchemaError(f"there is no {what} in this database; {remedy}")
    if len(found) > 1:
        names = ", ".join(table.qualified for table in found)
        raise SchemaError(f"there is more than one {what}: {names}; choose one with --table")
    return found[0]


def infer(
    table: Table,
    becomes: str | None,
    tables: Sequence[Table] = (),
    watched: WatchedRule | None = None,
    seen: Sequence[str] = (),
) -> Inference:
    """Infer a rule for `table`, one of `tables`.

    `becomes` is the value from the command line, if any, and `seen` the values that the status column has. If the
    database watches the table already, as after a migration of Django, the rule is that of `watched`.
    """
    if watched is not None:
        key, state = Choice(tuple(watched.key)), watched.state
    else:
        key, state = _key(table), choose_state(table, becomes, seen)
    name = _name(table, state) if watched is None else watched.rule
    owner = choose_owner(table, tables)
    owner_table = owner.value.via.table if owner.value and owner.value.via else table if owner.value else None
    return Inference(
        name=name,
        table=table,
        key=key,
        state=state,
        owner=owner,
        consent=choose_consent(owner.value, owner_table, tables, table),
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


def _name(table: Table, state: State) -> str:
    value = state.becomes.value if state.becomes is not None else state.name
    if is_shipped(table) and value in (SHIPPED_VALUE, "verified"):
        return DEFAULT_NAME
    text = f"{words(table.name)}_{words(value or 'changed')}"
    return re.sub(r"^(?![a-z])", "rule_", text.strip("_"))[:40].rstrip("_")


def _is_owned(table: Table, tables: Sequence[Table]) -> bool:
    return not is_address_book(table) and bool(find_owners(table, tables))


def _place(table: Table, owner: JoinedColumn | None) -> Choice[JoinedColumn]:
    if _PLACE[0] in table.columns:
        return Choice(JoinedColumn(None, _PLACE[0]))
    others = [via for via in table.references if (owner is None or via is not owner.via) and not own_email(via.table)]
    for name in _PLACE:
        fields = [JoinedColumn(via, name) for via in others if name in via.table.columns]
        fields = (choose_named(fields, _PLACES) or fields) if len(fields) > 1 else fields
        if len(fields) == 1 and (via := fields[0].via):
            return Choice(fields[0], doubt(via))
        if fields:
            return Choice(
                None, f"it may be {either([f'{field.via.table.qualified}.{name}' for field in fields if field.via])}"
            )
    own = [table.columns[name] for name in _PLACE if name in table.columns]
    hint = f"; {table.qualified} itself has {listed(own)}" if own else ""
    return Choice(None, f"no other table that {table.qualified} refers to has a column named {either(_PLACE)}{hint}")
