"""A backfill of many orders on the built-in connectors: what an order costs, and whether that grows with their number.

Half of the orders are paid by bank transfer (goods reserved, a proforma as PDF), half on delivery (goods deducted, a
label as PDF, the status changed). `kvit backfill` carries them on; Prefect's server runs beside it, and no dispatcher.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from bench.commands import Shop, prefect_server
from bench.figures import of_sizes, ratio
from bench.progress import Bar
from bench.start import ROOT, Database, database, environment
from sqlalchemy import func, select

from store import stock
from store.audit import audit
from store.database import Store, open_store
from store.tables import BackfillItem, BackfillRow, OrderRow
from tasks.rules import save_rules

_RULES = ROOT / "deployments" / "rules" / "cz.yaml"
_BARE = 300


def _order(place: int) -> dict[str, Any]:
    address = {"name": "Jan Zkušební", "street": "Dlouhá 1", "city": "Brno", "postcode": "602 00", "country": "CZ"}
    return {
        "number": f"CZ{place:06}",
        "channel": "cz",
        "method": ("bank_transfer", "cash_on_delivery")[place % 2],
        "placed_at": "2026-11-02T08:00:00Z",
        "currency": "CZK",
        "total": "290.00",
        "customer": {"number": f"C{place}", "name": "Jan Zkušební", "email": "jan@example.com", "address": address},
        "delivery": {"method": "courier", "address": address},
        "lines": [{"sku": "TEA", "title": "Čaj", "quantity": 1, "unit_price": "290.00", "vat_rate": "12"}],
    }


async def prepare(store: Store) -> None:
    """Put the sample's Czech channel into force, with goods enough for every order."""
    now = datetime.now(UTC)
    written = yaml.safe_load(await asyncio.to_thread(_RULES.read_text, encoding="utf-8"))
    written["references"]["order_number"] = "CZ[0-9]{6}"
    async with store.write() as connection:
        await save_rules(connection, written, author="bench", reason="bench", now=now)
        await stock.count(connection, "TEA", "Čaj", 10_000_000, now=now)


async def _check(store: Store, count: int, results: dict[str, int]) -> None:
    async with store.read() as connection:
        found = await audit(connection, now=datetime.now(UTC))
        orders = await connection.scalar(select(func.count()).select_from(OrderRow))
    if results != {"done": count} or orders != count or found:
        raise SystemExit(f"the backfill of {count} orders ended as {results}; the audit found {found[:1]}")


async def _at_work(store: Store) -> float:
    """Return how long the backfill took without the command's own beginning and end, which cost the same for any."""
    async with store.read() as connection:
        row = (await connection.execute(select(BackfillRow.started_at, BackfillRow.finished_at))).one()
    return (row.finished_at - row.started_at).total_seconds()


async def _bare(home: Path, kept: Database, count: int) -> dict[str, Any]:
    """Print the same documents and labels, with no journal and no log."""
    script = Path(__file__).with_name("bare_documents.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), "--count", str(count)),
        env=environment(home, kept),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit("the bare printing failed")
    found: dict[str, Any] = json.loads(out)
    return found


async def _size(home: Path, kept: Database, count: int, bar: Bar) -> dict[str, Any]:
    bar.begin(f"backfill of {count:,} orders: taking them in", count)
    store = await open_store(kept.url)
    await prepare(store)
    async with prefect_server(home) as (extra, roots):
        shop = Shop(home, kept, extra, {**roots, **kept.roots})
        file = home / "orders.json"
        document = json.dumps([_order(place) for place in range(count)])
        await asyncio.to_thread(file.write_text, document, encoding="utf-8")
        del document
        taken = await shop.run("orders", "import", str(file))
        before = await shop.sizes_mb(store)
        bar.begin(f"backfill of {count:,} orders", count)

        async def look() -> None:
            ended = select(func.count()).where(BackfillItem.result.is_not(None))
            async with store.read() as connection:
                bar.at(await connection.scalar(ended) or 0)

        ran = await shop.run("backfill", "--channel", "cz", look=look)
        report = await shop.run("backfill", "--report", "1")
        after = await shop.sizes_mb(store)
    await _check(store, count, report.printed["results"])
    work_s = await _at_work(store)
    bare = await _bare(home, kept, min(count, _BARE))
    await store.close()
    cost = ran.watch.told()
    return {
        "orders": count,
        "seconds": round(ran.seconds, 1),
        "at_work_s": round(work_s, 1),
        "per_s": round(count / work_s, 1),
        "ms_per_order": round(work_s / count * 1000, 2),
        "cpu_s_per_order": round(cost["cpu_s"] / count, 5),
        "taken_in_per_s": round(count / taken.seconds, 1),
        "bare_printing_per_s": bare["per_s"],
        "bare_printing_cpu_s_per_order": bare["cpu_s_per_order"],
        "to_bare_printing": ratio(count / work_s, bare["per_s"]),
        "growth_kb_per_order": {name: round((after[name] - before[name]) * 1000 / count, 2) for name in after},
        **cost,
    }


def measure(kind: str, sizes: Sequence[int], bar: Bar) -> dict[str, Any]:
    """Measure each size on an installation of its own."""
    found: list[dict[str, Any]] = []
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="kvit-bench-", ignore_cleanup_errors=True) as folder:
            home = Path(folder) / "home"
            home.mkdir(mode=0o700)
            with database(kind, home) as kept:
                found.append(asyncio.run(_size(home, kept, count, bar)))
    return of_sizes(found)
