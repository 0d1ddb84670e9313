"""From WayForPay's callback until Planfix shows the order in production, beside the same calls made bare.

`kvit up` serves the chain as deployments/rules has it. Orders are paid one after the other. What is measured begins
when the callback is sent, and ends when the task's status is changed in Planfix's stand-in; and again when the last
call of the payment has come to its end. Once with Planfix's limit as it is shipped, once with it lifted: its requests
are one second apart by that limit, and nothing else can be seen beside it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import yaml
from bench.figures import percentile
from bench.outside_chain import AMOUNT, PLANFIX, WAYFORPAY, number_of
from bench.progress import Bar
from bench.start import ROOT, Database, Outside, database, outside_systems, up
from bench.system import System

from connectors import own_rates
from deployments.chain_wayforpay_planfix import IN_PRODUCTION, RULES
from deployments.sandbox.wayforpay import WayForPayStandIn

Json = dict[str, Any]

_WARM = 2
_AS_SHIPPED = 5
"""Payments at most with Planfix's limit, at which each takes many seconds."""


def to_worst(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and the worst."""
    found = {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95), "worst": max(seconds)}
    return {name: round(value, 4) for name, value in found.items()}


def order_document(place: int) -> Json:
    """Return an order as the shop hands it over."""
    return {
        "number": number_of(place),
        "channel": "planfix",
        "method": "card",
        "placed_at": datetime.now(UTC).isoformat(),
        "currency": "UAH",
        "total": f"{AMOUNT}.00",
        "customer": {"number": f"C{place}", "name": "Олена Зразкова", "email": "olena@example.com"},
        "lines": [{"title": "Стіл дубовий", "quantity": 1, "unit_price": f"{AMOUNT}.00"}],
    }


def brings(calls: Sequence[Mapping[str, Any]], at: float) -> int:
    """Return which of the calls was under way when the order came into production."""
    return next(place for place, call in enumerate(calls) if call["began"] <= at <= call["answered"])


def check(place: int, told: Mapping[str, Any]) -> None:
    """Raise SystemExit where an order isn't in production, or something of it is lost or doubled."""
    stands = (told["status"], float(told["paid"]), float(told["difference"]), told["comments"], told["incomes"])
    if stands != (IN_PRODUCTION, float(AMOUNT), 0.0, 1, 1) or told["in_production"] is None:
        raise SystemExit(f"{number_of(place)} did not come into production once and whole: {stands}")


async def _settings(outer: Outside, *, as_shipped: bool) -> Json:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{outer.url}/bench/settings?as_shipped={as_shipped:d}") as answer,
    ):
        return await answer.json()


async def _pay(system: System, place: int) -> tuple[float, float]:
    """Let a callback be sent and accepted; return when it was sent and when it was answered."""
    body = (await system.control(f"pay?place={place}"))["body"].encode()
    headers = {"Content-Type": "application/json"}
    sent, answer = await system.post("/webhooks/wayforpay", headers, body)
    answered = time.time()
    if not WayForPayStandIn().is_accept(answer, number_of(place)):
        raise SystemExit(f"a callback was not accepted: {answer[:500]!r}")
    return sent, answered


def bare_document(kvit: Json, rates: Mapping[str, float | None], asked: Sequence[Json]) -> Json:
    """Return what the bare script reads to send the calls of payments again."""
    bases: dict[str, str] = {one["name"]: one["base_url"] for one in kvit["connectors"] if "base_url" in one}
    return {
        "urls": {name: urljoin(base, "/") for name, base in bases.items()},
        "per_second": {name: rates[name] for name in bases},
        "payments": [{"calls": one["calls"], "brings": brings(one["calls"], one["in_production"])} for one in asked],
    }


async def _bare(document: Json) -> list[list[float]]:
    """Send the calls of payments again, in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("bare_chain.py"))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, _ = await process.communicate(json.dumps(document).encode())
    if process.returncode:
        raise SystemExit("the bare script of the chain failed")
    found: list[list[float]] = json.loads(out)
    return found


async def _chain(home: Path, kept: Database, outer: Outside, count: int, bar: Bar, *, as_shipped: bool) -> Json:
    places = range(1, count + _WARM + 1)
    pace = "Planfix's limit as shipped" if as_shipped else "Planfix's limit lifted"
    kvit = await _settings(outer, as_shipped=as_shipped)
    rates = own_rates(kvit["connectors"], home=home)
    document = yaml.safe_load((ROOT / "deployments" / "rules" / RULES).read_text(encoding="utf-8"))
    bar.begin(f"chain, {pace}: taking {len(places)} orders in")
    async with up(home, kept, outer, kvit, document) as system:
        await system.control(f"tasks?first=1&count={len(places)}")
        await system.hand_over([order_document(place) for place in places], kvit["orders_secret"])
        await system.at_rest()
        times: list[tuple[float, float]] = []
        asked: list[Json] = []
        waits: list[float] = []
        bar.begin(f"chain, {pace}: one payment after the other", len(places))
        with system.watch(look_s=5) as watch:
            for done, place in enumerate(places):
                bar.at(done)
                waits.append(await system.quiet())
                times.append(await _pay(system, place))
                await system.at_rest(every_s=0.1)
                asked.append(await system.control(f"asked?place={place}"))
                check(place, asked[-1])
        await system.audited()
        bar.begin(f"chain, {pace}: the same calls alone")
        alone = (await _bare(bare_document(kvit, rates, asked)))[_WARM:]
    return figures(times[_WARM:], asked[_WARM:], alone) | {
        "planfix_requests_per_second": rates[PLANFIX],
        "pause_between_s": round(sum(waits) / len(waits), 2),
        **watch.told(),
    }


def figures(times: Sequence[tuple[float, float]], asked: Sequence[Json], alone: Sequence[Sequence[float]]) -> Json:
    """Return the figures of payments: when each callback was sent and answered, what was asked, and the bare script's.

    The times of the bare script are seconds until production, and until the last answer.
    """
    sent = [began for began, _ in times]
    calls: list[list[Json]] = [one["calls"] for one in asked]
    there = to_worst([one["in_production"] - begun for one, begun in zip(asked, sent, strict=True)])
    last = [max(call["answered"] for call in some) - begun for some, begun in zip(calls, sent, strict=True)]
    floor, whole_floor = to_worst([one for one, _ in alone]), to_worst([whole for _, whole in alone])
    until = [brings(one["calls"], one["in_production"]) + 1 for one in asked]
    return {
        "payments": len(times),
        "callback_sent_to_answer_s": to_worst([answered - began for began, answered in times]),
        "callback_sent_to_production_s": there,
        "calls_alone_to_production_s": floor,
        "over_the_calls_s": {name: round(there[name] - floor["p50"], 4) for name in there},
        "callback_sent_to_last_call_s": to_worst(last),
        "calls_alone_to_last_call_s": whole_floor,
        "stand_ins_answering_s": to_worst([sum(call["answered"] - call["began"] for call in some) for some in calls]),
        "calls": _least_and_most([len(some) for some in calls]),
        "calls_to_production": _least_and_most(until),
        "calls_of_wayforpay": _least_and_most([_of(WAYFORPAY, some) for some in calls]),
        "calls_of_planfix": _least_and_most([_of(PLANFIX, some) for some in calls]),
    }


def _of(system: str, calls: Sequence[Json]) -> int:
    return sum(call["system"] == system for call in calls)


def _least_and_most(counts: Sequence[int]) -> list[int]:
    return [min(counts), max(counts)]


def measure(kind: str, count: int, bar: Bar) -> Json:
    """Measure the chain on one database, with so many payments; fewer where Planfix's limit holds."""
    found: Json = {}
    for name, as_shipped, payments in (("lifted", False, count), ("as shipped", True, min(count, _AS_SHIPPED))):
        with tempfile.TemporaryDirectory(prefix="kvit-bench-", ignore_cleanup_errors=True) as folder:
            home = Path(folder) / "home"
            home.mkdir(mode=0o700)
            with outside_systems("outside_chain.py") as outer, database(kind, home) as kept:
                found[name] = asyncio.run(_chain(home, kept, outer, payments, bar, as_shipped=as_shipped))
    return found
