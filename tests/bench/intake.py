"""What comes in masses, a large statement and many webhooks; and what it costs when nothing comes."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from bench.backfill import prepare
from bench.case import webhook
from bench.commands import Shop
from bench.figures import ratio, spread
from bench.payments import DELIVERERS
from bench.progress import Bar
from bench.start import ROOT, Database, answering, database, outside_systems, stopped, up
from bench.statement import write_statement
from sqlalchemy import func, select

from deployments.processes import free_port
from store.database import open_store
from store.tables import InboxRow, PaymentRow


async def _statement(home: Path, kept: Database, entries: int, bar: Bar) -> dict[str, Any]:
    bar.begin(f"a statement of {entries:,} entries", entries)
    store = await open_store(kept.url)
    await prepare(store)
    file = home / "statement.xml"
    size = await asyncio.to_thread(write_statement, file, entries)
    shop = Shop(home, kept, {}, kept.roots)
    before = await shop.sizes_mb(store)

    async def look() -> None:
        async with store.read() as connection:
            bar.at(await connection.scalar(select(func.count()).select_from(PaymentRow)) or 0)

    ran = await shop.run("payments", "import", str(file), look=look)
    after = await shop.sizes_mb(store)
    async with store.read() as connection:
        stored = await connection.scalar(select(func.count()).select_from(PaymentRow))
    again = await shop.run("payments", "import", str(file))
    async with store.read() as connection:
        twice = await connection.scalar(select(func.count()).select_from(PaymentRow))
    await store.close()
    if (stored, twice) != (entries, entries):
        raise SystemExit(f"of {entries} entries {stored} were stored, and {twice} once the file came again")
    bare = await _script("statement.py", "--entries", str(entries))
    return {
        "entries": entries,
        "file_mb": round(size / 1e6, 1),
        "seconds": round(ran.seconds, 1),
        "per_s": round(entries / ran.seconds),
        "the_same_file_again_s": round(again.seconds, 1),
        "bare_per_s": bare["per_s"],
        "to_bare": ratio(entries / ran.seconds, bare["per_s"]),
        "growth_kb_per_entry": round((after["kvit"] - before["kvit"]) * 1000 / entries, 2),
        **ran.watch.told(),
    }


async def _script(name: str, *words: str) -> dict[str, Any]:
    script = str(Path(__file__).with_name(name))
    process = await asyncio.create_subprocess_exec(sys.executable, script, *words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} failed")
    found: dict[str, Any] = json.loads(out)
    return found


@asynccontextmanager
async def _bare_web(kept: Database, folder: Path) -> AsyncGenerator[str]:
    port, script = free_port(), str(Path(__file__).with_name("bare_web.py"))
    where = kept.url if kept.roots else str(folder / "bare.sqlite")
    words = ("--port", str(port), "--database", where)
    process = await asyncio.create_subprocess_exec(sys.executable, script, *words, cwd=ROOT)
    try:
        await answering(f"http://127.0.0.1:{port}/health", process, "the bare page")
        yield f"http://127.0.0.1:{port}"
    finally:
        await stopped(process)


async def _send(url: str, count: int, bar: Bar) -> dict[str, Any]:
    """Send webhooks that nothing follows from; return how fast they were answered."""
    slots, seconds = asyncio.Semaphore(DELIVERERS), list[float]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=DELIVERERS)) as session:

        async def one(place: int) -> None:
            async with slots:
                headers, body = webhook(place, "customer.updated")
                began = time.perf_counter()
                async with session.post(f"{url}/webhooks/stripe", data=body, headers=headers) as answer:
                    if answer.status != 200:
                        raise SystemExit(f"a webhook was answered {answer.status}")
                seconds.append(time.perf_counter() - began)
                bar.at(len(seconds))

        began = time.perf_counter()
        await asyncio.gather(*(one(place) for place in range(count)))
        took = time.perf_counter() - began
    return {"seconds": round(took, 2), "per_s": round(count / took, 1), "answer_s": spread(seconds)}


async def _webhooks(home: Path, kept: Database, count: int, bar: Bar) -> dict[str, Any]:
    with outside_systems() as outer:
        async with up(home, kept, outer) as system:
            bar.begin(f"{count:,} webhooks", count)
            with system.watch() as watch:
                found = await _send(system.url, count, bar)
                bar.begin("what was stored is worked off")
                began = time.perf_counter()
                await system.at_rest()
                after = time.perf_counter() - began
            async with system.store.read() as connection:
                stored = await connection.scalar(select(func.count()).select_from(InboxRow))
        if stored != count:
            raise SystemExit(f"of {count} webhooks that were answered {stored} are stored")
        async with _bare_web(kept, home) as url:
            bar.begin(f"{count:,} webhooks, stored bare", count)
            bare = await _send(url, count, bar)
    return {
        "webhooks": count,
        **found,
        "bare_per_s": bare["per_s"],
        "bare_answer_s": bare["answer_s"],
        "to_bare": ratio(found["per_s"], bare["per_s"]),
        "worked_off_after_s": round(after, 2),
        **watch.told(),
    }


async def _idle(home: Path, kept: Database, seconds: int, bar: Bar) -> dict[str, Any]:
    with outside_systems() as outer:
        async with up(home, kept, outer) as system:
            bar.begin(f"nothing to do for {seconds} s", seconds)
            with system.watch(look_s=5) as watch:
                for passed in range(seconds):
                    bar.at(passed)
                    await asyncio.sleep(1)
    told = watch.told()
    for cost in told["by_process"].values():
        cost["cpu_percent"] = round(cost["cpu_s"] / watch.seconds * 100, 2)
    return {"seconds": seconds, "cpu_percent": round(told["cpu_s"] / watch.seconds * 100, 2), **told}


def measure_intake(kind: str, entries: int, webhooks: int, bar: Bar) -> dict[str, Any]:
    """Measure a statement and webhooks, each on an installation of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kvit-bench-", ignore_cleanup_errors=True) as folder:
        for part in ("statement", "webhooks"):
            home = Path(folder) / part
            home.mkdir(mode=0o700)
            with database(kind, home) as kept:
                work = _statement(home, kept, entries, bar) if part == "statement" else None
                found[part] = asyncio.run(work or _webhooks(home, kept, webhooks, bar))
    return found


def measure_idle(kind: str, seconds: int, bar: Bar) -> dict[str, Any]:
    """Measure an installation that has nothing to do."""
    with tempfile.TemporaryDirectory(prefix="kvit-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        with database(kind, home) as kept:
            return asyncio.run(_idle(home, kept, seconds, bar))
