"""The dispatcher: takes what is due, groups it by scenario, and hands each group to the scenario's flow.

What is due stands in our own database and nowhere else, so a dispatcher that dies loses nothing: its leases run out,
and the next one goes on. A single payment is handed over at once; what falls due while a run is under way makes up the
next one, so batches grow with the load by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from importlib import import_module
from typing import Any

from prefect import Flow, State, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState
from prefect.states import Crashed
from sqlalchemy.exc import SQLAlchemyError

from deployments import collector
from deployments.announced import listen
from deployments.reporter import READY, Reporter, is_left_over, reporting
from flows.scenarios import SCENARIOS
from store import inbox, work
from store.bell import hear
from store.work import Due
from tasks.ends import NEEDS_PERSON
from tasks.installation import Installation
from tasks.intake import work_off_inbox
from tasks.invoice import print_documents
from tasks.metrics import Run
from tasks.pace import LEASE

BATCH = 200
"""Payments in one run at most: the run's table and log stay readable."""
_IDLE_S = 1.0
RUSH = 8
"""So much at one look is a rush: more is coming, and a run of many costs little more than a run of few."""
_GATHER_S = 0.5
"""For how long what comes in a rush is gathered at most, while other runs are under way."""
_LOOK_S = 0.03
_TIDY_S = 60
_FIRST = ("order_placed", "dispatch_unpaid", "deferred")
"""Scenarios that others wait for: a payment may need what its order's beginning did."""
_WORKER_TAG = "worker "

_log = logging.getLogger("kvit.dispatcher")


class Dispatcher:
    """Works off what is due: batches of payments, each in a run of its scenario; concurrent of them at once."""

    def __init__(self, opened: Installation, *, concurrent: int = 4) -> None:
        self._opened = opened
        self._concurrent = concurrent
        self._slots = asyncio.Semaphore(concurrent)
        self._woken = asyncio.Event()
        self._reporter: Reporter | None = None
        self._runs: set[asyncio.Task[None]] = set()
        self._looking = False
        self._rush = False
        self._flows: dict[str, Flow[..., Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether something is carried on, or is still to be reported to Prefect."""
        return self._looking or bool(self._runs) or bool(self._reporter and self._reporter.behind)

    def wake(self) -> None:
        """Say that something was stored and is due now."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; a failure of the database or of Prefect is waited out.

        Meanwhile sources that say when there is something new are listened to.
        """
        await asyncio.to_thread(import_module, "connectors.pdf")  # the first document would wait for it
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_beside(self._listen()))
            if not await self._reach_prefect(stack, stop):
                return
            collector.loaded()
            await stack.enter_async_context(_beside(self._tidy()))
            while not stop.is_set():
                try:
                    taken = await self._look(wait=False)
                except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy translates; due stays due
                    _log.warning("the database is not available (%s); trying again", type(error).__name__)
                    taken = 0
                if not taken:
                    await self._idle(stop)
            if self._runs:
                await asyncio.wait(self._runs)

    async def _listen(self) -> None:
        await asyncio.gather(listen(self._opened, self.wake), hear(self._opened.store, self.wake))

    async def _tidy(self) -> None:
        """Look for what is left over in Prefect again and again; beside the work, which no slow answer holds up."""
        while True:
            await self._mark_left_over()
            await asyncio.sleep(_TIDY_S)

    def _reporting(self, *, spares: bool) -> AbstractAsyncContextManager[Reporter]:
        return reporting(tags=[f"{_WORKER_TAG}{self._opened.worker}"], spares=spares)

    async def _reach_prefect(self, stack: AsyncExitStack, stop: asyncio.Event) -> bool:
        """Open the one client of this process's life, as soon as Prefect's server answers; False when told to stop."""
        while not stop.is_set():
            try:
                self._reporter = await stack.enter_async_context(self._reporting(spares=True))
            except Exception as error:  # noqa: BLE001 - Prefect says in many ways that its server is away
                _log.warning("Prefect's server is not available (%s); trying again", type(error).__name__)
                await self._idle(stop)
            else:
                return True
        return False

    async def work_off(self) -> int:
        """Work off everything that is due now, then stop; return how many subjects were carried on."""
        total = 0
        async with self._reporting(spares=False) as self._reporter:
            await self._mark_left_over()
            while taken := await self.round():
                total += taken
            await print_documents(self._opened)
        return total

    async def round(self) -> int:
        """Take what is due once and carry it on; return how much there was."""
        return await self._look(wait=True)

    async def _look(self, *, wait: bool) -> int:
        self._looking = True
        try:
            if not wait:
                await self._gather()
            letters = await work_off_inbox(self._opened)
            due = await self._take(1 if wait else self._concurrent - len(self._runs))
            self._rush = max(letters, len(due)) >= RUSH
            first: list[asyncio.Task[None]] = []
            for scenario in SCENARIOS:
                for group in _grouped(due, scenario):
                    run = self._begin(group, after=() if scenario in _FIRST else tuple(first))
                    if scenario in _FIRST:
                        first.append(run)
                    if wait:
                        await run
            return letters + len(due)
        finally:
            self._looking = False

    async def _gather(self) -> None:
        """Let more come in a rush, the more runs are under way; one that is alone leaves the machine idle."""
        until = time.monotonic() + _GATHER_S
        while self._rush and len(self._runs) > 1 and time.monotonic() < until:
            if await self.waiting() >= BATCH // self._concurrent * len(self._runs):
                break
            await asyncio.sleep(_LOOK_S)

    async def _take(self, batches: int) -> Sequence[Due]:
        """Lease what is due, as many batches as can be begun now."""
        # Looking first leaves the database's one writer alone.
        if batches <= 0 or not await self._anything_due():
            return []
        now = self._opened.clock()
        async with self._opened.store.write() as connection:
            return await work.take(
                connection,
                owner=self._opened.worker,
                now=now,
                lease_until=now + LEASE,
                limit=BATCH * batches,
            )

    async def _anything_due(self) -> bool:
        async with self._opened.store.read() as connection:
            return await work.anything_free(connection, self._opened.clock())

    def _begin(self, group: Sequence[Due], *, after: Sequence[asyncio.Task[None]]) -> asyncio.Task[None]:
        run = asyncio.create_task(self._carry_on(group, after))
        self._runs.add(run)

        def ended(run: asyncio.Task[None]) -> None:
            self._runs.discard(run)
            self.wake()

        run.add_done_callback(ended)
        return run

    async def _carry_on(self, group: Sequence[Due], after: Sequence[asyncio.Task[None]]) -> None:
        flow, parameter = SCENARIOS[group[0].scenario]
        ids = [due.id for due in group]
        retry_at = ended = None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._leased(ids))
            if after:
                await asyncio.wait(after)
            await stack.enter_async_context(self._slots)
            if self._reporter is not None:
                await self._reporter.keep_up()
            under_way = Run(self._opened, group)
            try:
                subjects = [due.subject_id for due in group]
                state: State[Any] = await self._quick(flow)(**{parameter: subjects}, return_state=True)
                ended = state.name
                if state.is_crashed() or (state.is_failed() and state.name != NEEDS_PERSON):
                    _log.warning("a run of %s ended as %s", flow.name, state.name)
                    retry_at = self._opened.clock() + timedelta(seconds=30)
            except Exception as error:  # noqa: BLE001 - whatever Prefect raises, what was due stays due
                _log.warning("a run of %s could not be carried out (%s)", flow.name, type(error).__name__)
                retry_at = self._opened.clock() + timedelta(seconds=30)
        async with self._opened.store.write() as connection:
            await work.give_back(connection, self._opened.worker, ids, due_at=retry_at)
        await under_way.over(ended)

    def _quick(self, flow: Flow[..., Any]) -> Flow[..., Any]:
        """Return a flow that doesn't ask the server where its results are kept: it keeps none."""
        if flow.name not in self._flows:
            kept = self._opened.home / "prefect" / "storage"
            self._flows[flow.name] = flow.with_options(persist_result=False, result_storage=kept)
        return self._flows[flow.name]

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

        A worker that runs something holds a lease, so a running run whose worker holds none was left over. Runs that
        were made ahead are taken away when they are old.
        """
        begun_or_ahead = {"operator": "or_", "type": {"any_": ["RUNNING", "PENDING"]}, "name": {"any_": [READY]}}
        running = FlowRunFilter(state=FlowRunFilterState.model_validate(begun_or_ahead))
        try:
            async with get_client() as client:
                runs = await client.read_flow_runs(flow_run_filter=running, limit=200)
                async with self._opened.store.read() as connection:
                    alive = await work.holders(connection, self._opened.clock())
                for run in runs:
                    if run.state_name == READY:
                        if is_left_over(run):
                            await client.delete_flow_run(run.id)
                        continue
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


@asynccontextmanager
async def _beside(what: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Have something go on until the block ends."""
    going_on = asyncio.create_task(what)
    try:
        yield
    finally:
        going_on.cancel()
        await asyncio.wait({going_on})


def _grouped(due: Sequence[Due], scenario: str) -> list[Sequence[Due]]:
    mine = [row for row in due if row.scenario == scenario]
    return [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]
