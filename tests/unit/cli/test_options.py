"""What options take."""

from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from listener.cli.options import MOMENT, RATE


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22 17:44", datetime(2026, 11, 22, 17, 44, tzinfo=UTC)),
        ("2026-11-22T17:44:45.25Z", datetime(2026, 11, 22, 17, 44, 45, 250_000, UTC)),
        ("2026-11-22T17:44:45+01:00", datetime(2026, 11, 22, 17, 44, 45, tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert MOMENT.convert(text, None, None) == moment


@pytest.mark.parametrize(("text", "rate"), [("5", 5.0), ("0.5", 0.5), ("50/s", 50.0)])
def test_rates(text: str, rate: float) -> None:
    assert RATE.convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["yesterday", "1700000000x", ""])
def test_no_moments(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time"):
        MOMENT.convert(text, None, None)


@pytest.mark.parametrize("text", ["0", "-1", "5/m", "nan"])
def test_no_rates(text: str) -> None:
    with pytest.raises(click.BadParameter):
        RATE.convert(text, None, None)
