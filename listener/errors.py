"""The errors of the program, as the code that calls must distinguish them.

PgheraldError             one `Error: …` line for the user, exit status 1
├── ConfigError           a key, a value or a rule is wrong; the message names its place
├── SchemaError           the database objects are missing, too old or too new
├── DatabaseUnavailable   the database cannot be reached, or cannot serve now; trying again may help
│   └── StatementTimeout  a rule's statement waited too long, most likely for a lock; other rules are not concerned
├── RuleBroken            a lookup or a template fails for every event of its rule, so the rule is suspended
└── BadData               one event's own data cannot be sent, so the event fails with a reason
"""


class PgheraldError(Exception):
    """Base of all errors. The message has the form ``<place>: <what is wrong>; <what to do>``."""


class ConfigError(PgheraldError):
    """The configuration is invalid."""


class SchemaError(PgheraldError):
    """The schema `pgherald` of the database does not fit this program or this configuration."""


class DatabaseUnavailable(PgheraldError):
    """PostgreSQL cannot be reached, or cannot serve now."""


class StatementTimeout(DatabaseUnavailable):
    """A statement of a rule took too long, most likely because somebody locks a table."""


class RuleBroken(PgheraldError):
    """A rule's lookup or template fails, whatever the row."""


class BadData(PgheraldError):
    """One row's data cannot be sent.

    Attributes:
        reason: the one word that the outbox keeps, such as `bad_address`. The message goes into the history.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
