"""The state that a rule waits for: a value of a status column, or else a condition on another column.

No value is guessed. The operator gives it, or chooses it from those that a CHECK, an enum or the rows show. Only the table
of the shipped example has a value of its own: that of the shipped rule.
"""

import re
from collections.abc import Sequence

from listener.config.placeholder import CHANGE_ME
from listener.scaffold.catalog import Column, Table
from listener.scaffold.consent import like_consent
from listener.scaffold.inference import Choice, State
from listener.scaffold.names import listed, words

# The value of the shipped rule.
SHIPPED_VALUE = "VE"
_STATUS = ("status", "state")
_STATE = re.compile(r"(?:ed|paid|sent|done|won|lost|ready|complete|open|shut|live)$")
# Booleans of such names say what a row is for, and not how far it has come.
_NO_STATE = re.compile(
    r"(?:delet|enabl|disabl|block|lock|requir|hidd|pinn|featur|need|shar|subscrib|limit)ed$|^re|open_to"
)
_MOMENT = re.compile(r"_(?:at|on|time|date)$")
# Times that every row has, or that lie in the future.
_NO_MOMENT = re.compile(
    r"^(?:creat|updat|modifi|chang|edit|insert|add|join|touch)|^last_|expire|delet|(?:^|_)(?:start|end|due|valid|birth)"
    r"|schedul|remind|until|seen|login"
)
_CHECKED = re.compile(r"= ANY \(+ARRAY\[((?:'(?:[^']|'')*'|[^'\]])*)\]|(?<![<>!])= ('(?:[^']|'')*'|-?\d+)")
_LITERAL = re.compile(r"'((?:[^']|'')*)'(?:::[a-z][a-z0-9 ]*)?|(-?\d+)")


def find_statuses(table: Table) -> list[Column]:
    """Return the column named like a status, or all of them if none is exactly `status` or `state`."""
    exact = [table.columns[name] for name in _STATUS if name in table.columns]
    return exact[:1] or [column for column in table.columns.values() if words(column.name).endswith(_STATUS)]


def find_conditions(table: Table) -> list[tuple[str, Column]]:
    """Return a condition for each column named like a state: a boolean, or a time that may be missing."""
    found = []
    asked = like_consent(table)
    for column in table.columns.values():
        name = words(column.name)
        if column.is_boolean and _STATE.search(name) and not _NO_STATE.search(name) and column not in asked:
            found.append((f"new.{column.quoted}", column))
        elif _is_moment(column) and column.nullable and _MOMENT.search(name) and not _NO_MOMENT.search(name):
            found.append((f"new.{column.quoted} IS NOT NULL", column))
    return found


def is_shipped(table: Table) -> bool:
    """Return whether the table is called like that of the shipped example."""
    return words(table.name).replace("_", "").rstrip("s").endswith("dateplan")


def known_values(column: Column) -> tuple[str, ...]:
    """Return the values that an enum or a CHECK allows; none if there is neither."""
    found = list(column.labels)
    for check in column.checks:
        # Such a CHECK lists the values that it forbids.
        if check.startswith("CHECK ((NOT"):
            continue
        for several, one in _CHECKED.findall(check):
            for text, number in _LITERAL.findall(several or one):
                if not number or column.is_integer:
                    found.append(number or text.replace("''", "'"))
    return tuple(dict.fromkeys(found))


def choose_state(table: Table, becomes: str | None, seen: Sequence[str] = ()) -> State:
    """Return the state. `becomes` is the value from the command line, if any, and `seen` the values of the rows."""
    statuses = find_statuses(table)
    if len(statuses) > 1:
        why = f"{table.qualified} has several columns named like a status: {listed(statuses)}"
        return State(Choice(None, why), _unknown(becomes))
    if not statuses:
        conditions = find_conditions(table)
        if becomes is not None or not conditions:
            return State(Choice(None, f"{table.qualified} has no column named like a status"), _unknown(becomes))
        return _condition(table, conditions)
    [status] = statuses
    if becomes is None and status.is_boolean:
        return _condition(table, [(f"new.{status.quoted}", status)])
    if becomes is None and status.is_integer:
        why = f"{status.name} is a number, {_options(status, seen)}; write one of them in the place of {CHANGE_ME}"
        return State(None, None, Choice(None, why), (f"new.{status.quoted} = {CHANGE_ME}",))
    return State(Choice(status.name), _becomes(table, status, becomes, seen))


def _condition(table: Table, conditions: Sequence[tuple[str, Column]]) -> State:
    if len(conditions) > 1:
        why = f"{table.qualified} has no status, and {listed(column for _, column in conditions)} may be its state"
        return State(None, None, Choice(None, why), tuple(text for text, _ in conditions))
    [(text, column)] = conditions
    name = re.sub(r"^(?:is|has|was)_", "", _MOMENT.sub("", words(column.name)))
    why = f"{column.name} is the only column of {table.qualified} that is named like a state; check it"
    changed_at = column.name if column.type.startswith("timestamp") else ""
    return State(None, None, Choice(text, why), (), name, changed_at)


def _unknown(becomes: str | None) -> Choice[str]:
    why = "the status column is not known; set the value with --becomes"
    return Choice(None, why) if becomes is None else Choice(becomes)


def _becomes(table: Table, column: Column, becomes: str | None, seen: Sequence[str]) -> Choice[str]:
    known = known_values(column)
    if becomes is not None:
        return Choice(becomes, f"{column.name} is {_options(column, ())}" if known and becomes not in known else "")
    texts = column.is_text or column.category == "E"
    if is_shipped(table) and texts and (SHIPPED_VALUE in known or not known):
        sure = SHIPPED_VALUE in (*known, *seen)
        why = f"{SHIPPED_VALUE!r} is the value of the shipped rule; no CHECK, enum or row confirms it"
        return Choice(SHIPPED_VALUE, "" if sure else why)
    return Choice(None, f"{column.name} is {_options(column, seen)}; choose one with --becomes")


def _options(column: Column, seen: Sequence[str]) -> str:
    """Return where the values are known from, and which there are, after ``x is``."""
    if known := known_values(column):
        return f"one of {', '.join(known)} ({'its type' if column.labels else 'its CHECK'})"
    if seen:
        return f"{', '.join(seen)} in the rows that were read, and no CHECK or enum says what else it may be"
    return "described by no CHECK or enum, and no row that this role can read has a value"


def _is_moment(column: Column) -> bool:
    return column.type in ("date", "timestamp without time zone", "timestamp with time zone")
