"""Shards: several runs carry one backfill on together, each taking one chunk after the other that no other run has.

A chunk is held by a lease. A run that dies leaves its chunk to the others once the lease has run out; what it had done
of it stays done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from prefect import get_run_logger
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import ObjectNotFound
from sqlalchemy.exc import SQLAlchemyError

from store import backfills
from tasks.backfill import HELD
from tasks.installation import Installation

RENEW_S = 12.0
LOOK_AGAIN_S = 1.0
_DEPLOYMENT = "backfill shard/backfill shard"


async def chunks_of(opened: Installation, backfill_id: int, total: int) -> AsyncGenerator[tuple[int, int]]:
    """Give one chunk after the other that this run is to carry on, and how many of all will have ended after it.

    It ends when every chunk has. What was placed is carried on before what was paid, by whichever runs. Close it when
    you leave it early (contextlib.aclosing), or the chunk is held until its lease has run out.
    """
    owner = f"{opened.worker[:80]} {uuid4().hex[:12]}"
    while waiting := await _open(opened, backfill_id):
        taken = 0
        for chunk, subject in waiting:
            if subject != waiting[0][1]:
                break
            if not await _hold(opened, backfill_id, chunk, owner):
                continue
            taken += 1
            async with _kept(opened, backfill_id, chunk, owner):
                yield chunk, total - len(waiting) + taken
        if not taken:
            await asyncio.sleep(LOOK_AGAIN_S)


async def _open(opened: Installation, backfill_id: int) -> list[tuple[int, str]]:
    async with opened.store.read() as connection:
        return await backfills.open_by_subject(connection, backfill_id)


async def _hold(opened: Installation, backfill_id: int, chunk: int, owner: str) -> bool:
    async with opened.store.write() as connection:
        now = opened.clock()
        return await backfills.hold_chunk(connection, backfill_id, chunk, owner, until=now + HELD, now=now)


@asynccontextmanager
async def _kept(opened: Installation, backfill_id: int, chunk: int, owner: str) -> AsyncGenerator[None]:
    """Keep a chunk's lease while it is carried on, however long that takes."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(SQLAlchemyError, OSError):  # the next renewal may come in time
                await _hold(opened, backfill_id, chunk, owner)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        async with opened.store.write() as connection:
            await backfills.let_chunk_go(connection, backfill_id, chunk, owner)


async def start_others(backfill_id: int, count: int) -> None:
    """Start so many more runs for a backfill through the work pool, or wherever the deployments are served.

    Where there is no such deployment this run carries on alone, and says so.
    """
    given = {"backfill": backfill_id, "runs": count + 1}
    for _ in range(count):
        try:
            await arun_deployment(_DEPLOYMENT, parameters=given, timeout=0, as_subflow=False)
        except ObjectNotFound:
            said = "the deployment “backfill shard” is not there, so this run carries on alone; run prefect deploy"
            get_run_logger().warning(said)
            return
