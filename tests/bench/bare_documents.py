"""The yardstick of a backfill: the PDFs of so many stored orders, printed and written, and nothing else.

    KVIT_HOME=… KVIT_DATABASE_URL=… python tests/bench/bare_documents.py --count 300

An order that is paid by bank transfer gets its proforma, one that is paid on delivery its label. One after the other,
so all of it in this process. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select

from connectors.files import write_whole
from connectors.roles import Carrier, DocumentPrinter
from domain.payments import Method
from domain.rules import DocumentKind
from store import orders, rules
from store.tables import OrderRow
from tasks.dispatch import consignment_of
from tasks.installation import home_folder, open_installation
from tasks.invoice import draft_of


async def _measure(count: int) -> dict[str, Any]:
    opened = await open_installation(home_folder())
    async with opened.store.read() as connection:
        ids = list((await connection.execute(select(OrderRow.id).order_by(OrderRow.id).limit(count))).scalars().all())
        loaded = list((await orders.load(connection, ids)).values())
        channel = (await rules.current(connection))["cz"].rules
    printer, carrier = opened.connector("documents", DocumentPrinter), opened.connector("labels", Carrier)
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        for place, order in enumerate(loaded):
            if order.method is Method.CASH_ON_DELIVERY:
                await carrier.create(consignment_of(order, channel), f"bare-{place}")
            else:
                pdf = await printer.print(draft_of(order, channel, DocumentKind.PROFORMA, opened.clock()))
                write_whole(Path(folder) / f"{place}.pdf", pdf)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await opened.store.close()
    count = len(loaded)
    return {
        "orders": count,
        "seconds": round(seconds, 2),
        "per_s": round(count / seconds, 1),
        "cpu_s_per_order": round(cpu / count, 5),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The documents of stored orders, printed bare")
    parser.add_argument("--count", type=int, default=300)
    sys.stdout.write(json.dumps(asyncio.run(_measure(parser.parse_args().count))) + "\n")


if __name__ == "__main__":
    main()
