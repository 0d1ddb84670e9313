"""The dispatcher: takes what is due, groups it by scenario, and hands each group to the scenario's flow.

What is due stands in our own database and nowhere else, so a dispatcher that dies loses nothing: its leases run out,
and the next one goes on. A single payment is handed over at once; what falls due while a run is under way makes up the
next one, so batches grow with the load by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from prefect import State, get_client, tags
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.context import AsyncClientContext
from prefect.states import Crashed
from sqlalchemy.exc import SQLAlchemyError

from deployments.announced import listen
from flows.scenarios import SCENARIOS
from store import inbox, work
from store.work import Due
from tasks.installation import Installation
from tasks.intake import work_off_inbox
from tasks.invoice import print_documents
from tasks.pace import LEASE

BATCH = 200
"""Payments in one run at most: the run's table and log stay readable."""
_IDLE_S = 1.0
_WORKER_TAG = "worker "

_log = logging.getLogger("kvit.dispatcher")


class Dispatcher:
    """Works off what is due. `spacing` is the time between the starts of two runs, in seconds.

    A run that begins while Prefect still writes the events of the one before waits for about two seconds on SQLite
    (PrefectHQ/prefect#18934); there, runs start a second apart. On PostgreSQL several go at once.
    """

    def __init__(self, opened: Installation, *, spacing: float = 1.0, concurrent: int = 1) -> None:
        self._opened = opened
        self._spacing = spacing
        self._concurrent = concurrent
        self._woken = asyncio.Event()
        self._last_start = 0.0
        self.busy = False
        """Whether a round is under way."""

    def wake(self) -> None:
        """Say that something was stored and is due now."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; a failure of the database or of Prefect is waited out.

        Meanwhile sources that say when there is something new are listened to.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._listening())
            if not await self._reach_prefect(stack, stop):
                return
            await self._mark_left_over()
            next_sweep = time.monotonic() + 60
            while not stop.is_set():
                try:
                    busy = await self.round()
                    if time.monotonic() > next_sweep:
                        await self._mark_left_over()
                        next_sweep = time.monotonic() + 60
                except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy translates; due stays due
                    _log.warning("the database is not available (%s); trying again", type(error).__name__)
                    busy = 0
                if not busy:
                    await self._idle(stop)

    @asynccontextmanager
    async def _listening(self) -> AsyncGenerator[None]:
        listening = asyncio.create_task(listen(self._opened, self.wake))
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    async def _reach_prefect(self, stack: AsyncExitStack, stop: asyncio.Event) -> bool:
        """Open the one client of this process's life, as soon as Prefect's server answers; False when told to stop."""
        while not stop.is_set():
            try:
                await stack.enter_async_context(AsyncClientContext.get_or_create())
            except Exception as error:  # noqa: BLE001 - Prefect says in many ways that its server is away
                _log.warning("Prefect's server is not available (%s); trying again", type(error).__name__)
                await self._idle(stop)
            else:
                return True
        return False

    async def work_off(self) -> int:
        """Work off everything that is due now, then stop; return how many subjects were carried on."""
        total = 0
        async with AsyncClientContext.get_or_create():
            await self._mark_left_over()
            while taken := await self.round():
                total += taken
            await print_documents(self._opened)
        return total

    async def round(self) -> int:
        """Take what is due once and carry it on; return how much there was."""
        self.busy = True
        try:
            return await self._round()
        finally:
            self.busy = False

    async def _round(self) -> int:
        letters = await work_off_inbox(self._opened)
        if not await self._anything_due():
            return letters  # looking first leaves the database's one writer alone
        pause = self._last_start + self._spacing - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        now = self._opened.clock()
        async with self._opened.store.write() as connection:
            due = await work.take(
                connection,
                owner=self._opened.worker,
                now=now,
                lease_until=now + LEASE,
                limit=BATCH * self._concurrent,
            )
        groups = [group for scenario in SCENARIOS for group in _grouped(due, scenario)]
        slots = asyncio.Semaphore(self._concurrent)
        await asyncio.gather(*(self._carry_on(group, slots) for group in groups))
        return letters + len(due)

    async def _anything_due(self) -> bool:
        async with self._opened.store.read() as connection:
            return await work.count_due(connection, self._opened.clock()) > 0

    async def _carry_on(self, group: Sequence[Due], slots: asyncio.Semaphore) -> None:
        flow, parameter = SCENARIOS[group[0].scenario]
        ids = [due.id for due in group]
        retry_at = None
        async with self._leased(ids), slots:
            pause = self._last_start + self._spacing - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            self._last_start = time.monotonic()
            try:
                with tags(f"{_WORKER_TAG}{self._opened.worker}"):
                    state: State[Any] = await flow(**{parameter: [due.subject_id for due in group]}, return_state=True)
                if state.is_crashed() or (state.is_failed() and state.name != "Needs a person"):
                    _log.warning("a run of %s ended as %s", flow.name, state.name)
                    retry_at = self._opened.clock() + timedelta(seconds=30)
            except Exception as error:  # noqa: BLE001 - whatever Prefect raises, what was due stays due
                _log.warning("a run of %s could not be carried out (%s)", flow.name, type(error).__name__)
                retry_at = self._opened.clock() + timedelta(seconds=30)
        async with self._opened.store.write() as connection:
            await work.give_back(connection, self._opened.worker, ids, due_at=retry_at)

    @asynccontextmanager
    async def _leased(self, ids: Sequence[int]) -> AsyncGenerator[None]:
        """Keep the leases while a run goes on, however long it takes."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE.total_seconds() / 3)
                with suppress(SQLAlchemyError, OSError):  # the next renewal may come in time
                    async with self._opened.store.write() as connection:
                        await work.renew(connection, self._opened.worker, ids, self._opened.clock() + LEASE)

        renewal = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewal.cancel()

    async def _idle(self, stop: asyncio.Event) -> None:
        """Wait until something was stored here, something falls due, or a while has passed."""
        waits = [asyncio.create_task(self._woken.wait()), asyncio.create_task(stop.wait())]
        await asyncio.wait(waits, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._woken.clear()

    async def _mark_left_over(self) -> None:
        """Mark runs of workers that are gone as crashed; Prefect would show them as running for ever.

        A worker that runs something holds a lease, so a running run whose worker holds none was left over.
        """
        running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
        try:
            async with get_client() as client:
                runs = await client.read_flow_runs(flow_run_filter=running, limit=200)
                async with self._opened.store.read() as connection:
                    alive = await work.holders(connection, self._opened.clock())
                for run in runs:
                    workers = {tag.removeprefix(_WORKER_TAG) for tag in run.tags if tag.startswith(_WORKER_TAG)}
                    if workers and not workers & (alive | {self._opened.worker}):
                        said = "the process that ran it is gone; what it had begun goes on in a new run"
                        await client.set_flow_run_state(run.id, Crashed(message=said), force=True)
        except Exception as error:  # noqa: BLE001 - the log is tidied another time
            _log.warning("left-over runs could not be marked (%s)", type(error).__name__)

    async def waiting(self) -> int:
        """Return how much is due now, for health and metrics."""
        now = self._opened.clock()
        async with self._opened.store.read() as connection:
            return await work.count_due(connection, now) + await inbox.count_due(connection, now)


def _grouped(due: Sequence[Due], scenario: str) -> list[Sequence[Due]]:
    mine = [row for row in due if row.scenario == scenario]
    return [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]
