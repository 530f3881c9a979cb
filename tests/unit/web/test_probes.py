"""Probes and metrics, from stand-ins for the daemon's parts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from listener.status.health import Part
from listener.status.overview import WorkerState
from listener.web.probes import Probes
from tests.support.overview import NOW, FixedOverviews, overview

Client = TestClient[web.Request, web.Application]


class Daemon:
    """Stands for the daemon's parts. Its mail server is unavailable."""

    in_flight_count = 0
    listening = True
    gate = SimpleNamespace(is_leader=False)
    is_open = True
    capture = SimpleNamespace(problems={})

    def __init__(self) -> None:
        self.answers = {"daemon": Part(True, "running"), "smtp": Part(False, "breaker open: 421")}

    async def parts(self) -> dict[str, Part]:
        return self.answers


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def overviews() -> FixedOverviews:
    return FixedOverviews(overview(available=3))


@pytest.fixture
async def client(daemon: Any, overviews: Any) -> AsyncIterator[Client]:
    app = web.Application()
    app.add_routes(Probes(daemon, overviews, daemon, daemon).routes())
    async with TestClient(TestServer(app)) as client:
        yield client


async def values(client: Client) -> dict[str, float]:
    text = await (await client.get("/metrics")).text()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_alive_and_ready(client: Client, daemon: Daemon) -> None:
    assert await (await client.get("/livez")).json() == {"alive": True}
    not_ready = await client.get("/readyz")
    assert not_ready.status == 503
    assert await not_ready.json() == {
        "ready": False,
        "parts": {"daemon": {"ok": True, "detail": "running"}, "smtp": {"ok": False, "detail": "breaker open: 421"}},
    }
    del daemon.answers["smtp"]
    assert (await client.get("/readyz")).status == 200


async def test_metrics_of_process_and_outbox(client: Client, daemon: Daemon) -> None:
    found = await values(client)
    assert found["pgherald_breaker_open"] == found["pgherald_listening"] == found["pgherald_database_up"] == 1
    assert found["pgherald_leader"] == found["pgherald_in_flight_events"] == 0
    assert found["pgherald_available_events"] == 3
    assert found["pgherald_oldest_due_age_seconds"] == 12.0
    assert found["pgherald_rule_paused"] == found["pgherald_rule_suspended"] == 0
    daemon.in_flight_count = 2
    assert (await values(client))["pgherald_in_flight_events"] == 2


@pytest.mark.parametrize(
    ("change", "age", "suspended"),
    [
        ({}, 12.0, 0),
        ({"due_for": -300.0}, 0.0, 0),
        ({"due_for": None}, 0.0, 0),
        ({"paused_at": NOW}, 0.0, 0),
        ({"suspended_at": NOW, "suspended_reason": "no column"}, 0.0, 1),
    ],
    ids=["due", "retried later", "nothing waits", "paused", "suspended"],
)
async def test_only_what_is_due_and_not_held_back_grows_old(
    client: Client, overviews: FixedOverviews, change: dict[str, Any], age: float, suspended: int
) -> None:
    assert overviews.current is not None
    overviews.current = replace(overviews.current, rules=[replace(overviews.current.rules[0], **change)])
    found = await values(client)
    assert (found["pgherald_oldest_due_age_seconds"], found["pgherald_rule_suspended"]) == (age, suspended)


@pytest.mark.parametrize(("alive", "age"), [(True, 75.0), (False, 0.0)])
async def test_the_age_in_flight_is_that_of_running_daemons(
    client: Client, overviews: FixedOverviews, alive: bool, age: float
) -> None:
    assert overviews.current is not None
    worker = WorkerState(1, "vm:1", "1", NOW, 1.0, alive, True, None, 1, True, in_flight_for=75.0)
    idle = replace(worker, id=2, alive=True, in_flight=0, in_flight_for=None)
    overviews.current = replace(overviews.current, workers=[worker, idle])
    assert (await values(client))["pgherald_in_flight_age_seconds"] == age


async def test_each_rule_says_whether_it_is_captured(client: Client, daemon: Any) -> None:
    daemon.capture = SimpleNamespace(problems={"paid": None, "verified": "its triggers are missing"})
    text = await (await client.get("/metrics")).text()
    assert 'pgherald_capturing{rule="paid"} 1.0' in text
    assert 'pgherald_capturing{rule="verified"} 0.0' in text


async def test_without_the_database_its_gauges_disappear(client: Client, overviews: FixedOverviews) -> None:
    overviews.current = None
    found = await values(client)
    assert found["pgherald_database_up"] == 0
    assert "pgherald_listening" in found
    assert "pgherald_available_events" not in found
