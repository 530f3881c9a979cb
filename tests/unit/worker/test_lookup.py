"""A row becomes a decision, and a failing query is blamed on the row, the rule or the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock

import psycopg
import pytest
from psycopg import errors

from listener.config.rules import Rule, default_rules
from listener.errors import BadData, DatabaseUnavailable, RuleBroken
from listener.worker import lookup as module
from listener.worker.decision import NotToSend, ToSend
from listener.worker.lookup import Lookup
from listener.worker.lookup_result import LookupResult
from listener.worker.row_budget import MAX_ROW_BYTES, MAX_ROWS
from tests.support.events import event

COLUMNS = ["key", "current", "email", "consent", "place"]
ROW: dict[str, Any] = {
    "key": "1",
    "current": "VE",
    "email": "jane@example.org",
    "consent": True,
    "place": "Caf\u00e9",
}


def lookup(**changes: Any) -> Lookup:
    [(name, rule)] = default_rules().items()
    made = Lookup(name, Rule.model_validate({**rule.model_dump(exclude_unset=True), **changes}))
    made._columns, made._bounded = COLUMNS, "SELECT the row and its size"
    return made


def found(rows: list[dict[str, Any]], *, octets: int = 0, reverted: str = "") -> LookupResult:
    key = event().key
    return LookupResult({key: rows}, {key: octets}, reverted={key: reverted} if reverted else {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"email": None}, "no_recipient"),
        ({"email": "  "}, "no_recipient"),
        ({"consent": False}, "no_consent"),
        ({"consent": None}, "no_consent"),
        ({"consent": "true"}, "no_consent"),
        ({"consent": 1}, "no_consent"),
        ({"place": None}, "incomplete"),
        ({"place": ""}, None),
    ],
)
def test_a_row_is_sent_only_with_consent_and_all_that_the_email_needs(
    changes: dict[str, Any], reason: str | None
) -> None:
    """Only the boolean true is consent. Anything else that Python takes for true was not asked for as such."""
    decision = lookup().decide(event(), found([{**ROW, **changes}], octets=500))
    if reason is None:
        assert isinstance(decision, ToSend)
        assert (str(decision.recipient), decision.octets) == ("jane@example.org", 500)
    else:
        assert isinstance(decision, NotToSend)
        assert (decision.reason, decision.failed) == (reason, False)


@pytest.mark.parametrize(
    ("rows", "reason", "failed"),
    [
        ([], "row_gone", False),
        ([ROW, ROW], "ambiguous", True),
        ([{**ROW, "email": "not an address"}], "bad_address", True),
    ],
)
def test_a_row_that_is_missing_or_wrong(rows: list[dict[str, Any]], reason: str, failed: bool) -> None:
    """Nobody can say which of two recipients is meant, so neither gets the email."""
    decision = lookup().decide(event(), found(rows))
    assert isinstance(decision, NotToSend)
    assert (decision.reason, decision.failed) == (reason, failed)


@pytest.mark.parametrize(("answer", "shown"), [("fAP", "AP"), ("n", "NULL"), ("f", ""), ("fnull", "null")])
def test_a_row_that_has_left_the_value_is_not_sent(answer: str, shown: str) -> None:
    """The server has compared, by the column's own type. The detail shows what it is now."""
    decision = lookup().decide(event(), found([ROW], reverted=lookup()._present(answer)))
    assert isinstance(decision, NotToSend)
    assert (decision.reason, decision.detail) == ("reverted", f"status is now {shown}")


def test_a_row_that_no_longer_matches_a_condition_is_not_sent() -> None:
    made = lookup(column="status", becomes=[], when="new.total > 1")
    decision = made.decide(event(), found([ROW], reverted=made._present("f")))
    assert isinstance(decision, NotToSend)
    assert (decision.reason, decision.detail) == ("reverted", "the row no longer matches `when`")


def test_a_row_that_is_not_in_the_rules_table_is_gone() -> None:
    answer = LookupResult({event().key: [ROW]}, gone={event().key})
    decision = lookup().decide(event(), answer)
    assert isinstance(decision, NotToSend)
    assert (decision.reason, decision.failed) == ("row_gone", False)


class Custom(psycopg.DatabaseError):
    """What a function raises with a code of its own: RAISE … USING ERRCODE = 'U0001'."""

    sqlstate = "U0001"


class FakePool:
    """One connection whose query returns `rows` or raises `error`, also without a key if it is `constant`."""

    def __init__(
        self, rows: list[tuple[Any, ...]] | None = None, error: Exception | None = None, *, constant: bool = False
    ) -> None:
        self.values: dict[str, Any] = {}
        self._rows = rows or [(False, *NOTHING)]
        self._error = error
        self._constant = constant

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["FakePool"]:
        yield self

    def cursor(self, **_: Any) -> "FakePool":
        return self

    async def __aenter__(self) -> "FakePool":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, query: str, values: dict[str, Any] | None = None, *, prepare: bool = True) -> None:
        if values is None:
            return
        self.values = values
        if self._error is not None and (values["keys"] or self._constant):
            raise self._error

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


@pytest.fixture(autouse=True)
def no_row_security(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is not found makes the lookup read the catalog, which the fake session does not have."""
    monkeypatch.setattr(module, "require_visible_rows", AsyncMock())


def answer(key: object, octets: int = 100, *, given: bool = True) -> tuple[Any, ...]:
    return (False, True, octets, given, "t", key, "VE", "jane@example.org", True, "Caf\u00e9")


# The rest of the only row if the lookup finds none.
NOTHING = (True, *[None] * 8)


class StandbySession(FakePool):
    """A session that leads to a standby, and its cursor at the same time."""

    closed = False

    @property
    def connection(self) -> Any:
        """For the pool, a function that lends a session; for the cursor, its session."""
        session = self

        class Lent:
            def __call__(self) -> Any:
                return session

            async def close(self) -> None:
                session.closed = True

        return Lent()


async def test_on_a_standby_nothing_is_decided_and_the_session_ends() -> None:
    """The standby may not have the row yet. The next session may lead to the primary."""
    pool: Any = StandbySession([(True, *NOTHING)])
    with pytest.raises(DatabaseUnavailable, match="standby, which may not have the row yet"):
        await lookup().rows(pool, ["1"])
    assert pool.closed


async def test_a_lookup_without_a_row_on_the_primary_finds_nothing() -> None:
    pool: Any = FakePool([(False, *NOTHING)])
    assert (await lookup().rows(pool, ["1"])).rows == {"1": []}


@pytest.mark.parametrize(
    ("key", "returned"),
    [
        ("7", 7),
        ("7.50", Decimal("7.50")),
        ("100", Decimal("1E+2")),
        ("true", True),
        ("ab", "ab  "),
        ("{7,ab}", [7, "ab"]),
    ],
    ids=["integer", "numeric", "exponent", "boolean", "char(n)", "two columns"],
)
async def test_a_row_is_found_under_the_key_that_the_trigger_captured(key: str, returned: object) -> None:
    """Otherwise its event is skipped as `row_gone`, and nobody gets the email."""
    rows = (await lookup().rows(FakePool([answer(returned)]), [key])).rows  # type: ignore[arg-type]
    assert [row["email"] for row in rows[key]] == ["jane@example.org"]


async def test_a_row_that_was_not_given_is_too_large_or_comes_later() -> None:
    rows = [answer("1"), answer("2", MAX_ROW_BYTES + 1, given=False), answer("3", MAX_ROW_BYTES, given=False)]
    pool = FakePool(rows)
    result = await lookup().rows(pool, ["1", "2", "3", "4"], 5000)  # type: ignore[arg-type]
    assert (pool.values["keys"], pool.values["budget"]) == (["1", "2", "3", "4"], 5000)
    assert (result.too_large, result.later) == ({"2": MAX_ROW_BYTES + 1}, {"3"})
    assert (len(result.rows["1"]), result.rows["4"], result.octets["1"]) == (1, [], 100)


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (errors.DivisionByZero("1 / 0 of jane"), BadData, "DivisionByZero (SQLSTATE 22012)"),
        (errors.InvalidTextRepresentation("jane"), BadData, "InvalidTextRepresentation (SQLSTATE 22P02)"),
        (errors.ProgramLimitExceeded("jane"), BadData, "ProgramLimitExceeded (SQLSTATE 54000)"),
        (errors.DataCorrupted("jane"), BadData, "DataCorrupted (SQLSTATE XX001)"),
        (psycopg.DataError("timestamp too large: jane"), BadData, "DataError (SQLSTATE None)"),
        (errors.CardinalityViolation("jane"), BadData, "CardinalityViolation (SQLSTATE 21000)"),
        (errors.CheckViolation("jane"), BadData, "CheckViolation (SQLSTATE 23514)"),
        (errors.RaiseException("jane"), BadData, "RaiseException (SQLSTATE P0001)"),
        (errors.AssertFailure("jane"), BadData, "AssertFailure (SQLSTATE P0004)"),
        (Custom("jane"), BadData, "Custom (SQLSTATE U0001)"),
        (UnicodeDecodeError("utf-8", b"jane", 0, 1, "bad"), BadData, "a value cannot be read (UnicodeDecodeError)"),
        (NotImplementedError("jane"), BadData, "a value cannot be read (NotImplementedError)"),
        (errors.UndefinedColumn("no column x"), RuleBroken, "no column x"),
        (errors.InsufficientPrivilege("no right"), RuleBroken, "no right"),
        (psycopg.OperationalError("gone"), DatabaseUnavailable, "gone"),
        (errors.AdminShutdown("stops"), DatabaseUnavailable, "stops"),
        (TimeoutError("no answer"), DatabaseUnavailable, "no answer"),
        (OSError("unreachable"), DatabaseUnavailable, "unreachable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_failing_query_has_one_culprit(error: Exception, raised: type[Exception], text: str) -> None:
    """A row fails its event, a rule is suspended, and for the database every event waits. No message quotes the row."""
    with pytest.raises(raised) as caught:
        await lookup().rows(FakePool(error=error, constant=raised is RuleBroken), ["1"])  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert "jane" not in str(caught.value)


async def test_a_query_that_fails_without_a_key_too_suspends_its_rule() -> None:
    """A constant that divides by zero, for example. It would fail every event."""
    pool: Any = FakePool(error=errors.DivisionByZero("division by zero"), constant=True)
    with pytest.raises(BadData):
        await lookup().rows(pool, ["1", "2"])
    with pytest.raises(RuleBroken, match="division by zero"):
        await lookup().rows(pool, ["1"])


@pytest.mark.parametrize("keys", [["1"], ["1", "2"]])
async def test_a_lookup_that_multiplies_its_rows_is_cut(keys: list[str]) -> None:
    """With two keys the batch is halved until the culprit is alone. Its own event then fails as ambiguous."""
    pool: Any = FakePool([answer("1")] * (MAX_ROWS + 1))
    if len(keys) > 1:
        with pytest.raises(BadData, match=f"more than {MAX_ROWS} rows"):
            await lookup().rows(pool, keys)
    else:
        decision = lookup().decide(event(key="1"), await lookup().rows(pool, keys))
        assert isinstance(decision, NotToSend)
        assert decision.reason == "ambiguous"


async def test_a_value_that_its_type_no_longer_has_suspends_the_rule() -> None:
    """An enum's value was renamed. Every row would count as reverted, and its email would be lost."""
    pool: Any = FakePool([(False, False, *[None] * 8)])
    with pytest.raises(
        RuleBroken, match=r"'VE' is no value of .*; set `becomes` .* `pgherald rewatch dateplan_verified`"
    ):
        await lookup().rows(pool, ["1"])
