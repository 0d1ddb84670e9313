"""One payment at a time, and many at once, beside the bare script that makes the same calls of the same systems."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.case import AT_ONCE
from bench.figures import ratio, spread
from bench.outside import CALLS, number_of
from bench.progress import Bar
from bench.start import Database, Outside, database, outside_systems, up
from bench.system import System

DELAYS_MS = (0, 20)
POOLS = ("aiohttp", "httpx", "connectors")
DELIVERERS = 20
_WARM = 5
_BARE_ALONE, _BARE_AT_ONCE = 50, 1000


async def bare(system: System, pool: str, first: int, count: int, at_once: int) -> dict[str, Any]:
    """Run the bare script over orders that only the CRM knows."""
    await system.control(f"cards?first={first}&count={count}")
    script = Path(__file__).with_name("bare.py")
    given = {"--url": system.outside_url, "--pool": pool, "--first": first, "--count": count, "--at-once": at_once}
    words = [str(word) for pair in given.items() for word in pair]
    with system.watch(look_s=0.25) as watch:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), *words, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit("the bare script failed")
    told = await system.asked()
    made = [one[2] for one in told["asked"].values()]
    if len(made) != count or any(one != dict.fromkeys(CALLS, 1) for one in made):
        raise SystemExit("the bare script did not make each of the six calls once")
    found: dict[str, Any] = json.loads(out)
    return found | {"others_on_the_machine_cores": round(watch.others, 2)}


async def _latency(system: System, delay_ms: int, first: int, count: int, bar: Bar) -> dict[str, Any]:
    places = range(first, first + count + _WARM)
    await system.control("delay?ms=0")
    await system.place(first, len(places))
    await system.control(f"delay?ms={delay_ms}")
    await system.quiet()
    sent: list[float] = []
    waits: list[float] = []
    bar.begin(f"latency, calls of {delay_ms} ms: one payment after the other", len(places))
    with system.watch(look_s=5) as watch:
        for done, place in enumerate(places):
            bar.at(done)
            sent.append(await system.deliver(place))
            await system.at_rest(every_s=0.1)
            waits.append(await system.quiet())
    told = await system.asked()
    checked = await system.check(places, told)
    spans = await system.spans(places)
    calls = [told["asked"][number_of(place)] for place in places]
    whole = [span.recorded - begun for span, begun in zip(spans, sent, strict=True)][_WARM:]
    to_last_call = [call[1] - span.stored for call, span in zip(calls, spans, strict=True)][_WARM:]
    alone = {pool: await bare(system, pool, 500_000 + first, _BARE_ALONE, 1) for pool in POOLS[:1]}
    ours, floor = spread(whole), alone[POOLS[0]]["payment_s"]
    return {
        "payments": count,
        "webhook_sent_to_last_effect_s": ours,
        "webhook_stored_to_last_call_s": spread(to_last_call),
        "calls_alone_s": floor,
        "over_the_calls_s": {name: round(ours[name] - floor["p50"], 4) for name in ours},
        "pause_between_s": round(sum(waits) / len(waits), 2),
        **watch.told(),
        "checked": checked,
    }


async def _deliver_all(system: System, places: Sequence[int]) -> list[float]:
    slots = asyncio.Semaphore(DELIVERERS)

    async def one(place: int) -> float:
        async with slots:
            return await system.deliver(place)

    return await asyncio.gather(*(one(place) for place in places))


async def _burst(system: System, delay_ms: int, first: int, count: int, bar: Bar) -> dict[str, Any]:
    places = range(first, first + count)
    await system.control("delay?ms=0")
    await system.place(first, count)
    await system.quiet()
    await system.control(f"delay?ms={delay_ms}")
    bar.begin(f"burst, calls of {delay_ms} ms: all at once", count)
    with system.watch() as watch:
        began = time.time()
        sent = await _deliver_all(system, places)
        answered = time.time() - began
        await system.at_rest(show=lambda left: bar.at(count - min(left, count)))
        # What Prefect still writes of it belongs to what it costs.
        await system.quiet()
    bar.begin(f"burst, calls of {delay_ms} ms: checking, and the bare script")
    told = await system.asked()
    spans = await system.spans(places)
    took = max(span.recorded for span in spans) - began
    whole = [span.recorded - begun for span, begun in zip(spans, sent, strict=True)]
    checked = await system.check(places, told)
    floors = {
        pool: await bare(system, pool, 500_000 + first + 100_000 * place, _BARE_AT_ONCE, AT_ONCE)
        for place, pool in enumerate(POOLS)
    }
    floor, cost = floors[POOLS[0]], watch.told(count)
    return {
        "payments": count,
        "seconds": round(took, 2),
        "per_s": round(count / took, 1),
        "webhook_sent_to_last_effect_s": spread(whole),
        "webhooks_answered_per_s": round(count / answered, 1),
        "floor_per_s": {pool: found["per_s"] for pool, found in floors.items()},
        "floor_others_on_the_machine_cores": floor["others_on_the_machine_cores"],
        "floor_cpu_s_per_payment": floor["cpu_s_per_payment"],
        "to_the_floor": ratio(count / took, floor["per_s"]),
        "cpu_to_the_floor": ratio(cost["cpu_s_per_payment"], floor["cpu_s_per_payment"]),
        **cost,
        "checked": checked,
    }


async def _part(home: Path, kept: Database, outer: Outside, part: str, count: int, bar: Bar) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with up(home, kept, outer) as system:
        for place, delay in enumerate(DELAYS_MS):
            bar.begin(f"{part}, calls of {delay} ms, {count} payments: taking their orders in")
            work = _latency if part == "latency" else _burst
            found[f"{delay} ms"] = await work(system, delay, 1 + place * (count + _WARM), count, bar)
    return found


def measure(kind: str, part: str, count: int, bar: Bar) -> dict[str, Any]:
    """Measure latency or burst on one database, with so many payments."""
    with tempfile.TemporaryDirectory(prefix="kvit-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        with outside_systems() as outer, database(kind, home) as kept:
            return asyncio.run(_part(home, kept, outer, part, count, bar))
