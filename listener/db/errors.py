"""Translation of psycopg's exceptions into this program's, with messages that an operator can act on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import psycopg
from psycopg import InterfaceError, InternalError, OperationalError, errors

from listener.errors import DatabaseUnavailable, RuleBroken, SchemaError, StatementTimeout

# A standby has not replayed what the primary has just committed, and takes no writes.
ON_STANDBY = "connected to a standby; waiting for it to be promoted, or for a primary in its place"
# How the text of each DatabaseUnavailable begins that has a cause of psycopg's.
UNAVAILABLE = "the database cannot be reached, or cannot serve"
# libpq's words when `target_session_attrs` refuses a standby. It has no code for that.
_LIBPQ_ON_STANDBY = "server is in hot standby mode"
# The remedy for commands that write more than the daemon's role may.
OWNER_REMEDY = "this is for the schema's owner: connect as a member of pgherald_owner that may read the watched table"
# These exceptions say that the server or the network failed, not the statement.
_UNAVAILABLE = (OperationalError, InterfaceError, InternalError, OSError)
# `lock_timeout` or `statement_timeout` is over, or the pool's patience. The database may be well all the same.
_TIMEOUTS = (errors.LockNotAvailable, errors.QueryCanceled, TimeoutError)
# Classes of SQLSTATE (PostgreSQL manual, appendix A) that one row can cause. Examples are a subquery with two rows, a
# constraint, a limit and a bad page. A function can raise others with a code of its own. The SQL standard leaves the
# classes from 5 to 9 and from I to Z to implementations.
_BY_DATA = re.compile("2[1237F]|3[89]|54|[6-9I-Z]")

# Parameters that libpq or psycopg cannot use. psycopg writes quotes as Python does.
_UNUSABLE = re.compile(r"""\b(resolve host |host name |network address |service |number: |value:? )("[^"]*"|'[^']*')""")
_URL = re.compile(r"""\b\w+://[^\s"']*""")


@contextmanager
def translate_errors(right: str = "`pgherald doctor` as this role names the GRANT") -> Iterator[None]:
    """Raise this program's exceptions in place of the driver's. No other place translates them.

    `right` is the remedy that the message names when a privilege is missing.

    Raises:
        SchemaError: An object or a privilege is missing, or a sequence is behind its table.
        DatabaseUnavailable: The server or the network failed.
    """
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName, errors.UndefinedColumn) as exc:
        if "pgherald." in str(exc) or 'schema "pgherald"' in str(exc):
            raise SchemaError(f"{summary(exc)}; run `pgherald install`") from exc
        raise SchemaError(summary(exc)) from exc
    except errors.InsufficientPrivilege as exc:
        if "row-level security" in str(exc):
            right = "see docs/dba.md, Row level security"
        raise SchemaError(f"{summary(exc)}; {right}") from exc
    except errors.UniqueViolation as exc:
        if exc.diag.schema_name == "pgherald" and (exc.diag.table_name or "").startswith("outbox"):
            # The outbox has one unique key, and its sequence gives it.
            raise SchemaError(
                f"the sequence of pgherald.outbox is behind: {summary(exc)}; run `pgherald install`"
            ) from exc
        raise
    except _UNAVAILABLE as exc:
        raise DatabaseUnavailable(f"{UNAVAILABLE}: {summary(exc)}") from exc


def is_unavailable(exc: BaseException) -> bool:
    """Return whether the server or the network failed, as opposed to the statement."""
    return isinstance(exc, _UNAVAILABLE)


def unavailable(text: str, exc: BaseException) -> DatabaseUnavailable:
    """Return the exception for a rule's statement that cannot run now. `exc` is one for which `is_unavailable` is true."""
    return StatementTimeout(text) if isinstance(exc, _TIMEOUTS) else DatabaseUnavailable(text)


def is_by_data(exc: BaseException) -> TypeGuard[psycopg.Error]:
    """Return whether one row may be the cause. The other errors belong to the query or to the server."""
    # The driver raises DataError too, without a SQLSTATE, for a value that Python cannot hold.
    return isinstance(exc, psycopg.DataError) or (
        isinstance(exc, psycopg.Error) and bool(_BY_DATA.match(exc.sqlstate or ""))
    )


def lookup_failure(rule: str, exc: psycopg.Error) -> RuleBroken:
    """Return the exception for a rule whose lookup query the server refuses."""
    return RuleBroken(f"the lookup of rule {rule} fails: {summary(exc)}")


def is_on_standby(exc: BaseException) -> bool:
    """Return whether libpq found no primary, but a standby."""
    return isinstance(exc, OperationalError) and _LIBPQ_ON_STANDBY in str(exc)


def summary(exc: BaseException) -> str:
    """Return the error on one line, without the excerpt of the query that the driver appends."""
    if is_on_standby(exc):
        return ON_STANDBY
    if isinstance(exc, psycopg.Error) and exc.diag.message_primary:
        return exc.diag.message_primary
    text = " ".join(str(exc).split()) or type(exc).__name__
    return _without_parameters(text) if isinstance(exc, OperationalError) else text


def _without_parameters(text: str) -> str:
    """Return a message of libpq or psycopg without the parts of the connection string that it quotes as unusable.

    They may be pieces of a password: libpq ends the password at the first @, and takes the rest for the host.
    """
    hidden = _UNUSABLE.sub(r"\1…", _URL.sub("…", text))
    return hidden if hidden == text else f"{hidden}; correct it, and write an @ in a password as %40"


def error_kind(exc: Exception) -> str:
    """Return the class and SQLSTATE of an error, without its text, which may quote the row."""
    state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
    return type(exc).__name__ + (f", SQLSTATE {state}" if state else "")
