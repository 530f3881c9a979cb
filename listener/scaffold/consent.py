"""Consent is never guessed: the owner's table has one boolean that is named unmistakably, or a person decides."""

import re
from collections.abc import Sequence

from listener.scaffold.catalog import Column, Table
from listener.scaffold.inference import Choice, JoinedColumn
from listener.scaffold.names import listed, words

_CONSENT = re.compile(r"notif|consent|subscri|e?mail|(?:^|_)opt(?:_?in|ed|_|$)")
# Booleans with such names that are about something else than wanting these emails, or mean the opposite.
_NO_CONSENT = re.compile(
    r"verif|confirm|valid|bounc|block|unsub|disab|mute|out(?:_|$)|(?:^|_)(?:no|not|dont)_"
    r"|sms|push|phone|marketing|newsletter|(?:^|_)sent|public|visible|hidden|hide"
)


def choose_consent(owner: JoinedColumn | None, table: Table | None, tables: Sequence[Table]) -> Choice[JoinedColumn]:
    """Return the column of the owner's `table` that says whether emails are wanted.

    If it has none, the reason names the columns of other `tables` about the owner, such as a profile.
    """
    if owner is None or table is None:
        return Choice(None, "the owner is not known")
    found = _like_consent(table)
    asked = _unmistakable(found)
    if len(asked) == 1:
        return Choice(JoinedColumn(owner.via, asked[0].name))
    if asked:
        return Choice(None, f"{table.qualified} has {listed(asked)}, and either may be the consent")
    hint = f"; {listed(found)} may mean something else" if found else ""
    for other in tables:
        if other is not table and any(via.table is table for via in other.references):
            hint += "".join(
                f"; {other.qualified} refers to it and has {each.name}: join that table if this is the consent"
                for each in _unmistakable(_like_consent(other))
            )
    return Choice(None, f"{table.qualified} has no boolean named like a consent to notifications{hint}")


def _like_consent(table: Table) -> list[Column]:
    return [each for each in table.columns.values() if each.is_boolean and _CONSENT.search(words(each.name))]


def _unmistakable(columns: list[Column]) -> list[Column]:
    return [each for each in columns if not _NO_CONSENT.search(words(each.name))]
