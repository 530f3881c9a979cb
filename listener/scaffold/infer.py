"""What a rule for an unknown database would be: which table, whose rows they are, who wants a mail."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from listener.config.rules import DEFAULT_NAME
from listener.errors import SchemaError
from listener.scaffold.catalog import Column, Reference, Table

T = TypeVar("T")

_BECOMES = "VE"
_STATUS = ("status", "state")
_EMAIL = ("email", "e_mail", "mail", "email_address")
_PLACE = ("place", "name", "title")
_CONSENT = re.compile(r"notif|consent|subscri|e?mail|(?:^|_)opt(?:_?in|ed|_|$)")
# Booleans that such names have too, and that say no word about wanting our mail; or say the opposite.
_NO_CONSENT = re.compile(
    r"verif|confirm|valid|bounc|block|unsub|disab|mute|out(?:_|$)|(?:^|_)(?:no|not|dont)_"
    r"|sms|push|phone|marketing|newsletter|(?:^|_)sent|public|visible|hidden|hide"
)
_OWNERS = ("user", "owner", "customer", "account", "member", "person")
_PLACES = ("place", "plan", "venue", "location")


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """`value` None: it could not be decided, and `why` says between what. Else `why` is what the reader should know, if anything."""

    value: T | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the watched table, or, by a reference, of another; of the owner, the one with the address."""

    via: Reference | None
    column: str


@dataclass(frozen=True, slots=True)
class Inference:
    name: str
    table: Table
    key: Choice[tuple[str, ...]]
    column: Choice[str]
    becomes: Choice[str]
    owner: Choice[Field]
    consent: Choice[Field]
    place: Choice[Field]

    @property
    def doubts(self) -> list[tuple[str, str]]:
        """What could not be decided, and why."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is None]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What was decided, but should be looked at."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is not None and choice.why]

    def _choices(self) -> list[tuple[str, Choice[object]]]:
        named: list[tuple[str, Choice[object]]] = []
        for what in ("key", "column", "becomes", "owner", "consent", "place"):
            named.append((what, getattr(self, what)))
        return named


def the_table(tables: Sequence[Table], name: str | None) -> Table:
    """The table of this name; without one, the story's, or the only one that has a status and an owner with an address.

    Raises:
        SchemaError: there is none, or several.
    """
    if name is not None:
        found = [table for table in tables if name in (table.qualified, f"{table.schema}.{table.name}")]
        found = found or [table for table in tables if table.name == name]
        what = f"table {name}"
    else:
        found = [table for table in tables if re.search(r"(^|_)date_?plans?$", _words(table.name))]
        found = found or [table for table in tables if _statuses(table) and _owners(table)]
        what = "table with a status whose owner has an e-mail address"
    if not found:
        raise SchemaError(f"there is no {what} in this database" + ("" if name else "; name one with --table"))
    if len(found) > 1:
        names = ", ".join(table.qualified for table in found)
        raise SchemaError(f"there is more than one {what}: {names}; name one with --table")
    return found[0]


def infer(table: Table, becomes: str | None) -> Inference:
    column = _column(table)
    value = Choice(becomes) if becomes is not None else _becomes(table, column.value)
    owner = _owner(table)
    whose = owner.value.via.table if owner.value and owner.value.via else table if owner.value else None
    return Inference(
        name=_name(table, value.value),
        table=table,
        key=Choice(table.key) if table.key else Choice(None, f"{table.qualified} has no primary key"),
        column=column,
        becomes=value,
        owner=owner,
        consent=_consent(owner.value, whose),
        place=_place(table, owner.value),
    )


def _name(table: Table, becomes: str | None) -> str:
    words = _words(table.name)
    if becomes == _BECOMES and words.replace("_", "").rstrip("s").endswith("dateplan"):
        return DEFAULT_NAME
    value = _words(becomes or "changed")
    return re.sub(r"^(?![a-z])", "rule_", f"{words}_{value}".strip("_"))[:40].rstrip("_")


def _statuses(table: Table) -> list[Column]:
    exact = [table.columns[name] for name in _STATUS if name in table.columns]
    return exact[:1] or [column for column in table.columns.values() if _words(column.name).endswith(_STATUS)]


def _column(table: Table) -> Choice[str]:
    found = _statuses(table)
    if len(found) == 1:
        return Choice(found[0].name)
    return Choice(None, f"{table.qualified} has {_listed(found) or 'no column'} named like a status")


def _becomes(table: Table, column: str | None) -> Choice[str]:
    if column is None:
        return Choice(None, "the status column is not known; name the value with --becomes")
    of = table.columns[column]
    known = of.labels or tuple(value for check in of.checks for value in re.findall(r"'((?:[^']|'')*)'", check))
    if known and _BECOMES not in known:
        return Choice(None, f"{column} is one of {', '.join(known)}; name one with --becomes")
    if not (of.is_text or of.category == "E"):
        return Choice(None, f"{column} is of type {of.type}, which has no {_BECOMES!r}; name its value with --becomes")
    return Choice(_BECOMES)


def _email(table: Table) -> str | None:
    texts = {_words(column.name): column.name for column in table.columns.values() if column.is_text}
    return next((texts[name] for name in _EMAIL if name in texts), None)


def _owners(table: Table) -> list[Field]:
    return [Field(via, email) for via in table.references if (email := _email(via.table))]


def _owner(table: Table) -> Choice[Field]:
    found = _owners(table)
    # A foreign key says more than a name.
    found = [field for field in found if field.via and field.via.declared] or found
    if len(found) > 1:
        found = _named(found, _OWNERS) or found
    if len(found) == 1:
        via = found[0].via
        return Choice(found[0], "" if via is None else _by_name(via))
    if not found and (email := _email(table)):
        return Choice(Field(None, email))
    if not found:
        return Choice(None, f"nothing that {table.qualified} refers to has a column {_either(_EMAIL)}")
    return Choice(None, f"it may be by {_either([', '.join(field.via.columns) for field in found if field.via])}")


def _named(fields: list[Field], names: tuple[str, ...]) -> list[Field]:
    """The one whose column is called like this; by the first name that finds one."""
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


def _consent(owner: Field | None, whose: Table | None) -> Choice[Field]:
    if owner is None or whose is None:
        return Choice(None, "the owner is not known")
    booleans = [column for column in whose.columns.values() if column.is_boolean]
    found = [column for column in booleans if _CONSENT.search(_words(column.name))]
    asked = [column for column in found if not _NO_CONSENT.search(_words(column.name))]
    if len(asked) == 1:
        return Choice(Field(owner.via, asked[0].name))
    if asked:
        return Choice(None, f"{whose.qualified} has {_listed(asked)}")
    hint = f"; {_listed(found)} may say something else" if found else ""
    return Choice(None, f"{whose.qualified} has no boolean named like a consent to notifications{hint}")


def _place(table: Table, owner: Field | None) -> Choice[Field]:
    if _PLACE[0] in table.columns:
        return Choice(Field(None, _PLACE[0]))
    others = [via for via in table.references if (owner is None or via is not owner.via) and not _email(via.table)]
    for name in _PLACE:
        fields = [Field(via, name) for via in others if name in via.table.columns]
        fields = (_named(fields, _PLACES) or fields) if len(fields) > 1 else fields
        if len(fields) == 1 and (via := fields[0].via):
            return Choice(fields[0], _by_name(via))
        if fields:
            return Choice(
                None, f"it may be {_either([f'{field.via.table.qualified}.{name}' for field in fields if field.via])}"
            )
    own = [table.columns[name] for name in _PLACE if name in table.columns]
    hint = f"; {table.qualified} itself has {_listed(own)}" if own else ""
    return Choice(None, f"no other table that {table.qualified} refers to has a column {_either(_PLACE)}{hint}")


def _words(name: str) -> str:
    """``emailOptIn`` and ``e-mail`` as email_opt_in and e_mail."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def _by_name(via: Reference) -> str:
    if via.declared:
        return ""
    return f"{', '.join(via.columns)} leads to {via.table.qualified} by its name only; there is no foreign key"


def _listed(columns: Iterable[Column]) -> str:
    return " and ".join(column.name for column in columns)


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
