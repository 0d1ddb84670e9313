"""Traces, where the standard variables of OpenTelemetry name a collector: OTEL_EXPORTER_OTLP_ENDPOINT.

Only our own spans are sent (webhook, match, step, call), by a provider of our own: Prefect's are not, for their names
and attributes are not ours to answer for.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from connectors.errors import Misconfigured
from connectors.observed import trace_with

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Say whether a collector is named and nobody has switched it off."""
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(environment.get(name) for name in _ENDPOINTS)


@contextmanager
def tracing(environment: Mapping[str, str], *, worker: str) -> Generator[None]:
    """Send this process's spans to the collector that the environment names, if it names one, until the block ends.

    worker names the process. Raises Misconfigured when what sends them is not installed.
    """
    if not wants_traces(environment):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise Misconfigured(
            f"{_ENDPOINTS[0]} is set, but what sends traces is not installed; "
            "install kvit with its extra `traces`, or take the variable away"
        ) from None
    about = {
        "service.name": environment.get("OTEL_SERVICE_NAME") or "kvit",
        "service.version": version("kvit"),
        "service.instance.id": worker,
    }
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_with(provider.get_tracer("kvit"))
    try:
        yield
    finally:
        trace_with(None)
        provider.shutdown()
