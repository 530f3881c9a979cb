"""The tree of errors."""

import pytest

from listener import errors


@pytest.mark.parametrize("name", ["ConfigError", "SchemaError", "DatabaseUnavailable", "RuleBroken", "BadData"])
def test_every_error_ends_a_command_with_one_line(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.PgheraldError)
    assert f"── {name} " in (errors.__doc__ or "")


def test_bad_data_keeps_the_reason_apart_from_its_message() -> None:
    error = errors.BadData("bad_address", "the address has no @")
    assert (error.reason, str(error)) == ("bad_address", "the address has no @")
