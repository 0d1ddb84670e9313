"""How much one, two and four dispatchers carry on together, on one PostgreSQL and one Prefect server.

    python tests/bench/dispatchers.py [--payments 400] [--dispatchers 1,2,4]

Payments by card, each with four calls outside (an invoice, a label, two messages) of 20 ms, are stored at once, and
the time is taken until the last effect is recorded. Everything runs on this machine, the outside world too, so with
few cores more dispatchers only share them: what is seen then is what they cost each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Instead of this script's own folder.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.path.insert(1, str(Path(__file__).parents[2]))

from cluster import Cluster, cluster

PAYMENTS = 400
DISPATCHERS = (1, 2, 4)
CALL_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu_s(pid: int) -> float:
    """Return the processor's time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def _burst(shop: Cluster, payments: int) -> dict[str, Any]:
    numbers = await shop.place(payments)
    if not await shop.rest(within_s=300):
        raise SystemExit("the orders did not come to rest; nothing is measured")
    acts = len(shop.world.acts)
    pids = [one.process.pid for one in shop.members.values()]
    before = [_cpu_s(pid) for pid in pids]
    began = time.monotonic()
    await shop.pay(numbers)
    # What failed on a busy machine would wait for a minute: it is tried again as soon as nothing else is due.
    if not await shop.rest(within_s=600):
        raise SystemExit("the payments did not come to rest; nothing is measured")
    seconds = time.monotonic() - began
    used = [after - first for after, first in zip(map(_cpu_s, pids), before, strict=True)]
    shares = await shop.ask(
        "SELECT actor, count(*) AS moves FROM journal WHERE move = 'done' AND step = 'invoice'"
        " AND at >= (SELECT min(received_at) FROM payments WHERE order_reference = :first) GROUP BY actor",
        first=numbers[0],
    )
    return {
        "payments": payments,
        "seconds": round(seconds, 2),
        "per_second": round(payments / seconds, 1),
        "calls_per_payment": round((len(shop.world.acts) - acts) / payments, 2),
        "dispatchers_cpu_s_per_payment": round(sum(used) / payments, 4),
        "load_average": round(os.getloadavg()[0], 1),
        "payments_of_each": sorted((row.moves for row in shares), reverse=True),
    }


async def _measured(payments: int, dispatchers: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "call_s": CALL_S}
    with tempfile.TemporaryDirectory(prefix="kvit-bench-") as folder:
        async with cluster(Path(folder) / "cluster") as shop:
            found["prefect_on"] = shop.prefect_on
            shop.world.slow_s = CALL_S
            for count in dispatchers:
                missing = count - len(shop.members)
                await asyncio.gather(*(shop.start(own_line=False) for _ in range(missing)))
                sys.stderr.write(f"{count} dispatchers …\n")
                found[f"dispatchers {count}"] = await _burst(shop, payments)
            if wrong := shop.faults():
                raise SystemExit(f"something was lost or doubled, so nothing counts: {wrong[:5]}")
    return found


def measure(payments: int = PAYMENTS, dispatchers: tuple[int, ...] = DISPATCHERS) -> dict[str, Any]:
    """Measure each number of dispatchers, the smallest first."""
    return asyncio.run(_measured(payments, tuple(sorted(dispatchers))))


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description="What several dispatchers carry on together")
    parser.add_argument("--payments", type=int, default=PAYMENTS)
    parser.add_argument("--dispatchers", default=",".join(map(str, DISPATCHERS)))
    given = parser.parse_args()
    counts = tuple(int(one) for one in given.dispatchers.split(","))
    sys.stdout.write(json.dumps(measure(given.payments, counts), indent=2) + "\n")


if __name__ == "__main__":
    main()
