"""A shop on several machines, of which one after the other is cut off.

    python tests/faults/several.py [--orders 300] [--dispatchers 3] [--stopped 75]

Runs `kvit dispatcher` and `kvit web` several times, each on a loopback address of its own, on one PostgreSQL and one
Prefect server. While orders are paid by webhooks, one dispatcher is killed (SIGKILL), one is stopped (SIGSTOP) for
longer than its lease and then goes on, one loses its line to the database, and a web process is killed. Prints a JSON
document. Exit 1 when anything was lost, doubled, or left over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster import Cluster, cluster

from store.audit import audit

_CUT_S = 20.0
_WAYS = ("one is killed", "one is stopped", "one is cut off from the database")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cut off one of several machines after the other, and count.")
    parser.add_argument("--orders", type=int, default=300, help="so many orders (300)")
    parser.add_argument("--dispatchers", type=int, default=3, help="so many dispatchers (3)")
    parser.add_argument("--stopped", type=float, default=75, help="for how many seconds one is stopped (75)")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (1)")
    given = parser.parse_args()
    if given.dispatchers < len(_WAYS):
        parser.error(f"--dispatchers must be at least {len(_WAYS)}: {', '.join(_WAYS)}")
    return given


async def _until_acts(shop: Cluster, count: int) -> None:
    while len(shop.world.acts) < count:  # noqa: ASYNC110 - the outside world tells it, no event does
        await asyncio.sleep(0.02)


async def _cut_off(shop: Cluster, *, orders: int, stopped_s: float, said: list[str]) -> None:
    """Cut off one machine after the other, in the midst of what it does."""
    acts = orders * 4  # an invoice, a label and two messages each
    killed, frozen, cut, *_ = [one for name, one in shop.members.items() if name.startswith("dispatcher")]

    def tell(what: str) -> None:
        said.append(f"{what} after {len(shop.world.acts)} acts")
        sys.stderr.write(f"{said[-1]}\n")

    await _until_acts(shop, acts // 10)
    tell(f"{killed.name} killed")
    shop.end(killed)
    await _until_acts(shop, acts // 5)
    frozen.process.send_signal(signal.SIGSTOP)
    tell(f"{frozen.name} stopped")
    began = time.monotonic()
    if cut.line is not None:
        cut.line.cut()
        tell(f"{cut.name} cut off from the database")
        web = next(one for name, one in shop.members.items() if name.startswith("web"))
        tell(f"{web.name} killed")
        shop.end(web)
        await asyncio.sleep(_CUT_S)
        await cut.line.mend()
        tell(f"{cut.name} joined again")
    await asyncio.sleep(max(0.0, stopped_s - (time.monotonic() - began)))
    frozen.process.send_signal(signal.SIGCONT)
    tell(f"{frozen.name} went on")


async def broken(folder: Path, *, orders: int, dispatchers: int, stopped_s: float, seed: int) -> dict[str, Any]:
    """Carry orders on while machines are cut off, and return what came of it."""
    said: list[str] = []
    async with cluster(folder, seed=seed) as shop:
        await asyncio.gather(*(shop.start() for _ in range(dispatchers)), *(shop.start("web") for _ in range(2)))
        numbers = await shop.place(orders)
        await shop.rest(within_s=120)
        shop.world.slow_s = 0.2  # so that requests are under way whenever somebody is cut off
        began = time.monotonic()
        trouble = asyncio.create_task(_cut_off(shop, orders=orders, stopped_s=stopped_s, said=said))
        slots = asyncio.Semaphore(8)

        async def sell(number: str) -> None:
            async with slots:
                await shop.deliver(number)

        await asyncio.gather(*(sell(number) for number in numbers))
        await trouble
        rested = await shop.rest(within_s=300)
        seconds = time.monotonic() - began
        async with shop.store.read() as connection:
            findings = await audit(connection, now=shop.opened.clock())
        waits = await shop.ask("SELECT count(*) FROM effects WHERE state IN ('in_doubt', 'rejected')")
        return {
            "orders": orders,
            "dispatchers": dispatchers,
            "prefect_on": shop.prefect_on,
            "cut_off": said,
            "came_to_rest": rested,
            "lost_or_doubled": shop.faults(),
            "effects": (await shop.ask("SELECT count(*) FROM effects"))[0][0],
            "asked_of_a_person": waits[0][0],
            "audit": [f"{one.invariant}: {one.subject}: {one.said}" for one in findings],
            "seconds": round(seconds, 1),
        }


def main() -> int:
    """Run it, print what came of it, and return the exit code."""
    given = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="kvit-several-"))
    run = broken(folder, orders=given.orders, dispatchers=given.dispatchers, stopped_s=given.stopped, seed=given.seed)
    found = asyncio.run(run)
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    well = found["came_to_rest"] and not (found["lost_or_doubled"] or found["audit"] or found["asked_of_a_person"])
    if well:
        shutil.rmtree(folder)
    else:
        sys.stderr.write(f"what went wrong lies in {folder}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
