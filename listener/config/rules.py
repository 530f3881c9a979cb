"""A rule: the table and the state to watch, and the email to send."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from listener.config.fields import CountOrOff, DoubtPolicy, DurationOrOff, Mailboxes, MailboxText
from listener.config.headers import Headers

# The rule that applies if the configuration has none, so that the demo and a first `pgherald install` need no file.
DEFAULT_NAME = "dateplan_verified"
DEFAULT_LOOKUP = """\
SELECT d.id AS key, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])
"""
# An identifier as SQL writes it (manual, 4.1.1), quoted or not.
SQL_NAME = r'(?:[A-Za-z_\u0080-\U0010ffff][\w$]*|"(?:[^"\x00]|"")+")'
# The columns that the daemon needs of a lookup. `language`, `from_name` and `reply_to` are read if they are there. All
# are variables of the template too.
OWN_COLUMNS = ("key", "email", "consent")
# A person's id is copied into events, links and logs.
MAX_PERSON_CHARS = 200
# Variables of the template that the daemon sets itself. A column of this name would hide one.
BUILT_IN_VARIABLES = ("link", "unsubscribe", "template_language")
# A column of the lookup in a rule's `link`.
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# The value of `unsubscribe` for which the application checks the tokens of the links, and not the daemon.
APPLICATION = "application"


_NEW = re.compile(r"\bnew\.", re.IGNORECASE)
_OLD = re.compile(r"\bold\.", re.IGNORECASE)


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _as_values(value: object) -> object:
    """Return the values of `becomes` as a tuple of texts."""
    if isinstance(value, list | tuple):
        return tuple(_as_value(each) for each in value)
    return value if isinstance(value, dict) or value is None else (_as_value(value),)


def _as_value(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _refuse_stray_percent(bare: str, parameters: str) -> None:
    """Check that each % of a query begins a parameter. `bare` is the query without %%, and `parameters` a pattern."""
    if stray := re.search(rf"%(?!{parameters})", bare):
        raise ValueError(f"has a single % at character {stray.start()}; write a literal % as %%")


class Rule(BaseModel):
    """One `[rules.NAME]` section. The string below a key is its description in docs/configuration.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True)

    # Checked here, because queries contain it as it is.
    table: str = Field(pattern=rf"^{SQL_NAME}\.{SQL_NAME}$")
    """the table to watch, with its schema"""
    key: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ("id",)
    """its primary key; several columns as `["a", "b"]`. Integer, numeric, text, uuid, enum or boolean"""
    column: str = "status"
    """the column to watch"""
    when: str = ""
    """instead of `column` and `becomes`: the state in SQL, as a condition on the row `new`; see
    [The state](#the-state)"""
    becomes: Annotated[tuple[str, ...], BeforeValidator(_as_values)] = Field((), validate_default=True)
    """the value that the column must reach, required without `when`; or several as `["a", "b"]`, and each change to one of
    them is news"""
    left: str = Field("", alias="from")
    """condition on the row `old`: only an UPDATE of a row for which it held is news. An INSERT never is"""
    changes: tuple[str, ...] = ()
    """columns such as `["eta"]`: while the row is in the state, a change of one of them is news again"""
    capture: Literal["row", "statement"] = "row"
    """`row`, or `statement`: one trigger call per statement instead of one per row, for tables where thousands of rows
    change at once; see [dba.md](dba.md#per-row-or-per-statement)"""
    template: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """folder of the email's templates"""
    share: int = Field(default=1, strict=True, ge=1, le=100)
    """weight of this rule while emails of several rules wait: with `2` it gets twice the sendings of a rule with `1`"""
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
    find: str = ""
    """SQL query for the rows of an address, so that `explain` and `forget` take `--email`; see
    [below](#find-a-row-by-an-address)"""
    from_address: MailboxText | None = None
    """name and address in the From header. Default: `mail.from`; see [below](#values-of-one-rule)"""
    reply_to: Mailboxes | None = None
    """address that answers go to, or several. Default: `mail.reply_to`"""
    headers: Headers | None = None
    """headers to add to the rule's emails, as a section `[rules.NAME.headers]`, beside those of `[mail.headers]`"""
    in_doubt: DoubtPolicy | None = None
    """`resend` or `hold`. Default: `delivery.in_doubt`"""
    max_attempts: CountOrOff = None
    """bound on the attempts, or `off`. Default: `delivery.max_attempts`"""
    max_age: DurationOrOff = None
    """an older event is skipped as `expired`; or `off`. Default: `delivery.max_age`"""
    again_after: DurationOrOff = None
    """a row's next email comes this long after the last, or not; or `off`. Default: `delivery.again_after`"""

    @field_validator("when")
    @classmethod
    def _reads_row(cls, value: str, info: ValidationInfo) -> str:
        if value and not _NEW.search(value):
            raise ValueError("names no column of the row; write new.COLUMN, such as new.status = 'sent'")
        if value and info.data.get("column", "status") != "status":
            raise ValueError("says the state, and so does `column`; remove one of them")
        return value

    @field_validator("becomes")
    @classmethod
    def _one_state(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("when"):
            raise ValueError("says the state, and so does `when`; remove one of them")
        if not value and info.data.get("when") == "":
            raise ValueError("is required")
        if len(set(value)) < len(value):
            raise ValueError("names a value twice; remove one of them")
        return value

    @field_validator("left")
    @classmethod
    def _reads_old_row(cls, value: str) -> str:
        if value and not _OLD.search(value):
            raise ValueError("names no column of the row before; write old.COLUMN, such as old.status = 'packed'")
        return value

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule names: those of its key, the watched one, and those of `changes`."""
        return (*self.key, *(() if self.when else (self.column,)), *self.changes)

    @property
    def state(self) -> str:
        """The state for a person to read, such as ``status = 'VE'``."""
        return self.when or f"{self.column} = {' or '.join(map(repr, self.becomes))}"

    @property
    def watching(self) -> str:
        """The table and the state, as the commands say what is watched."""
        if self.when:
            return f"{self.table} where {self.when}"
        return f"{self.table}.{self.column} for {' or '.join(map(repr, self.becomes))}"

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

    @field_validator("find")
    @classmethod
    def _takes_address(cls, value: str) -> str:
        bare = value.replace("%%", "")
        if value and "%(email)s" not in bare:
            raise ValueError("must take the address; write … WHERE lower(email) = lower(%(email)s)")
        _refuse_stray_percent(bare, r"\(email\)s")
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
        _refuse_stray_percent(bare, rf"\(({parameters})\)[sbt]")
        return value


def default_rules() -> dict[str, Rule]:
    """Return the built-in example rule. It applies if the configuration has no rule."""
    rule = Rule(
        table="public.dateplan",
        becomes=("VE",),
        template=DEFAULT_NAME,
        require=("place",),
        lookup=DEFAULT_LOOKUP,
    )
    return {DEFAULT_NAME: rule}
