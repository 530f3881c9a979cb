"""Consent is never guessed: one boolean about the owner is named unmistakably, or a person decides."""

import re
from collections.abc import Sequence

from listener.scaffold.catalog import Column, Table
from listener.scaffold.inference import About, Choice, JoinedColumn
from listener.scaffold.names import either, listed, words
from listener.scaffold.owner import doubt, find_about

_CONSENT = re.compile(r"notif|consent|subscri|e?mail|(?:^|_)opt(?:_?in|ed|_|$)")
# Booleans with such names that are about something else than wanting these emails, or mean the opposite.
_NO_CONSENT = re.compile(
    r"verif|confirm|valid|bounc|block|unsub|disab|mute|out(?:_|$)|(?:^|_)(?:no|not|dont)_"
    r"|sms|push|phone|marketing|newsletter|(?:^|_)sent|public|visible|hidden|hide"
)


def choose_consent(
    owner: JoinedColumn | None, table: Table | None, tables: Sequence[Table], watched: Table
) -> Choice[JoinedColumn]:
    """Return the column that says whether emails are wanted: of the owner's `table`, or of the one row about the owner.

    Without one, the reason names the columns of other `tables` about the owner. Those have several rows an owner.
    """
    if owner is None or table is None:
        return Choice(None, "the owner is not known")
    found = like_consent(table)
    asked: list[tuple[About | None, Column]] = [(None, each) for each in _unmistakable(found)]
    single = list(find_about(table, tables, watched))
    for about in single:
        asked += [(about, each) for each in _unmistakable(like_consent(about.table))]
    if len(asked) == 1:
        [(where, column)] = asked
        return Choice(JoinedColumn(owner.via, column.name, where), doubt(where.reference) if where else "")
    if asked and all(where is None for where, _ in asked):
        return Choice(None, f"{table.qualified} has {listed(each for _, each in asked)}, and either may be the consent")
    if asked:
        names = [f"{(where.table if where else table).qualified}.{each.name}" for where, each in asked]
        return Choice(None, f"the consent may be {either(names)}")
    hint = f"; {listed(found)} may mean something else" if found else ""
    for other in tables:
        if other is not table and other is not watched and any(via.table is table for via in other.references):
            hint += "".join(
                f"; {other.qualified} has {each.name}, and may have several rows that refer to it: join that table if this "
                "is the consent"
                for each in _unmistakable(like_consent(other))
            )
    return Choice(None, f"{table.qualified} has no boolean named like a consent to notifications{hint}")


def like_consent(table: Table) -> list[Column]:
    """Return the booleans that are named like a consent, or like something near it."""
    return [each for each in table.columns.values() if each.is_boolean and _CONSENT.search(words(each.name))]


def _unmistakable(columns: list[Column]) -> list[Column]:
    return [each for each in columns if not _NO_CONSENT.search(words(each.name))]
