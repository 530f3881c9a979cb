"""A rule for an unknown database: which table, who owns its rows, and which column is the owner's consent."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from listener.config.rules import DEFAULT_NAME
from listener.errors import SchemaError
from listener.scaffold.catalog import Column, Reference, Table
from listener.scaffold.wording import either, listed, words

T = TypeVar("T")

# The value of the built-in example, tried if --becomes is not given.
_BECOMES = "VE"
_STATUS = ("status", "state")
_EMAIL = ("email", "e_mail", "mail", "email_address")
_PLACE = ("place", "name", "title")
_CONSENT = re.compile(r"notif|consent|subscri|e?mail|(?:^|_)opt(?:_?in|ed|_|$)")
# Booleans with such names that are about something else than wanting these emails, or mean the opposite.
_NO_CONSENT = re.compile(
    r"verif|confirm|valid|bounc|block|unsub|disab|mute|out(?:_|$)|(?:^|_)(?:no|not|dont)_"
    r"|sms|push|phone|marketing|newsletter|(?:^|_)sent|public|visible|hidden|hide"
)
_OWNERS = ("user", "owner", "customer", "account", "member", "person")
_PLACES = ("place", "plan", "venue", "location")


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """An inferred setting.

    Without a `value`, the choice is ambiguous or there is no candidate, and `why` says which. With one, `why` is empty
    or a warning.
    """

    value: T | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class JoinedColumn:
    """A column of the watched table (`via` is empty), or of the table that the reference `via` leads to."""

    via: Reference | None
    column: str


@dataclass(frozen=True, slots=True)
class Inference:
    """A rule as far as it could be inferred."""

    name: str
    table: Table
    key: Choice[tuple[str, ...]]
    column: Choice[str]
    becomes: Choice[str]
    owner: Choice[JoinedColumn]
    consent: Choice[JoinedColumn]
    place: Choice[JoinedColumn]

    @property
    def undecided(self) -> list[tuple[str, str]]:
        """Return the settings that could not be inferred, each with the reason."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is None]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Return the settings that were inferred but should be checked, each with the reason."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is not None and choice.why]

    def _choices(self) -> list[tuple[str, Choice[object]]]:
        named: list[tuple[str, Choice[object]]] = []
        for what in ("key", "column", "becomes", "owner", "consent", "place"):
            named.append((what, getattr(self, what)))
        return named


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


def infer(table: Table, becomes: str | None) -> Inference:
    """Infer a rule for `table`. `becomes` is the value from the command line, if any."""
    column = _column(table)
    value = Choice(becomes) if becomes is not None else _becomes(table, column.value)
    owner = _owner(table)
    owner_table = owner.value.via.table if owner.value and owner.value.via else table if owner.value else None
    return Inference(
        name=_name(table, value.value),
        table=table,
        key=_key(table),
        column=column,
        becomes=value,
        owner=owner,
        consent=_consent(owner.value, owner_table),
        place=_place(table, owner.value),
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
    name, value = words(table.name), words(becomes or "changed")
    if becomes == _BECOMES and name.replace("_", "").rstrip("s").endswith("dateplan"):
        return DEFAULT_NAME
    return re.sub(r"^(?![a-z])", "rule_", f"{name}_{value}".strip("_"))[:40].rstrip("_")


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


def _consent(owner: JoinedColumn | None, owner_table: Table | None) -> Choice[JoinedColumn]:
    if owner is None or owner_table is None:
        return Choice(None, "the owner is not known")
    booleans = [column for column in owner_table.columns.values() if column.is_boolean]
    found = [column for column in booleans if _CONSENT.search(words(column.name))]
    asked = [column for column in found if not _NO_CONSENT.search(words(column.name))]
    if len(asked) == 1:
        return Choice(JoinedColumn(owner.via, asked[0].name))
    if asked:
        return Choice(None, f"{owner_table.qualified} has {listed(asked)}, and either may be the consent")
    hint = f"; {listed(found)} may mean something else" if found else ""
    return Choice(None, f"{owner_table.qualified} has no boolean named like a consent to notifications{hint}")


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
