"""A backfill that is killed three times, watched in the Prefect UI in a browser: it moves, and does each order once.

KVIT_WATCHED_ORDERS says how many orders (500), KVIT_WATCHED_SHOTS names a folder for pictures of what was seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import opened_page
from faults.backfill import Shop, counted, prefect_server, prepared, well
from playwright.async_api import Page

from tasks.backfill import CHUNK

ORDERS = int(os.environ.get("KVIT_WATCHED_ORDERS", "500"))
SHOTS = os.environ.get("KVIT_WATCHED_SHOTS")
CHUNKS = -(-ORDERS // CHUNK)
KILLS = 3
LOOK_S = 0.2
SAID = re.compile(rf"\d+ %: (\d+) of {ORDERS} ended in backfill 1")


@pytest.fixture
async def page() -> AsyncGenerator[Page]:
    async with opened_page() as opened:
        yield opened


@dataclass
class Watched:
    """What somebody sees of a backfill who has its run's page open."""

    address: str
    page: Page
    runs: list[str] = field(default_factory=list[str])
    ended: list[int] = field(default_factory=list[int])
    """How much had ended, each time that the page was looked at."""

    def asked(self, **chosen: Any) -> list[dict[str, Any]]:
        """Ask the server for flow runs, the newest first."""
        answer = httpx.post(f"{self.address}/api/flow_runs/filter", json=chosen | {"sort": "START_TIME_DESC"})
        return answer.raise_for_status().json()

    async def open_next(self, process: subprocess.Popen[bytes]) -> None:
        """Open the page of the run that a command has just started."""
        while process.poll() is None:
            new = [
                run["id"] for run in self.asked(flows={"name": {"any_": ["backfill"]}}) if run["id"] not in self.runs
            ]
            if new:
                self.runs += new
                await self.page.goto(f"{self.address}/v2/runs/flow-run/{new[0]}?tab=Artifacts")
                return
            await asyncio.sleep(LOOK_S)
        raise AssertionError(f"the command ended before it had a run: {process.communicate()[0].decode()}")

    async def look(self) -> None:
        """Load the page anew and read how much has ended, if it says so yet."""
        await self.page.reload()
        await self.page.get_by_role("tab", name="Artifacts").wait_for()
        await asyncio.sleep(5 * LOOK_S)  # what it shows is fetched after it has opened
        if shown := SAID.search(await self.page.inner_text("body")):
            self.ended.append(int(shown[1]))

    async def picture(self, name: str) -> None:
        """Keep a picture of the page."""
        if SHOTS:
            await self.page.screenshot(path=Path(SHOTS) / f"{name}.png")


def is_in_the_midst_of(shop: Shop, chunk: int) -> bool:
    """Say whether steps of a chunk have begun, and it has not ended."""
    begun = (
        "SELECT count(*) FROM backfill_items JOIN effects USING (order_id) "  # noqa: S608 - a number of ours
        f"WHERE backfill_items.chunk = {int(chunk)} AND backfill_items.result IS NULL"
    )
    return shop.ask(begun)[0][0] > 0


@pytest.mark.long
@pytest.mark.timeout(120 + ORDERS)
async def test_a_backfill_killed_three_times_is_seen_to_move_and_does_each_order_once(
    page: Page, tmp_path: Path
) -> None:
    with prefect_server(tmp_path) as address:
        shop = prepared(tmp_path, f"{address}/api", ORDERS)
        watched = Watched(address, page)
        process = shop.start("backfill", "--channel", "cz", "--json")
        try:
            for kill in range(1, KILLS + 1):
                await watched.open_next(process)
                while not is_in_the_midst_of(shop, -(-kill * CHUNKS // KILLS)):
                    assert process.poll() is None, process.communicate()[0].decode()
                    await watched.look()
                await watched.look()
                await watched.picture(f"before-kill-{kill}")
                process.kill()
                process.wait()
                shop.age()
                process = shop.start("backfill", "--resume", "1", "--json")
            await watched.open_next(process)
            while process.poll() is None:
                await watched.look()
            out, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
        await watched.look()
        await watched.picture("ended")
        chunks = Counter(run["name"] for run in watched.asked(flow_runs={"name": {"like_": "· chunk "}}))
        await look_at_the_report(watched)
        found = counted(shop) | {"orders": ORDERS, "kills": KILLS}

    assert json.loads(out)["said"] == f"backfill 1: {ORDERS} done"
    assert well(found, KILLS), found
    # It was seen to move, never back, and to its end.
    assert watched.ended == sorted(watched.ended)
    assert len(set(watched.ended)) >= 2
    assert watched.ended[-1] == ORDERS
    # A run for each chunk, and once more for one in whose midst it was killed; one for each time that it was begun.
    assert len(chunks) == CHUNKS
    assert chunks.total() <= CHUNKS + KILLS
    assert len(watched.runs) == 1 + KILLS


async def look_at_the_report(watched: Watched) -> None:
    """Open the table of results from the run's page, as an operator does."""
    await watched.page.get_by_text("backfill-report").first.click()
    await watched.page.get_by_text(f"{ORDERS} done").first.wait_for()
    await watched.page.locator("a", has_text=re.compile(r"^[0-9a-f]{8}$")).first.click()
    await watched.page.get_by_text("K000000").first.wait_for()
    await watched.picture("report")
    await watched.page.goto(f"{watched.address}/v2/runs/flow-run/{watched.runs[-1]}?tab=Details")
    await watched.page.get_by_role("tab", name="Logs").click()
    await watched.picture("log")
