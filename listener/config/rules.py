"""A rule: the table, column and value to watch, and the email to send."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

# The rule that applies if the configuration has none, so that the demo and a first `pgherald install` need no file.
DEFAULT_NAME = "dateplan_verified"
DEFAULT_LOOKUP = """\
SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])
"""
# An identifier as SQL writes it (manual, 4.1.1), quoted or not.
SQL_NAME = r'(?:[A-Za-z_\u0080-\U0010ffff][\w$]*|"(?:[^"\x00]|"")+")'
# The columns that the daemon needs of a lookup. `language`, `from_name` and `reply_to` are read if they are there. All
# are variables of the template too.
OWN_COLUMNS = ("key", "current", "email", "consent")
# A person's id is copied into events, links and logs.
MAX_PERSON_CHARS = 200
# Variables of the template that the daemon sets itself. A column of this name would hide one.
BUILT_IN_VARIABLES = ("link", "unsubscribe", "template_language")
# A column of the lookup in a rule's `link`.
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# The value of `unsubscribe` for which the application checks the tokens of the links, and not the daemon.
APPLICATION = "application"


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Rule(BaseModel):
    """One `[rules.NAME]` section. The string below a key is its description in docs/configuration.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Checked here, because queries contain it as it is.
    table: str = Field(pattern=rf"^{SQL_NAME}\.{SQL_NAME}$")
    """the table to watch, with its schema"""
    key: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ("id",)
    """its primary key; several columns as `["a", "b"]`. Integer, numeric, text, uuid, enum or boolean"""
    column: str = "status"
    """the column to watch"""
    becomes: str
    """the value that the column must reach"""
    capture: Literal["row", "statement"] = "row"
    """`row`, or `statement`: one trigger call per statement instead of one per row, for tables where thousands of rows
    change at once; see [dba.md](dba.md#per-row-or-per-statement)"""
    template: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """folder of the email's templates"""
    require: tuple[str, ...] = ()
    """columns of the lookup that must not be NULL, such as `["place"]`; otherwise the event is skipped as `incomplete`"""
    changed_at: str = ""
    """timestamp column that says when the watched column last changed, if the table has one. Do not name a column that
    every edit of a row updates: `backfill` reads a later time as a return to the value that no trigger saw"""
    each: str = Field("", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$")
    """column of the lookup that names the person, if each person of a row gets an email; see
    [several people](#several-people)"""
    lookup: str
    """SQL query for the recipients of a batch of rows, see below"""
    link: str = ""
    """path below `mail.base_url`, with columns of the lookup in braces: `/dateplans/{key}`"""
    unsubscribe: str = ""
    """SQL statement that withdraws consent, or `application`, see below"""
    bounced: str = ""
    """SQL statement that runs when an email bounced or its reader complained; see
    [bounces.md](bounces.md#the-statement-bounced)"""

    @field_validator("becomes", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("key")
    @classmethod
    def _key_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError('has no column name; write "id" or ["a", "b"]')
        return value

    @field_validator("link")
    @classmethod
    def _is_path(cls, value: str) -> str:
        bare = PLACEHOLDER.sub("x", value)
        if value and not re.fullmatch(r"/(?!/)[!#-;=?-Z_a-z~%&\[\]]{0,500}", bare):
            raise ValueError(
                "is not a path of at most 500 visible ASCII characters; "
                "write a path below mail.base_url, with columns of the lookup in braces: /dateplans/{key}"
            )
        return value

    @field_validator("each")
    @classmethod
    def _names_person(cls, value: str) -> str:
        if value in OWN_COLUMNS or value in BUILT_IN_VARIABLES:
            raise ValueError(
                f"{value} does not name a person; name a column of the lookup with an id of the person, such as person"
            )
        return value

    @field_validator("lookup", "unsubscribe", "bounced")
    @classmethod
    def _takes_keys(cls, value: str, info: ValidationInfo) -> str:
        if (value in ("", APPLICATION) and info.field_name != "bounced") or not value:
            return value
        bare = value.replace("%%", "")
        if "%(keys)s" not in bare:
            raise ValueError("must take the keys of a batch; write … = ANY (%(keys)s::bigint[])")
        each = bool(info.data.get("each"))
        parameters = "keys" + "|class" * (info.field_name == "bounced")
        if each and info.field_name != "lookup":
            # Without it, the link of one person would unsubscribe all people of the row.
            if "%(person)s" not in bare:
                raise ValueError("must take the person of a rule with `each`; write … AND user_id = %(person)s::bigint")
            parameters += "|person"
        elif "%(person)s" in bare:
            raise ValueError("takes a person, which only a rule with `each` has; set each, or take %(keys)s alone")
        if stray := re.search(rf"%(?!\(({parameters})\)[sbt])", bare):
            raise ValueError(f"has a single % at character {stray.start()}; write a literal % as %%")
        return value


def default_rules() -> dict[str, Rule]:
    """Return the built-in example rule. It applies if the configuration has no rule."""
    rule = Rule(
        table="public.dateplan",
        becomes="VE",
        template=DEFAULT_NAME,
        require=("place",),
        lookup=DEFAULT_LOOKUP,
    )
    return {DEFAULT_NAME: rule}
