"""The queries of an inferred rule: `lookup`, and `find`, which leads from an address back to the keys."""

from collections.abc import Sequence

from listener.config.placeholder import CHANGE_ME
from listener.scaffold.catalog import Reference, Table
from listener.scaffold.inference import About, Choice, Inference, JoinedColumn
from listener.scaffold.names import one_line

_QUOTED = f'"{CHANGE_ME}"'
# For keys of these types the driver's text equals the database's, which the outbox stores. Others are cast in SQL.
_PLAIN_KEYS = ("smallint", "integer", "bigint", "text", "character varying", "uuid")


class RuleSql:
    """Writes the queries of one rule.

    Their aliases: `d` the watched row, `u` the owner, `p` the place, `e` and `c` the rows about the owner that have the
    address and the consent.
    """

    def __init__(self, rule: Inference) -> None:
        self._rule = rule
        self._key = rule.key.value or (CHANGE_ME,)
        self._owner = rule.owner.value

    @property
    def tables(self) -> list[Table]:
        """Return the tables that the queries read."""
        fields = [choice.value for choice in self._choices() if choice.value is not None]
        vias = [field.via.table for field in fields if field.via is not None]
        return [self._rule.table, *vias, *(field.about.table for field in fields if field.about is not None)]

    def lookup(self) -> str:
        """Return the lookup. A comment stands above each column that could not be inferred or should be checked."""
        rule, state = self._rule, self._rule.state
        lines = [f"  SELECT {_key(rule.table, self._key)} AS key,"]
        if state.column is not None:
            lines.append(f"         d.{_column(rule.table, state.column.value)} AS current,")
        for what, choice in (("email", rule.owner), ("consent", rule.consent), ("place", rule.place)):
            if choice is not None:
                lines += [*_remark(what, choice), f"         {self._field(what, choice.value)} AS {what},"]
        lines[-1] = lines[-1].removesuffix(",")
        lines.append(f"    FROM {rule.table.qualified} AS d")
        lines += [f"    LEFT JOIN {join}" for join in self._joins(self._choices())]
        lines.append(f"   WHERE {_match(rule.table, self._key)}\n")
        return _escaped("\n".join(lines), "keys")

    def find(self) -> str:
        """Return the query for the keys of the rows whose owner has the address ``%(email)s``, in any case of letters."""
        rule = self._rule
        lines = [f"  SELECT {_key(rule.table, self._key)} AS key", f"    FROM {rule.table.qualified} AS d"]
        lines += [f"    JOIN {join}" for join in self._joins([rule.owner])]
        lines.append(f"   WHERE lower({self._field('email', self._owner)}) = lower(%(email)s::text)\n")
        return _escaped("\n".join(lines), "email")

    def _choices(self) -> list[Choice[JoinedColumn]]:
        rule = self._rule
        return [choice for choice in (rule.owner, rule.consent, rule.place) if choice is not None]

    def _joins(self, choices: Sequence[Choice[JoinedColumn]]) -> list[str]:
        rule = self._rule
        found = [] if self._owner is not None else [f"{_QUOTED} AS u ON u.{_QUOTED} = d.{_QUOTED}"]
        for field in (choice.value for choice in choices if choice.value is not None):
            if (via := field.via) is not None:
                alias, pairs = self._alias(via), zip(via.columns, via.target, strict=True)
                on = (f"{alias}.{_column(via.table, to)} = d.{_column(rule.table, of)}" for of, to in pairs)
                found.append(f"{via.table.qualified} AS {alias} ON {' AND '.join(on)}")
            if (about := field.about) is not None:
                found.append(self._join_about(about, field.via))
        return list(dict.fromkeys(found))

    def _join_about(self, about: About, via: Reference | None) -> str:
        alias, owner, to = self._about_alias(about), self._alias(via), about.reference
        target = via.table if via is not None else self._rule.table
        pairs = zip(to.columns, to.target, strict=True)
        on = [f"{alias}.{_column(about.table, of)} = {owner}.{_column(target, column)}" for of, column in pairs]
        on += [f"{alias}.{_column(about.table, name)}" for name in about.only]
        return f"{about.table.qualified} AS {alias} ON {' AND '.join(on)}"

    def _field(self, what: str, field: JoinedColumn | None) -> str:
        if field is None:
            return f"{'d' if what == 'place' else 'u'}.{_QUOTED}"
        if field.about is not None:
            return f"{self._about_alias(field.about)}.{_column(field.about.table, field.column)}"
        table = field.via.table if field.via is not None else self._rule.table
        return f"{self._alias(field.via)}.{_column(table, field.column)}"

    def _alias(self, via: Reference | None) -> str:
        if via is None:
            return "d"
        return "u" if self._owner is not None and via is self._owner.via else "p"

    def _about_alias(self, about: About) -> str:
        address = self._owner.about if self._owner is not None else None
        return "e" if address is not None and about.reference is address.reference else "c"


def _remark(what: str, choice: Choice[JoinedColumn]) -> list[str]:
    if choice.value is None:
        return [f"         -- {CHANGE_ME}, {what}: {one_line(choice.why)}"]
    return [f"         -- {one_line(choice.why)}"] if choice.why else []


def _escaped(text: str, parameter: str) -> str:
    """Return SQL in which psycopg reads one parameter. It reads % as the start of one, in names and comments too."""
    return text.replace("%", "%%").replace(f"%%({parameter})s", f"%({parameter})s")


def _key(table: Table, key: Sequence[str]) -> str:
    if len(key) == 1:
        plain = key[0] not in table.columns or table.columns[key[0]].type in _PLAIN_KEYS
        return f"d.{_column(table, key[0])}" + ("" if plain else "::text")
    return f"ARRAY[{', '.join(f'd.{_column(table, part)}::text' for part in key)}]"


def _match(table: Table, key: Sequence[str]) -> str:
    types = [table.columns[part].type if part in table.columns else "bigint" for part in key]
    if len(key) == 1:
        return f"d.{_column(table, key[0])} = ANY (%(keys)s::{types[0]}[])"
    left = ", ".join(f"d.{_column(table, part)}" for part in key)
    right = ", ".join(f"(k::text[])[{i}]::{type}" for i, type in enumerate(types, 1))
    return f"({left}) IN (SELECT {right} FROM unnest(%(keys)s::text[]) AS k)"  # noqa: S608 - into a file, for people to read


def _column(table: Table, name: str | None) -> str:
    return table.columns[name].quoted if name is not None and name in table.columns else _QUOTED
