"""A `pgherald.toml` written from a guess: what could not be decided says so, where it stands, and stops the daemon."""

import json
from collections.abc import Sequence
from typing import Any

from listener.config.rules import DEFAULT_NAME
from listener.printable import HIDDEN, printable
from listener.scaffold.catalog import Reference, Table
from listener.scaffold.infer import Choice, Field, Inference

# No table has such a column: what is not decided fails at `install` or `run`, before an event is settled wrongly.
CHANGE_ME = "CHANGE_ME"
_QUOTED = f'"{CHANGE_ME}"'
# Of these, the driver's text is the same as the database's, by which the outbox knows a row.
_PLAIN_KEYS = ("smallint", "integer", "bigint", "text", "character varying", "uuid")

_HEAD = """\
# pgherald: what to watch and whom to tell. Written by `pgherald init`; yours from here on.
# Every key but the rules' can be set in the environment too, as PGHERALD_SECTION_KEY, or from a file, as PGHERALD_SECTION_KEY_FILE.
"""
_SECTIONS = """
[database]
# url = "postgresql://pgherald@db.example.org/app"          # PGHERALD_DATABASE_URL; else libpq's own PG* variables

[smtp]
# url = "smtp://user:secret@relay.example.org:587"          # PGHERALD_SMTP_URL

[mail]
# from = "Date Plans <no-reply@example.org>"                # PGHERALD_MAIL_FROM
# base_url = "https://app.example.org"                      # PGHERALD_MAIL_BASE_URL; where `link` leads
"""
_TEMPLATE = "    # speaks of date plans: write your own, in a folder that [mail] templates names"
_REST = """\
require = ["place"]    # NULL: no mail, the event is skipped as incomplete
# link = "/…/{key}"    # a page of the application, below [mail] base_url: the mail gets a button
# changed_at = "…"     # a column that says when the status last changed, for `pgherald backfill --since`
"""
_GRANT = """
# A daemon with a role of its own (`pgherald install --create-roles`) must be let read what the lookup reads:
#   GRANT SELECT ON {tables} TO pgherald_daemon;
"""


def write_toml(guess: Inference) -> str:
    lines = [_HEAD]
    if doubts := guess.doubts:
        lines.append(
            f"#\n# NOT READY. Could not decide: {', '.join(what for what, _ in doubts)}. Look for {CHANGE_ME}.\n"
        )
    lines += [_SECTIONS, f"\n[rules.{guess.name}]\n", f"table = {_string(guess.table.qualified)}\n"]
    key = guess.key.value or (CHANGE_ME,)
    lines += _setting("key", _string(key[0]) if len(key) == 1 else f"[{', '.join(map(_string, key))}]", guess.key)
    lines += _setting("column", _string(guess.column.value or CHANGE_ME), guess.column)
    lines += _setting("becomes", _string(guess.becomes.value or CHANGE_ME), guess.becomes)
    lines.append(f"template = {_string(DEFAULT_NAME)}{_TEMPLATE if guess.name != DEFAULT_NAME else ''}\n")
    lines += [_REST, f'lookup = """\n{_escaped(_lookup(guess))}"""\n']
    tables = dict.fromkeys([guess.table.qualified, *(via.table.qualified for via in _joined(guess))])
    lines.append(_GRANT.format(tables=printable(", ".join(tables))))
    return "".join(lines)


def _setting(name: str, value: str, choice: Choice[Any]) -> list[str]:
    doubt = [f"# {CHANGE_ME}: {_one_line(choice.why)}\n"] if choice.value is None else []
    return [*doubt, f"{name} = {value}\n"]


def _lookup(guess: Inference) -> str:
    """The set-based query. Above what could not be decided, or should be looked at, a comment says so."""
    key = guess.key.value or (CHANGE_ME,)
    lines = [
        f"  SELECT {_key(guess.table, key)} AS key,",
        f"         d.{_column(guess.table, guess.column.value)} AS current,",
    ]
    for what, choice in (("email", guess.owner), ("consent", guess.consent), ("place", guess.place)):
        lines += [*_remark(what, choice), f"         {_field(guess, what, choice.value)} AS {what},"]
    lines[-1] = lines[-1].removesuffix(",")
    lines.append(f"    FROM {guess.table.qualified} AS d")
    if guess.owner.value is None:
        lines.append(f"    LEFT JOIN {_QUOTED} AS u ON u.{_QUOTED} = d.{_QUOTED}")
    for via in _joined(guess):
        alias = _alias(guess, via)
        pairs = zip(via.columns, via.target, strict=True)
        on = (f"{alias}.{_column(via.table, to)} = d.{_column(guess.table, of)}" for of, to in pairs)
        lines.append(f"    LEFT JOIN {via.table.qualified} AS {alias} ON {' AND '.join(on)}")
    lines.append(f"   WHERE {_match(guess.table, key)}\n")
    # The driver takes % for a parameter's beginning, in names and comments too.
    return "\n".join(lines).replace("%", "%%").replace("%%(keys)s", "%(keys)s")


def _remark(what: str, choice: Choice[Field]) -> list[str]:
    if choice.value is None:
        return [f"         -- {CHANGE_ME}, {what}: {_one_line(choice.why)}"]
    return [f"         -- {_one_line(choice.why)}"] if choice.why else []


def _field(guess: Inference, what: str, field: Field | None) -> str:
    if field is None:
        return f"{'d' if what == 'place' else 'u'}.{_QUOTED}"
    table = field.via.table if field.via is not None else guess.table
    return f"{_alias(guess, field.via)}.{_column(table, field.column)}"


def _alias(guess: Inference, via: Reference | None) -> str:
    if via is None:
        return "d"
    return "u" if guess.owner.value is not None and via is guess.owner.value.via else "p"


def _joined(guess: Inference) -> list[Reference]:
    fields = [choice.value for choice in (guess.owner, guess.place) if choice.value is not None]
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
    # A JSON string is a TOML one (toml.io, String), but for characters that must be escaped or would not show.
    return _all_shown(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _all_shown(text.replace("\\", "\\\\").replace('"""', '""\\"'))


def _all_shown(text: str) -> str:
    r"""As TOML's ``\u202e``, what would make the file read as something else than it is."""
    return HIDDEN.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
