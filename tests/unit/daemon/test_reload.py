"""A reload swaps the whole runtime, or leaves the one in use as it is and says why."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import structlog

from listener.config.settings import Settings
from listener.daemon import reload as module
from listener.daemon.reload import Reloader, warn_if_restricted
from listener.db import schema
from listener.db.schema_version import VERSION
from listener.errors import ConfigError, PgheraldError, RuleBroken, SchemaError
from listener.smtp.breaker import Breaker
from listener.smtp.replies import Scope
from listener.worker.delivery import Delivery
from listener.worker.suspensions import Suspensions
from tests.support import PATIENCE


class FakeDatabase:
    """The database as a reload sees it. Each error is raised where the real one is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unreachable: Exception | None = None
        self.schema_error: Exception | None = None
        self.rule_error: Exception | None = None
        self.version = SimpleNamespace(is_newer=False, number=VERSION)
        monkeypatch.setattr(module, "connect_async", self._connect)
        monkeypatch.setattr(schema, "verify", self._verify)
        monkeypatch.setattr(schema, "secret", self._secret)
        monkeypatch.setattr(Delivery, "check", self._check)

    async def __aenter__(self) -> "FakeDatabase":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def _connect(self, url: str) -> "FakeDatabase":
        if self.unreachable is not None:
            raise self.unreachable
        return self

    async def _verify(self, *_: Any) -> Any:
        if self.schema_error is not None:
            raise self.schema_error
        return self.version

    async def _secret(self, conn: Any) -> bytes:
        return b"s" * 32

    async def _check(self, *_: Any) -> None:
        if self.rule_error is not None:
            raise self.rule_error


class FakeWorker:
    """A worker whose transport notes the runtime that is in use when it is closed."""

    def __init__(self) -> None:
        self.closed_under: list[Any] = []
        self.suspensions = Suspensions()
        self.first = self.runtime = SimpleNamespace(transport=self, delivery=self)

    async def close(self) -> None:
        self.closed_under.append(self.runtime)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    return FakeDatabase(monkeypatch)


def settings(**smtp: Any) -> Settings:
    made = Settings()
    return made.model_copy(update={"smtp": made.smtp.model_copy(update=smtp)})


def reloader(read: Callable[[], Settings] | None = None) -> Reloader:
    return Reloader(settings(), read, Breaker(), None)  # type: ignore[arg-type]


async def reloaded(reloader: Reloader, worker: Any) -> list[Any]:
    with structlog.testing.capture_logs() as logs:
        await reloader.reload(worker)
    return logs


async def test_a_good_configuration_is_in_use_before_the_old_transport_closes(database: FakeDatabase) -> None:
    """An event that is claimed meanwhile must not get a transport that is closed."""
    worker: Any = FakeWorker()
    logs = await reloaded(reloader(lambda: settings(rate=3.0)), worker)
    assert worker.runtime is not worker.first
    assert worker.runtime.max_rate == 3.0
    assert worker.closed_under == [worker.runtime]
    assert [entry["event"] for entry in logs] == ["reloaded"]


async def test_a_reload_keeps_access_tokens_and_tries_a_refused_login_at_once(database: FakeDatabase) -> None:
    """A provider may have replaced the refresh token, so a new cache would begin with one that is void."""
    starting, worker = reloader(lambda: settings(rate=3.0)), FakeWorker()
    worker.runtime = cast(Any, await starting.first())
    tokens = cast(Any, worker.runtime.transport)._memory.logins._tokens
    starting._breaker.pause(900.0, "535 no", Scope.configuration)
    await reloaded(starting, worker)
    assert cast(Any, worker.runtime.transport)._memory.logins._tokens is tokens
    async with asyncio.timeout(PATIENCE):
        await starting._breaker.wait()


def _is_wrong() -> Settings:
    raise ConfigError("[smtp] rate: must be a number, got true")


def _has_no_template() -> Settings:
    made = Settings()
    rules = {name: rule.model_copy(update={"template": "missing"}) for name, rule in made.rules.items()}
    return made.model_copy(update={"rules": rules})


def _has_no_certificates() -> Settings:
    return settings(ca_file=Path("/nonexistent/ca.pem"))


@pytest.mark.parametrize(
    ("read", "failure", "text"),
    [
        (_is_wrong, {}, "must be a number"),
        (_has_no_template, {}, "missing"),
        (_has_no_certificates, {}, "/nonexistent/ca.pem"),
        (settings, {"unreachable": psycopg.OperationalError("refused")}, "refused"),
        (settings, {"schema_error": SchemaError("not watched; run `pgherald install`")}, "not watched"),
        (settings, {"rule_error": RuleBroken("no column place")}, "no column place"),
    ],
    ids=["configuration", "template", "certificates", "database", "schema", "rule"],
)
async def test_a_refused_reload_keeps_the_runtime_whole(
    database: FakeDatabase, read: Callable[[], Settings], failure: dict[str, Exception], text: str
) -> None:
    """One wrong character in a file must not stop the emails of a daemon that runs."""
    for attribute, error in failure.items():
        setattr(database, attribute, error)
    worker: Any = FakeWorker()
    [entry] = await reloaded(reloader(read), worker)
    assert (entry["event"], entry["log_level"]) == ("reload_refused", "error")
    assert text in entry["error"]
    assert "SIGHUP" in entry["remedy"]
    assert worker.runtime is worker.first
    assert worker.closed_under == []


@pytest.mark.parametrize(
    "error", [SchemaError("missing"), RuleBroken("no column")], ids=lambda error: type(error).__name__
)
async def test_at_the_start_the_same_faults_end_the_daemon(database: FakeDatabase, error: PgheraldError) -> None:
    database.rule_error = error
    with pytest.raises(type(error)):
        await reloader().first()


@pytest.mark.parametrize(("newer", "events"), [(False, []), (True, ["schema_newer"])])
async def test_the_start_learns_the_secret_and_tells_of_a_newer_schema(
    database: FakeDatabase, newer: bool, events: list[str]
) -> None:
    """The secret signs the links to unsubscribe. With another one, every link in sent emails would be refused."""
    database.version.is_newer = newer
    starting = reloader()
    with structlog.testing.capture_logs() as logs:
        await starting.first()
    assert starting.secret == b"s" * 32
    assert [entry["event"] for entry in logs] == events


@pytest.mark.parametrize(
    ("mail", "warns"),
    [({}, False), ({"transport": "console"}, True), ({"allowed_recipients": ("@example.org",)}, True)],
)
def test_a_daemon_that_does_not_write_to_everybody_says_so(mail: dict[str, Any], warns: bool) -> None:
    """In production that is a mistake, and without the warning customers would be the first to notice."""
    made = Settings()
    with structlog.testing.capture_logs() as logs:
        warn_if_restricted(made.model_copy(update={"mail": made.mail.model_copy(update=mail)}))
    assert [entry["event"] for entry in logs] == (["mail_restricted"] if warns else [])


async def test_an_unforeseen_error_keeps_the_runtime_and_quotes_nothing(database: FakeDatabase) -> None:
    database.rule_error = ZeroDivisionError("secret")
    worker: Any = FakeWorker()
    [entry] = await reloaded(reloader(settings), worker)
    assert entry["event"] == "reload_refused"
    assert "ZeroDivisionError" in entry["error"]
    assert "secret" not in str(entry)
    assert worker.runtime is worker.first
