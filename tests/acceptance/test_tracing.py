"""The spans that a collector receives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer

RULE = "dateplan_verified"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Where to send, and the requests that came."""
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", came
        server.shutdown()
        thread.join()


def test_a_span_a_delivery(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [database.add_plan("Café", f"{name}@example.org") for name in ("good", "bad")]
    mail.script("rcpt", answer("550 5.1.1 no such user"), times=1)
    database.verify(*plans)
    with collector() as (url, came):
        done = pgherald("run", "--once", env={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        assert done.returncode == 0, done.stderr
    resources = [resource for request in came for resource in request.resource_spans]
    named = {a.key: a.value.string_value for resource in resources for a in resource.resource.attributes}
    assert named["service.name"] == "pgherald"
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    outcomes = {}
    for span in spans:
        assert span.name == f"deliver {RULE}"
        assert span.end_time_unix_nano > span.start_time_unix_nano
        found = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
        outcomes[found["pgherald.event_id"]] = (found["pgherald.outcome"], found.get("pgherald.reason"))
    assert sorted(outcomes.values(), key=str) == [("failed", "bad_address"), ("sent", None)]
    assert len(outcomes) == 2
    assert "example.org" not in str(came)


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOBODY = ["00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff" + TRACEPARENT[2:], TRACEPARENT.replace("-", "a"), "-" * 55]


def test_a_span_is_linked_to_the_applications_transaction(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    said = [TRACEPARENT, *NOBODY, None]
    application = database.connect()
    for number, traceparent in enumerate(said):
        plan = database.add_plan("Café", f"{number}@example.org")
        with application.transaction():
            if traceparent is not None:
                application.execute("SELECT set_config('pgherald.traceparent', %s, true)", (traceparent,))
            application.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))
    assert [event["traceparent"] for event in database.events()] == said
    first = database.events()[0]["id"]
    with collector() as (url, came):
        done = pgherald("run", "--once", env={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        assert done.returncode == 0, done.stderr
    mail.wait_for(len(said))
    spans = [
        span for request in came for resource in request.resource_spans for scope in resource.scope_spans
        for span in scope.spans
    ]  # fmt: skip
    assert len(spans) == len(said)
    linked = {
        a.value.int_value: [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        for span in spans for a in span.attributes if a.key == "pgherald.event_id"
    }  # fmt: skip
    assert linked.pop(first) == [tuple(TRACEPARENT.split("-")[1:3])]
    assert not any(linked.values())
    assert not any(span.parent_span_id for span in spans)


@pytest.mark.slow
def test_a_collector_that_is_away_holds_nothing_up(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    done = pgherald("run", "--once", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    mail.wait_for(1)
