"""The driver's exceptions become ours, with a remedy and without the query or the row."""

import psycopg
import pytest
from psycopg import errors

from listener.db.errors import is_unavailable, lookup_failure, summary, translate_errors
from listener.errors import DatabaseUnavailable, SchemaError

CASES: list[tuple[Exception, type[Exception], str]] = [
    (errors.UndefinedTable('relation "app.x" does not exist'), SchemaError, 'relation "app.x" does not exist$'),
    (errors.UndefinedTable('relation "pgherald.outbox" does not exist'), SchemaError, "; run `pgherald install`$"),
    (errors.InvalidSchemaName('schema "pgherald" does not exist'), SchemaError, "; run `pgherald install`$"),
    (
        errors.UndefinedFunction("function pgherald.shown(text) does not exist"),
        SchemaError,
        "; run `pgherald install`$",
    ),
    (
        errors.InsufficientPrivilege("permission denied for table users"),
        SchemaError,
        "; `pgherald doctor` as this role names the GRANT$",
    ),
    (errors.InsufficientPrivilege("query would be affected by row-level security policy"), SchemaError, "docs/dba.md"),
    (psycopg.OperationalError("connection refused"), DatabaseUnavailable, "connection refused$"),
    (psycopg.InterfaceError("the connection is closed"), DatabaseUnavailable, "the connection is closed$"),
    (errors.AdminShutdown("terminating connection"), DatabaseUnavailable, "terminating connection$"),
    (TimeoutError("no answer within 5 s"), DatabaseUnavailable, "no answer within 5 s$"),
]


@pytest.mark.parametrize(("raised", "expected", "message"), CASES)
def test_translation(raised: Exception, expected: type[Exception], message: str) -> None:
    with pytest.raises(expected, match=message) as caught, translate_errors():
        raise raised
    assert caught.value.__cause__ is raised
    assert is_unavailable(raised) == (expected is DatabaseUnavailable)


def test_the_remedy_for_a_missing_privilege_is_the_callers() -> None:
    with pytest.raises(SchemaError, match=r"; ask the owner$"), translate_errors("ask the owner"):
        raise errors.InsufficientPrivilege("permission denied")


def test_an_error_of_the_statement_passes() -> None:
    with pytest.raises(errors.UniqueViolation), translate_errors():
        raise errors.UniqueViolation("duplicate key")
    assert not is_unavailable(errors.UniqueViolation("duplicate key"))


def test_a_summary_is_one_line() -> None:
    assert summary(psycopg.OperationalError("a\n  b\tc")) == "a b c"
    assert summary(TimeoutError()) == "TimeoutError"
    assert str(lookup_failure("paid", errors.SyntaxError("at\nend"))) == "the lookup of rule paid fails: at end"


@pytest.mark.parametrize(
    "text",
    [
        "failed to resolve host 'MARK@h': [Errno -2] Name or service not known",
        'could not translate host name "MARK@h" to address: Name or service not known',
        'connection is bad: invalid sslmode value: "MARK"',
        'invalid integer value "MARK" for connection option "keepalives_idle"',
        'connection is bad: definition of service "MARK" not found',
        'could not parse network address "MARK": Name or service not known',
        'FATAL: database "postgresql://u:p@MARK@h/d" does not exist',
    ],
)
def test_no_part_of_a_connection_string_that_cannot_be_used(text: str) -> None:
    said = summary(psycopg.OperationalError(text))
    assert "MARK" not in said
    assert said.endswith("; correct it, and write an @ in a password as %40")


@pytest.mark.parametrize(
    "text",
    [
        'connection to server at "db.example.org" (192.0.2.1), port 5432 failed: Connection refused',
        'connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: No such file or directory',
        'FATAL: password authentication failed for user "herald"',
        "failures were: - host: 'db.example.org', port: '5432'",
    ],
)
def test_a_place_that_was_reached_is_named(text: str) -> None:
    assert summary(psycopg.OperationalError(text)) == text
