"""What can go wrong, as the code that calls distinguishes it.

PgheraldError             one `Error: …` line for the user, exit status 1
├── ConfigError           a key, a value or a rule is wrong; names its place
├── SchemaError           the database objects are missing, too old or too new
├── DatabaseUnavailable   cannot be reached, or cannot serve now; worth trying again
├── RuleBroken            a lookup or a template fails for every event of its rule: the rule is held
└── BadData               one event's own data cannot be mailed: that event fails, with a reason
"""


class PgheraldError(Exception):
    """Says what happened, to which thing, and what to do."""


class ConfigError(PgheraldError):
    pass


class SchemaError(PgheraldError):
    pass


class DatabaseUnavailable(PgheraldError):
    pass


class RuleBroken(PgheraldError):
    pass


class BadData(PgheraldError):
    """`reason` is the one word that the outbox keeps; the message goes in the history."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
