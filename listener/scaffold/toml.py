"""Write an inference as `pgherald.toml`. Settings that could not be inferred are marked and keep the daemon from starting."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from listener.config.rules import SQL_NAME
from listener.printable import HIDDEN, printable
from listener.scaffold.catalog import Reference, Table
from listener.scaffold.inference import Choice, Inference, JoinedColumn

# No table has a column of this name, so `install` or `run` fails before an event is settled wrongly.
CHANGE_ME = "CHANGE_ME"
_QUOTED = f'"{CHANGE_ME}"'
# For keys of these types the driver's text equals the database's, which the outbox stores. Others are cast in SQL.
_PLAIN_KEYS = ("smallint", "integer", "bigint", "text", "character varying", "uuid")

_HEAD = """\
# Which rows pgherald watches and whom it notifies. Written by `pgherald init`; edit it as you like.
# Every key outside [rules] can also be set in the environment: as PGHERALD_SECTION_KEY, or as PGHERALD_SECTION_KEY_FILE,
# which names a file that holds the value.
"""
_SECTIONS = """
[database]
# url = "postgresql://pgherald@db.example.org/app"          # or PGHERALD_DATABASE_URL; default: libpq's PG* variables

[smtp]
# url = "smtp://user:secret@relay.example.org:587"          # or PGHERALD_SMTP_URL

[mail]
# from = "Date Plans <no-reply@example.org>"                # or PGHERALD_MAIL_FROM
{templates}# base_url = "https://app.example.org"                      # or PGHERALD_MAIL_BASE_URL; `link` is appended to it
"""
_TEMPLATES = "templates = {}    # seen from the folder where pgherald runs\n"
_REQUIRE = "{}    # if one of these columns is NULL, the event is skipped as incomplete\n"
_REST = """\
# link = "/…/{key}"    # a page of your application, appended to [mail] base_url; shown as a button
# changed_at = "…"     # the column with the time of the last change of status, for `pgherald backfill --since`
"""
_GRANT = """
# If the daemon has its own role (`pgherald install --create-roles`), let it read the tables of the lookup:
#   GRANT USAGE ON SCHEMA {schemas} TO pgherald_daemon;
#   GRANT SELECT ON {tables} TO pgherald_daemon;
"""


def write_toml(rule: Inference, templates: Path) -> str:
    """Return the configuration file for an inferred rule. `templates` is the folder for templates of the user's own."""
    lines = [_HEAD]
    if undecided := [name for name, _ in rule.undecided]:
        lines.append(f"#\n# NOT READY. Could not infer: {', '.join(undecided)}. Search for {CHANGE_ME}.\n")
    own = "" if rule.place is not None else _TEMPLATES.format(_string(str(templates)))
    lines += [
        _SECTIONS.replace("{templates}", own),
        f"\n[rules.{rule.name}]\n",
        f"table = {_string(rule.table.qualified)}\n",
    ]
    key = rule.key.value or (CHANGE_ME,)
    lines += _setting("key", _string(key[0]) if len(key) == 1 else f"[{', '.join(map(_string, key))}]", rule.key)
    lines += _setting("column", _string(rule.column.value or CHANGE_ME), rule.column)
    lines += _setting("becomes", _string(rule.becomes.value or CHANGE_ME), rule.becomes)
    if rule.capture != "row":
        lines.append(f"capture = {_string(rule.capture)}\n")
    lines.append(f"template = {_string(rule.name)}\n")
    lines.append(_REQUIRE.format('require = ["place"]' if rule.place is not None else '# require = ["…"]'))
    lines += [_REST, f'lookup = """\n{_escaped(_lookup(rule))}"""\n']
    tables = dict.fromkeys([rule.table.qualified, *(via.table.qualified for via in _joined(rule))])
    schemas = dict.fromkeys(found[0] for each in tables if (found := re.match(SQL_NAME, each)))
    lines.append(_GRANT.format(schemas=printable(", ".join(schemas)), tables=printable(", ".join(tables))))
    return "".join(lines)


def _setting(name: str, value: str, choice: Choice[Any]) -> list[str]:
    mark = f"{CHANGE_ME}: " if choice.value is None else ""
    comment = [f"# {mark}{_one_line(choice.why)}\n"] if choice.why else []
    return [*comment, f"{name} = {value}\n"]


def _lookup(rule: Inference) -> str:
    """Return the lookup. A comment stands above each column that could not be inferred or should be checked."""
    key = rule.key.value or (CHANGE_ME,)
    lines = [
        f"  SELECT {_key(rule.table, key)} AS key,",
        f"         d.{_column(rule.table, rule.column.value)} AS current,",
    ]
    for what, choice in (("email", rule.owner), ("consent", rule.consent), ("place", rule.place)):
        if choice is None:
            continue
        lines += [*_remark(what, choice), f"         {_field(rule, what, choice.value)} AS {what},"]
    lines[-1] = lines[-1].removesuffix(",")
    lines.append(f"    FROM {rule.table.qualified} AS d")
    if rule.owner.value is None:
        lines.append(f"    LEFT JOIN {_QUOTED} AS u ON u.{_QUOTED} = d.{_QUOTED}")
    for via in _joined(rule):
        alias = _alias(rule, via)
        pairs = zip(via.columns, via.target, strict=True)
        on = (f"{alias}.{_column(via.table, to)} = d.{_column(rule.table, of)}" for of, to in pairs)
        lines.append(f"    LEFT JOIN {via.table.qualified} AS {alias} ON {' AND '.join(on)}")
    lines.append(f"   WHERE {_match(rule.table, key)}\n")
    # psycopg reads % as the start of a parameter, in names and comments too.
    return "\n".join(lines).replace("%", "%%").replace("%%(keys)s", "%(keys)s")


def _remark(what: str, choice: Choice[JoinedColumn]) -> list[str]:
    if choice.value is None:
        return [f"         -- {CHANGE_ME}, {what}: {_one_line(choice.why)}"]
    return [f"         -- {_one_line(choice.why)}"] if choice.why else []


def _field(rule: Inference, what: str, field: JoinedColumn | None) -> str:
    if field is None:
        return f"{'d' if what == 'place' else 'u'}.{_QUOTED}"
    table = field.via.table if field.via is not None else rule.table
    return f"{_alias(rule, field.via)}.{_column(table, field.column)}"


def _alias(rule: Inference, via: Reference | None) -> str:
    if via is None:
        return "d"
    return "u" if rule.owner.value is not None and via is rule.owner.value.via else "p"


def _joined(rule: Inference) -> list[Reference]:
    fields = [choice.value for choice in (rule.owner, rule.place) if choice and choice.value is not None]
    return [field.via for field in fields if field.via is not None]


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


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _string(text: str) -> str:
    # A JSON string is a valid TOML string (toml.io, String), except for characters that `_show_hidden` escapes.
    return _show_hidden(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _show_hidden(text.replace("\\", "\\\\").replace('"""', '""\\"'))


def _show_hidden(text: str) -> str:
    r"""Escape invisible characters as ``\U0000202e``: a reader must see what the file says."""
    return HIDDEN.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
