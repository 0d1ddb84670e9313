"""A backfill that several runs share: each chunk is carried on by one of them, and what one leaves by another."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any, cast

import pytest
from prefect import State, flow
from shop_builders import Clock, buy, done_outside, pay

from connectors.pacing import turn
from flows.backfill import backfill
from flows.backfill_shard import backfill_shard
from store import backfills
from tasks.backfill import HELD, Selection, begin, choose, end_chunk, open_backfill, take_chunk
from tasks.backfill_rates import at_rates
from tasks.installation import Installation
from tasks.match import match_payments
from tasks.shards import chunks_of


@flow(name="begun")
async def begun(paid: list[int]) -> None:
    """Match payments, and store a backfill of all that comes next, as a run does that dies then."""
    await match_payments(paid)
    await begin(Selection(), await choose(Selection()), notify=False, author="Jana", because="an import")


async def begin_with_three_orders(opened: Installation) -> None:
    numbers = ("CZ5001", "CZ5002", "CZ5003")
    for number in numbers:
        await buy(opened, number)
    await begun([await pay(opened, number) for number in numbers])


async def ended(run: object) -> tuple[str | None, str | None]:
    """Return in which state a run ended, and what it says."""
    state = await cast("Any", run)
    assert isinstance(state, State)
    return state.name, state.message


async def test_each_chunk_is_taken_once_and_one_that_a_dead_run_holds_when_its_lease_is_over(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("tasks.backfill.CHUNK", 1)
    monkeypatch.setattr("tasks.shards.LOOK_AGAIN_S", 0.01)
    await begin_with_three_orders(opened)
    row = await open_backfill(opened, 1)
    async with opened.store.write() as connection:
        assert await backfills.hold_chunk(connection, 1, 2, "dead", until=clock() + HELD, now=clock())
    taken: list[int] = []

    async def share() -> None:
        async with aclosing(chunks_of(opened, 1, row["chunks"])) as chunks:
            async for chunk, _ in chunks:
                parts = await take_chunk(opened, 1, chunk, notify=False)
                await end_chunk(opened, row, parts, failed=None)
                taken.append(chunk)

    sharing = asyncio.gather(*(share() for _ in range(3)))
    async with asyncio.timeout(120):
        while len(taken) < 2:  # noqa: ASYNC110 - then only the one is left that is held, and all that comes after it
            await asyncio.sleep(0.01)
        clock.now += HELD + timedelta(seconds=1)
        await sharing
    assert sorted(taken) == [1, 2, 3, 4, 5, 6]
    assert set(taken[:3]) == {1, 2, 3}  # what was placed comes before what was paid, whoever has it


async def test_each_run_keeps_its_part_of_a_rate_of_as_many_as_are_at_work(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    waits: list[float] = []

    async def pass_at_once(seconds: float) -> None:
        waits.append(seconds)

    async def second_request() -> int:
        await share()
        waits.clear()
        for _ in range(2):
            await turn("cdek")
        return round(waits[-1])

    monkeypatch.setattr("connectors.pacing.sleep", pass_at_once)
    monkeypatch.setattr("tasks.backfill.CHUNK", 1)
    await begin_with_three_orders(opened)
    row = await open_backfill(opened, 1) | {"rates": {"cdek": 1 / 6}}
    async with at_rates(opened, row, runs=2) as share:
        assert await second_request() == 12, "as many as were asked for"
    async with opened.store.write() as connection:
        for chunk, owner in enumerate(("this one", "another", "one started by hand"), start=1):
            assert await backfills.hold_chunk(connection, 1, chunk, owner, until=clock() + HELD, now=clock())
    async with at_rates(opened, row, runs=2) as share:
        assert await second_request() == 18, "one more is at work"


async def test_a_run_that_shares_a_backfill_carries_it_on_and_another_one_ends_it(opened: Installation) -> None:
    await begin_with_three_orders(opened)
    assert await ended(backfill_shard(1, return_state=True)) == ("Done", "backfill 1: 2 chunks carried on here")
    done = await done_outside(opened)
    assert (done["labels"], done["letters"]) == (3, 0)
    resumed = backfill(Selection(), dry_run=False, resume=1, shards=2, return_state=True)
    assert await ended(resumed) == ("Done", "backfill 1: 6 done")
    refused, said = await ended(backfill_shard(1, return_state=True))
    assert refused == "Refused"
    assert "has ended" in (said or "")
