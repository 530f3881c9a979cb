"""Write an inference as `pgherald.toml`. Settings that could not be inferred are marked and keep the daemon from starting."""

import json
import re
from pathlib import Path
from typing import Any

from listener.config.placeholder import CHANGE_ME
from listener.config.rules import SQL_NAME
from listener.printable import HIDDEN, printable
from listener.scaffold.inference import Choice, Inference, State
from listener.scaffold.names import one_line
from listener.scaffold.sql_text import RuleSql

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
_LINK = '# link = "/…/{key}"    # a page of your application, appended to [mail] base_url; shown as a button\n'
_CHANGED_AT = """\
# changed_at = "…"     # the column with the time of the last change of status, for `pgherald backfill --since`
"""
_FIND = "# The keys of an address, for `pgherald explain --email` and `pgherald forget --email`.\n"
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
    lines += _setting("key", _strings(key), rule.key)
    lines += _state(rule.state)
    if rule.state.left:
        lines.append(f"from = {_string(rule.state.left)}\n")
    if rule.state.changes:
        lines.append(f"changes = [{', '.join(map(_string, rule.state.changes))}]\n")
    if rule.capture != "row":
        lines.append(f"capture = {_string(rule.capture)}\n")
    lines.append(f"template = {_string(rule.name)}\n")
    lines.append(_REQUIRE.format('require = ["place"]' if rule.place is not None else '# require = ["…"]'))
    changed_at = rule.state.changed_at
    lines += [_LINK, f"changed_at = {_string(changed_at)}\n" if changed_at else _CHANGED_AT]
    statements = RuleSql(rule)
    lines.append(f'lookup = """\n{_escaped(statements.lookup())}"""\n')
    lines.append(f'{_FIND}find = """\n{_escaped(statements.find())}"""\n')
    tables = dict.fromkeys(table.qualified for table in statements.tables)
    schemas = dict.fromkeys(found[0] for each in tables if (found := re.match(SQL_NAME, each)))
    lines.append(_GRANT.format(schemas=printable(", ".join(schemas)), tables=printable(", ".join(tables))))
    return "".join(lines)


def _setting(name: str, value: str, choice: Choice[Any]) -> list[str]:
    mark = f"{CHANGE_ME}: " if choice.value is None else ""
    comment = [f"# {mark}{one_line(choice.why)}\n"] if choice.why else []
    return [*comment, f"{name} = {value}\n"]


def _state(state: State) -> list[str]:
    """Return the lines of the state. Conditions to choose from stand in comments above the one to complete."""
    if state.when is None:
        lines = (
            [] if state.column is None else _setting("column", _string(state.column.value or CHANGE_ME), state.column)
        )
        becomes = state.becomes or Choice(None)
        return [*lines, *_setting("becomes", _strings((becomes.value or CHANGE_ME, *state.more)), becomes)]
    when, choices = state.when.value or CHANGE_ME, list(state.conditions)
    if state.when.value is None and len(choices) == 1:
        when = choices.pop()
    [*remark, line] = _setting("when", _string(when), state.when)
    return [*remark, *(f"# when = {_string(each)}\n" for each in choices), line]


def _strings(texts: tuple[str, ...]) -> str:
    """Return one string, or several as an array."""
    return _string(texts[0]) if len(texts) == 1 else f"[{', '.join(map(_string, texts))}]"


def _string(text: str) -> str:
    # A JSON string is a valid TOML string (toml.io, String), except for characters that `_show_hidden` escapes.
    return _show_hidden(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _show_hidden(text.replace("\\", "\\\\").replace('"""', '""\\"'))


def _show_hidden(text: str) -> str:
    r"""Escape invisible characters as ``\U0000202e``: a reader must see what the file says."""
    return HIDDEN.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
