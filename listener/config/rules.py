"""What to watch and what to send."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

DEFAULT_NAME = "dateplan_verified"
DEFAULT_LOOKUP = """\
SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])
"""
NAME = r'(?:[A-Za-z_\u0080-\U0010ffff][\w$]*|"(?:[^"\x00]|"")+")'
# What the daemon itself reads of a lookup's row; every other column is the template's.
OWN_COLUMNS = ("key", "current", "email", "consent")
# What is made for the template besides; no column may be called so.
MADE = ("link", "unsubscribe")
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Of `unsubscribe`: the application takes the tokens itself.
APPLICATION = "application"


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Rule(BaseModel):
    """One `[rules.NAME]` of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    # As SQL writes a name; it goes into queries as it stands.
    table: str = Field(pattern=rf"^{NAME}\.{NAME}$")
    """the table that is watched, with its schema"""
    key: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ("id",)
    """its primary key; of several columns `["a", "b"]`. Integer, numeric, text, uuid, enum or boolean"""
    column: str = "status"
    """the column that is watched"""
    becomes: str
    """the value it must come to"""
    capture: Literal["row", "statement"] = "row"
    """`statement`: one trigger call a statement instead of one a row, for tables changed by the thousand; see
    [dba.md](dba.md#per-row-or-per-statement)"""
    template: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """the folder of the mail's templates"""
    require: tuple[str, ...] = ()
    """columns of the lookup that must not be NULL, `["place"]`; else skipped, `incomplete`"""
    changed_at: str = ""
    """a timestamp column of the table that says when the watched column last changed, if there is one. Not one that every
    edit of a row sets: to `backfill`, a row that changed after its event has come back to the value unseen"""
    lookup: str
    """a query, see below"""
    link: str = ""
    """a path below `mail.base_url`, with columns of the lookup: `/dateplans/{key}`"""
    unsubscribe: str = ""
    """a statement that takes back the consent, or `application`, see below"""

    @field_validator("becomes", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("key")
    @classmethod
    def _key_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("names no column")
        return value

    @field_validator("link")
    @classmethod
    def _is_path(cls, value: str) -> str:
        bare = PLACEHOLDER.sub("x", value)
        if value and not re.fullmatch(r"/(?!/)[!#-;=?-Z_a-z~%&\[\]]{0,500}", bare):
            raise ValueError("write a path below mail.base_url, columns of the lookup in braces: /dateplans/{key}")
        return value

    @field_validator("lookup", "unsubscribe")
    @classmethod
    def _takes_keys(cls, value: str) -> str:
        if value in ("", APPLICATION):
            return value
        bare = value.replace("%%", "")
        if "%(keys)s" not in bare:
            raise ValueError("must take the keys of a batch: … = ANY (%(keys)s::bigint[])")
        if stray := re.search(r"%(?!\(keys\)[sbt])", bare):
            raise ValueError(f"write a literal % as %% (at character {stray.start()})")
        return value


def parse_key(rule: Rule, text: str) -> str:
    """The outbox's form of a key as people write it: ``7``, or ``a,b`` for a composite one.

    An array literal (``{a,b}``) is taken as it is, for values with commas in them.
    """
    if len(rule.key) == 1 or text.startswith("{"):
        return text
    parts = text.split(",")
    if len(parts) != len(rule.key):
        raise ValueError(
            f"the key of this rule has {len(rule.key)} columns: {','.join(rule.key)}; a value with a comma in it is "
            'written as in an array: {"a,b",c}'
        )
    return array_literal(parts)


def show_key(rule: Rule, key: str) -> str:
    """The inverse of `parse_key`, where nothing in the key needs quoting."""
    if len(rule.key) == 1 or re.search(r'["\\]', key):
        return key
    return key[1:-1]


def array_literal(parts: Iterable[str]) -> str:
    """As PostgreSQL writes a text[] (manual, 8.15.6): quoted only where it must be."""
    return "{" + ",".join(_element(part) for part in parts) + "}"


def _element(part: str) -> str:
    # PostgreSQL's own idea of white space, which is ASCII's.
    if part and part.upper() != "NULL" and not re.search(r'[{},"\\\s]', part, re.ASCII):
        return part
    return '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'


def default_rules() -> dict[str, Rule]:
    rule = Rule(
        table="public.dateplan",
        becomes="VE",
        template=DEFAULT_NAME,
        require=("place",),
        lookup=DEFAULT_LOOKUP,
    )
    return {DEFAULT_NAME: rule}
