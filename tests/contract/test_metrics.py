"""What is watched: who may read the metrics, what a call counts as, and what a trace and a line of the log say."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connectors.errors import Misconfigured, Transient
from connectors.http import Client, Limits
from connectors.observed import REGISTRY, Call, is_traced, span
from deployments.sandbox.standin import Misbehavior, StandIn
from deployments.tracing import tracing, wants_traces
from tasks.installation import Installation, close_installation, open_installation
from tasks.logged import JsonLines, fields, log_as_json, wants_json
from tasks.step import Item
from web.app import create_app
from web.metrics import metrics_app

ROOT = Path(__file__).parents[2]
TOKEN = "read-by-the-monitoring-alone"
HERE = ("127.0.0.1", 40_000)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncGenerator[Installation]:
    made = await open_installation(tmp_path / "shop")
    yield made
    await close_installation(made)


async def asked(opened: Installation, sender: tuple[str, int] = HERE, **headers: str) -> httpx.Response:
    """Ask for the metrics from an address."""
    way = httpx.ASGITransport(metrics_app(opened), client=sender)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=way, base_url="http://kvit") as client:
        return await client.get("/metrics", headers=named)


# Who may read the metrics


async def test_metrics_are_for_this_machine_alone_and_not_for_what_a_proxy_hands_on(opened: Installation) -> None:
    assert (await asked(opened)).status_code == 200
    assert (await asked(opened, ("::1", 40_000))).status_code == 200
    for sender, headers in (
        (("192.0.2.7", 40_000), {}),
        (HERE, {"X_Forwarded_For": "127.0.0.1"}),
        (HERE, {"Forwarded": "for=127.0.0.1"}),
        (("192.0.2.7", 40_000), {"Authorization": f"Bearer {TOKEN}"}),
    ):
        refused = await asked(opened, sender, **headers)
        assert refused.status_code == 403
        assert "metrics_token" in refused.json()["error"]
        assert "kvit_" not in refused.text


async def test_with_a_token_metrics_are_for_whoever_has_it_wherever_they_are(opened: Installation) -> None:
    guarded = replace(opened, settings={"metrics_token": TOKEN})
    elsewhere = ("192.0.2.7", 40_000)
    assert (await asked(guarded, elsewhere, Authorization=f"Bearer {TOKEN}")).status_code == 200
    for wrong in ({}, {"Authorization": "Bearer another-token-altogether"}, {"Authorization": TOKEN}):
        refused = await asked(guarded, HERE, **wrong)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert TOKEN not in refused.text
    with pytest.raises(Misconfigured, match="at least 16 characters"):
        metrics_app(replace(opened, settings={"metrics_token": "short"}))


async def test_an_idle_installation_shows_what_stands_in_its_database(opened: Installation) -> None:
    shown = (await asked(opened)).text.splitlines()
    for line in (
        "kvit_due 0.0",
        "kvit_oldest_due_seconds 0.0",
        "kvit_in_flight 0.0",
        'kvit_effects_open{state="in_doubt"} 0.0',
        'kvit_effects_open{state="rejected"} 0.0',
        'kvit_effects_open{state="intended"} 0.0',
    ):
        assert line in shown


async def test_every_metric_has_its_line_in_the_documentation(opened: Installation) -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    app = create_app(opened, wake=lambda: None, waiting=nothing_waits)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=HERE), base_url="http://kvit") as client:
        shown = (await client.get("/metrics")).text
    lines = [line.split() for line in shown.splitlines() if line.startswith("# TYPE kvit_")]
    of_process = {name: kind for _, _, name, kind in lines if not name.endswith("_created")}
    assert len(of_process) >= 19
    for name, kind in of_process.items():
        assert f"| `{name}` | {kind} |" in page
    named = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\bkvit_[a-z_]+", page)}
    assert named <= of_process.keys()


async def nothing_waits() -> int:
    return 0


# Calls to outside systems


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("done")(scope, receive, send)


def calls(connector: str, result: str) -> float:
    return REGISTRY.get_sample_value("kvit_connector_calls_total", {"connector": connector, "result": result}) or 0.0


async def test_a_call_counts_by_its_answer_or_by_why_none_came() -> None:
    async with StandIn(ok) as system:
        client = Client("counted", system.url, Limits(timeout=40))
        await client.request("GET", "/")
        system.misbehave(Misbehavior.STATUS_BEFORE, status=404)
        await client.request("GET", "/")
        system.misbehave(Misbehavior.STATUS_AFTER, status=503)
        await client.request("GET", "/")
        system.misbehave(Misbehavior.CUT_AFTER)
        with pytest.raises(Transient):
            await client.request("POST", "/order/CZ5001")
        await client.aclose()
    gone = Client("counted", system.url, Limits(timeout=40))
    with pytest.raises(Transient):
        await gone.request("POST", "/order/CZ5001")
    await gone.aclose()
    for error in (Misconfigured("key"), ValueError("alena@example.com")):
        with pytest.raises(type(error)):
            async with Call("counted"):
                raise error
    found = {one: calls("counted", one) for one in ("2xx", "4xx", "5xx", "in_doubt", "unreachable")}
    assert found == dict.fromkeys(found, 1.0)
    assert (calls("counted", "misconfigured"), calls("counted", "failed")) == (1.0, 1.0)
    assert REGISTRY.get_sample_value("kvit_connector_call_seconds_count", {"connector": "counted"}) == 7.0


# Traces


class Collector(StandIn):
    """A collector of traces, as OpenTelemetry's exporter speaks to it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        super().__init__(self._take)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = ExportTraceServiceRequest.FromString(await Request(scope, receive).body())
        for of_resource in told.resource_spans:
            about = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            self.services.add(f"{about['service.name']} {about['service.instance.id']}")
            self.spans += [one for of_scope in of_resource.scope_spans for one in of_scope.spans]
        await Response(b"", media_type="application/x-protobuf")(scope, receive, send)


async def test_spans_go_to_the_collector_that_is_named_with_ids_and_without_what_errors_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work() -> None:
        with tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "set"}, worker="one"):
            assert is_traced()
            with pytest.raises(Transient), span("step", {"kvit.step": "invoice", "kvit.orders": [7]}), Call("stripe"):
                raise Transient("alena@example.com did not answer", in_doubt=True)

    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        await asyncio.to_thread(work)
        (call, step) = collector.spans
    assert collector.services == {"kvit one"}
    assert (step.name, call.name, call.parent_span_id) == ("step", "call", step.span_id)
    told = {one.key: one.value.string_value for one in call.attributes}
    assert told == {"kvit.connector": "stripe", "kvit.method": "send", "kvit.result": "in_doubt"}
    assert "alena" not in str(collector.spans)
    assert step.status.message == "Transient"
    assert not is_traced()


def test_nothing_is_traced_unless_a_collector_is_named() -> None:
    with tracing({}, worker="one"):
        assert not is_traced()
    assert span("step") is span("call")  # one object for all that go nowhere
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert wants_traces(named)
    assert not wants_traces(named | {"OTEL_SDK_DISABLED": "true"})
    assert not wants_traces(named | {"OTEL_TRACES_EXPORTER": "none"})


# The log as JSON lines


def test_a_line_of_the_log_names_order_step_and_payment_and_never_what_an_error_says() -> None:
    written = io.StringIO()
    log = logging.getLogger("kvit.test")
    every = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    before = [(logger, logger.handlers[:], logger.level) for logger in every]
    try:
        log_as_json(written)
        log.info("CZ5001 · invoice · done", extra=fields(Item(1, "CZ5001", "payment:17#2"), step="invoice"))
        log.info("CZ5001 · proforma · done", extra=fields(Item(1, "CZ5001", "order:1"), step="proforma"))
        error = ValueError("alena@example.com")
        log.error("it failed", exc_info=(ValueError, error, None))
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)  # not the attribute: a logger remembers what it lets through until it is told
    about, other, failed = map(json.loads, written.getvalue().splitlines())
    assert {name: about[name] for name in ("order", "step", "payment", "cause", "level")} == {
        "order": "CZ5001",
        "step": "invoice",
        "payment": 17,
        "cause": "payment:17#2",
        "level": "info",
    }
    assert other["order"] == "CZ5001"
    assert "payment" not in other
    assert failed["error"] == "ValueError"
    assert "alena" not in written.getvalue()


def test_the_format_of_the_log_is_checked() -> None:
    assert [wants_json({}), wants_json({"KVIT_LOG_FORMAT": "text"}), wants_json({"KVIT_LOG_FORMAT": "json"})] == [
        False,
        False,
        True,
    ]
    with pytest.raises(Misconfigured, match="choose text or json"):
        wants_json({"KVIT_LOG_FORMAT": "xml"})
    line = JsonLines().format(logging.LogRecord("kvit", logging.INFO, "", 1, "„čaj“\nand more", None, None))
    assert "\n" not in line
    assert json.loads(line)["said"] == "„čaj“\nand more"
