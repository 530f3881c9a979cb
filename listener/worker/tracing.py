"""OpenTelemetry: one span for each attempt to send a message.

Tracing needs the extra `tracing` and the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, …). A span
has no address, no text of an email, and no key of a row, because another company often runs the collector.
"""

import logging
import os
from typing import TYPE_CHECKING

from listener import __version__
from listener.logs import log

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, Tracer

# The daemon has settled its events by then, and a service manager waits for its end.
_FLUSH_TIMEOUT_MS = 2000
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None


def start() -> None:
    """Start tracing if the environment asks for it. Call it once, before the first event."""
    global _provider, _tracer
    if (
        not any(os.environ.get(name) for name in _ENDPOINTS)
        or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    ):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("tracing_unavailable", remedy="pip install 'pgherald[tracing]'")
        return
    # The exporter would log a traceback for each batch while the collector is unavailable.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    resource = Resource.create({"service.name": "pgherald", "service.version": __version__})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # A separate thread sends the spans in batches. Spans that do not fit into its queue are dropped, and no email waits.
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("pgherald", __version__)


def begin(rule: str, event_id: int, attempt: int, doubts: int, traceparent: str | None) -> "Span | None":
    """Return a new span for an attempt, or None without tracing.

    The span is linked to `traceparent`, the trace of the transaction that made the change, if it is valid by W3C Trace
    Context.
    """
    if _tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    return _tracer.start_span(
        f"deliver {rule}",
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "smtp",
            "messaging.operation.name": "send",
            "pgherald.rule": rule,
            "pgherald.event_id": event_id,
            "pgherald.attempt": attempt + 1,
            "pgherald.again": doubts > 0,
        },
        links=_links(traceparent),
    )


def _links(traceparent: str | None) -> "list[Link]":
    if traceparent is None:
        return []
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    application = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
    context = application.get_span_context()
    return [Link(context)] if context.is_valid else []


def end(span: "Span | None", outcome: str, reason: str | None) -> None:
    """End the span. `outcome` is a word of the event's history, and `reason` the one word that the outbox keeps."""
    if span is None:
        return
    from opentelemetry.trace import StatusCode

    span.set_attribute("pgherald.outcome", outcome)
    if reason:
        span.set_attribute("pgherald.reason", reason)
    if outcome != "sent":
        span.set_status(StatusCode.ERROR, reason or outcome)
    span.end()


def stop() -> None:
    """Send the remaining spans. Block for two seconds at most if the collector does not take them."""
    if _provider is not None:
        _provider.force_flush(timeout_millis=_FLUSH_TIMEOUT_MS)
        _provider.shutdown()
