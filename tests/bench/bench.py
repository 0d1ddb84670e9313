"""Measures how fast a payment is carried on, beside a bare script that makes the same calls.

    make bench                 all parts
    make bench ONLY=latency    one part

Prints one JSON document. The floor calls the same connectors for the same orders, with no journal, no log, no Prefect.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import String, cast, func, literal, select

if __name__ == "__main__":
    # Instead of this script's own folder, where it would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.lookup import measure as measure_lookup
from bench.matching import measure as measure_bulk

from connectors.roles import Carrier, DocumentPrinter, Messenger, OutgoingMessage, WebhookReader
from deployments.processes import Running, free_port, machine
from deployments.sample_shop import SAMPLE, at_rest, fill, prepare
from deployments.sandbox.stripe import StripeStandIn
from domain.order_document import parse_order
from domain.orders import Order
from store import orders, stock
from store.journal import Actor
from store.tables import EffectRow, InboxRow, PaymentRow
from tasks.installation import Installation

PARTS = ("latency", "burst", "chain", "matching")
MATCHING = (10_000, 100_000, 1_000_000)
SINGLE = 20
CHAIN = 15
BURST = 500
_PRICE_MINOR = 29000

_log = Console(stderr=True)


def _order(number: int) -> dict[str, Any]:
    with (SAMPLE / "stock.csv").open(encoding="utf-8", newline="") as rows:
        sku = next(csv.DictReader(rows))["sku"]
    address = {"name": "Jan Zkušební", "street": "Dlouhá 1", "city": "Brno", "postcode": "602 00", "country": "CZ"}
    return {
        "number": f"CZ{number}",
        "channel": "cz",
        "method": "card",
        "placed_at": datetime.now(UTC).isoformat(),
        "currency": "CZK",
        "total": "290.00",
        "customer": {"number": "B1", "name": "Jan Zkušební", "email": "jan@example.com", "address": address},
        "delivery": {"method": "courier", "address": address},
        "lines": [{"sku": sku, "title": "Čaj", "quantity": 1, "unit_price": "290.00", "vat_rate": "12"}],
    }


async def _store(running: Running, numbers: range) -> None:
    from tasks.order_intake import take_order  # it brings Prefect, which must not be there before the machine is up

    opened = running.opened
    documents = [parse_order(_order(number), where="bench") for number in numbers]
    async with opened.store.write() as connection:
        level = (await stock.levels(connection))[0]
        sku = documents[0].lines[0].sku or level.sku
        await stock.count(connection, sku, "", 1_000_000, now=opened.clock())
        for document in documents:
            await take_order(connection, opened, document, actor=Actor(name="bench"))
    running.dispatcher.wake()
    await at_rest(running)


async def _spans(opened: Installation, references: list[str]) -> list[tuple[datetime, datetime]]:
    """Return when each payment's webhook was stored, and when its last effect was recorded."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(PaymentRow.external_id, InboxRow.received_at, func.max(EffectRow.updated_at))
            .join(InboxRow, InboxRow.id == PaymentRow.inbox_id)
            .join(EffectRow, EffectRow.cause == literal("payment:") + cast(PaymentRow.id, String))
            .group_by(PaymentRow.external_id, InboxRow.received_at)
        )
        found = {row[0]: (row[1], row[2]) for row in rows.all()}
    missing = [reference for reference in references if reference not in found]
    if missing:
        raise SystemExit(f"{len(missing)} payments of {len(references)} were not carried on; nothing is measured")
    return [found[reference] for reference in references]


def _percentile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(len(values) * share))], 3)


async def _latency(running: Running, stripe: StripeStandIn) -> dict[str, Any]:
    await _store(running, range(5000, 5000 + SINGLE))
    url = f"{running.web_url}/webhooks/stripe"
    references: list[str] = []
    for number in range(5000, 5000 + SINGLE):
        event = stripe.pay(f"CZ{number}", _PRICE_MINOR, "CZK")
        references.append(event["data"]["object"]["id"])
        await stripe.deliver(event, url)
        await at_rest(running)
        await asyncio.sleep(2.5)  # one payment in flight, and Prefect's own writing done: an idle system
    seconds = [(last - first).total_seconds() for first, last in await _spans(running.opened, references)]
    # The last effect is recorded by whole batches; one more look at the median keeps a single odd run from telling.
    return {
        "payments": SINGLE,
        "webhook_to_last_effect_s": {
            "p50": _percentile(seconds, 0.5),
            "p99": _percentile(seconds, 0.99),
            "mean": round(statistics.mean(seconds), 3),
        },
    }


async def _burst(running: Running, stripe: StripeStandIn) -> dict[str, Any]:
    await _store(running, range(6000, 6000 + BURST))
    url = f"{running.web_url}/webhooks/stripe"
    events = [stripe.pay(f"CZ{number}", _PRICE_MINOR, "CZK") for number in range(6000, 6000 + BURST)]
    cpu = time.process_time()
    slots = asyncio.Semaphore(20)

    async def deliver(event: dict[str, Any]) -> None:
        async with slots:
            await stripe.deliver(event, url)

    await asyncio.gather(*(deliver(event) for event in events))
    await at_rest(running)
    spans = await _spans(running.opened, [event["data"]["object"]["id"] for event in events])
    seconds = (max(last for _, last in spans) - min(first for first, _ in spans)).total_seconds()
    return {
        "payments": BURST,
        "seconds": round(seconds, 2),
        "orders_per_s": round(BURST / seconds, 1),
        "cpu_s_per_payment_in_this_process": round((time.process_time() - cpu) / BURST, 4),
    }


async def _one_bare(opened: Installation, order: Order, body: bytes, document: Any, key: str) -> None:
    """Make the calls of one payment, and nothing else."""
    from tasks.dispatch import consignment_of

    await opened.connector("stripe", WebhookReader).truth(body)
    pdf = await asyncio.to_thread(opened.connector("documents", DocumentPrinter).print, document)
    await asyncio.to_thread((opened.home / f"{key}.pdf").write_bytes, pdf)
    _, rules = document, await _rules(opened)
    await opened.connector("labels", Carrier).create(consignment_of(order, rules), key)
    message = OutgoingMessage(
        message_id=f"<{key}@example.com>",
        sender="shop@example.com",
        sender_name="Shop",
        recipient="jan@example.com",
        subject="Payment received",
        text="Thank you.",
        html="<p>Thank you.</p>",
        language="cs",
        date=opened.clock(),
    )
    await opened.connector("maildir", Messenger).send(message)


async def _rules(opened: Installation) -> Any:
    from store import rules

    async with opened.store.read() as connection:
        return (await rules.current(connection))["cz"].rules


async def _floor(running: Running, stripe: StripeStandIn, count: int) -> dict[str, Any]:
    from domain.rules import DocumentKind
    from tasks.invoice import draft_of

    opened = running.opened
    async with opened.store.read() as connection:
        found = [
            id_ for number in range(6000, 6000 + BURST) for id_, _ in await orders.ids_of(connection, f"CZ{number}")
        ]
        loaded = list((await orders.load(connection, found[:count])).values())
    if len(loaded) < count:
        raise SystemExit("the floor is measured over the orders of the burst; run both parts")
    rules = await _rules(opened)
    bodies = [stripe.signed(stripe.pay(order.number, _PRICE_MINOR, "CZK"))[1] for order in loaded]
    documents = [draft_of(order, rules, DocumentKind.INVOICE, opened.clock()) for order in loaded]
    slots = asyncio.Semaphore(32)

    async def one(place: int) -> None:
        async with slots:
            await _one_bare(opened, loaded[place], bodies[place], documents[place], f"bare-{place}")

    began = time.perf_counter()
    await one(0)
    single = time.perf_counter() - began
    began = time.perf_counter()
    await asyncio.gather(*(one(place) for place in range(1, count)))
    seconds = time.perf_counter() - began
    return {
        "what": "the same calls to the same connectors, with no journal, no log and no Prefect",
        "payments": count,
        "single_s": round(single, 3),
        "seconds": round(seconds, 2),
        "orders_per_s": round((count - 1) / seconds, 1),
    }


async def _chain() -> dict[str, Any]:
    """Measure from WayForPay's callback until the order is in production in Planfix, both stand-ins."""
    from deployments.chain import Stage
    from deployments.chain_wayforpay_planfix import measure

    _log.print(f"chain: {CHAIN} orders from the gateway's callback to production in Planfix")
    with tempfile.TemporaryDirectory(prefix="kvit-bench-") as folder:
        async with AsyncExitStack() as stack:
            found = await measure(Stage(Path(folder) / "home", stack), CHAIN)
    seconds, calls = [took.in_planfix for took, _ in found], [bare for _, bare in found]
    return {
        "orders": CHAIN,
        "callback_to_production_s": {"p50": _percentile(seconds, 0.5), "p95": _percentile(seconds, 0.95)},
        "callback_accepted_s": {"p50": _percentile([took.accepted for took, _ in found], 0.5)},
        "calls_alone_s": {"p50": _percentile(calls, 0.5), "p95": _percentile(calls, 0.95)},
    }


def _matching() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for size in MATCHING:
        for name, plain in (("plain", True), ("hard", False)):
            _log.print(f"matching: {size:,} {name} payments")
            found[f"{name} {size}"] = measure_bulk(size, plain=plain)
    for size in MATCHING:
        _log.print(f"matching: one payment against {size:,} open items of a store")
        found[f"lookup {size}"] = measure_lookup(size)
    return found


async def _measure(parts: set[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "database": "SQLite, for the store and for Prefect",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not parts:
        return result
    with tempfile.TemporaryDirectory(prefix="kvit-bench-") as folder:
        home = Path(folder)
        async with StripeStandIn() as stripe:
            prepare(home, stripe)
            with _log.status("starting …"):
                up = machine(home, prefect_port=free_port(), web_port=free_port(), serve=False)
                async with up as running:
                    await fill(running.opened)
                    running.dispatcher.wake()
                    await at_rest(running)
                    if "latency" in parts:
                        _log.print(f"latency: {SINGLE} payments, one at a time")
                        result["latency"] = await _latency(running, stripe)
                    if "burst" in parts:
                        _log.print(f"burst: {BURST} payments at once")
                        result["burst"] = await _burst(running, stripe)
                        _log.print("the floor: the same calls, bare")
                        result["floor"] = await _floor(running, stripe, min(200, BURST))
    result["memory_max_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast a payment is carried on, beside a bare script")
    parser.add_argument("--only", default=",".join(PARTS), help=f"{', '.join(PARTS)}, or some of them with commas")
    parts = set(parser.parse_args().only.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    began = datetime.now(UTC)
    result = asyncio.run(_measure(parts & {"latency", "burst"}))
    if "chain" in parts:
        result["chain"] = asyncio.run(_chain())
    if "matching" in parts:
        result["matching"] = _matching()
    result["took_s"] = round((datetime.now(UTC) - began) / timedelta(seconds=1))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
