"""A worker of the laboratory: a process that runs the product's own dispatcher or web app, on a clock that is moved.

Everything that can kill it, or switch off one of its guards, is wrapped around the product here; the product knows
nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tasks.step

# Steps take these over when they are made, so this comes before the flows are imported.
tasks.step.RETRIES_IN_RUN_S = (0.05,)

import uvicorn

import deployments.dispatcher
import store.database
import store.effects
import store.inbox
import store.payments
import store.work
import tasks.outage
import web.app
from connectors.errors import Misconfigured
from deployments.dispatcher import Dispatcher
from fault_lab_plan import Death, Guard, Point
from fault_lab_systems import Books, Courier, Post, Printer
from flows.scenarios import SCENARIOS
from store.effects import EffectState, Verdict
from tasks import dispatch, invoice, money_back, notify
from tasks.installation import Installation, open_installation, working_on
from tasks.step import Step

_CELLS = 16
_ELAPSED, _SKEW, _FIRST_BUSY = 0, 1, 2


class Board:
    """A small file that all processes of an experiment share: how far the clock was moved, and who is busy.

    Time that elapses moves every timer in the workers; a wall clock that is set wrong moves only what they read from it.
    """

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(8 * _CELLS))
        with file.open("r+b") as opened:
            self._cells = mmap.mmap(opened.fileno(), 8 * _CELLS)

    def get(self, cell: int) -> float:
        """Return a number."""
        return struct.unpack_from("d", self._cells, 8 * cell)[0]

    def put(self, cell: int, value: float) -> None:
        """Change a number."""
        struct.pack_into("d", self._cells, 8 * cell, value)

    def now(self) -> datetime:
        """Return the time that the experiment's wall clock shows."""
        return datetime.now(UTC) + timedelta(seconds=self.get(_ELAPSED) + self.get(_SKEW))

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.put(_ELAPSED, self.get(_ELAPSED) + seconds)

    def set_wrong(self, seconds: float) -> None:
        """Set the wall clock wrong by some seconds."""
        self.put(_SKEW, seconds)

    def elapsed(self) -> float:
        """Return how much time was let pass, in seconds."""
        return self.get(_ELAPSED)

    def is_busy(self, worker: int) -> bool:
        """Say whether a worker is at work."""
        return bool(self.get(_FIRST_BUSY + worker))

    def set_busy(self, worker: int, busy: bool) -> None:
        """Say whether a worker is at work."""
        self.put(_FIRST_BUSY + worker, float(busy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker is told when it is started. place is its cell on the board; url is its database."""

    name: str
    place: int
    home: Path
    url: str | None
    board: Path
    books: str
    courier: str
    post: str
    can_look_up: bool = True
    own_documents: bool = False
    death: Death | None = None
    without: Guard | None = None


class _Reaper:
    """Kills this process when it passes the point at which it is to die."""

    def __init__(self, death: Death | None) -> None:
        self._death = death
        self._passed: Counter[Point] = Counter()

    def at(self, point: Point) -> None:
        """Pass a point."""
        self._passed[point] += 1
        if self._death is not None and self._death == Death(point, self._passed[point]):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal comes in a moment; nothing more is to happen until then

    def around(self, owner: Any, name: str, *, before: Point | None = None, after: Point | None = None) -> None:
        """Make points of the moments before and after an asynchronous function."""
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def wrapped(*args: Any, **options: Any) -> Any:
            if before is not None:
                self.at(before)
            result = await original(*args, **options)
            if after is not None:
                self.at(after)
            return result

        setattr(owner, name, wrapped)


def _make_mortal(reaper: _Reaper) -> None:
    """Put the boundaries of a step, a run and an intake into the product's code."""
    reaper.around(store.effects, "claim", before=Point.BEFORE_CLAIM, after=Point.CLAIM_UNCOMMITTED)
    reaper.around(Step, "_attempt", before=Point.AFTER_CLAIM)
    reaper.around(store.effects, "end", after=Point.RECORD_UNCOMMITTED)
    reaper.around(tasks.outage.Watch, "settle", before=Point.AFTER_RECORD)
    reaper.around(store.payments, "record_match", after=Point.MATCH_UNCOMMITTED)
    reaper.around(store.work, "finish", before=Point.BEFORE_CLOSE)
    reaper.around(Dispatcher, "_carry_on", before=Point.AFTER_TAKE)
    reaper.around(store.inbox, "handled", after=Point.INBOX_UNCOMMITTED)
    reaper.around(store.inbox, "put", after=Point.WEBHOOK_UNCOMMITTED)
    reaper.around(web.app, "take_webhook", after=Point.WEBHOOK_STORED)


# Guards switched off.


def _without_lookup() -> None:
    """Let every lookup say that nothing happened."""

    async def nothing(*_: Any) -> None:
        return None

    for module in (invoice, dispatch, notify, money_back):
        for step in vars(module).values():
            if isinstance(step, Step):
                step.lookup(nothing)


def _without_lease() -> None:
    """Let a worker take what another one holds."""
    verdict: Callable[..., Verdict] = vars(store.effects)["_verdict"]

    def greedy(row: Any, *, is_new: bool, now: datetime) -> Verdict:
        held = row.state == EffectState.INTENDED and row.lease_owner is not None and row.lease_until > now
        return Verdict.ACT if held else verdict(row, is_new=is_new, now=now)

    vars(store.effects)["_verdict"] = greedy


def _without_record_transaction(reaper: _Reaper) -> None:
    """Commit what a step writes before its effect is recorded."""
    end = store.effects.end

    async def apart(connection: Any, *args: Any, **options: Any) -> None:
        await connection.exec_driver_sql("COMMIT")
        reaper.at(Point.BETWEEN_WRITE_AND_RECORD)
        await connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.dialect.name == "sqlite" else "BEGIN")
        await end(connection, *args, **options)

    store.effects.end = apart


def _switch_off(guard: Guard | None, reaper: _Reaper) -> None:
    match guard:
        case Guard.LOOKUP:
            _without_lookup()
        case Guard.LEASE:
            _without_lease()
        case Guard.RECORD_TRANSACTION:
            _without_record_transaction(reaper)
        case Guard.UNIQUE_KEY | None:
            pass  # the database was made without it


# The worker itself.


def _prepare(settings: Settings) -> tuple[Board, _Reaper]:
    """Set this process up: it ends with the laboratory, logs into a file, and its database is not waited for long."""

    def end_with_the_laboratory() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_the_laboratory, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(settings.home / f"{settings.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    # Patience that lasts half a minute would only make the laboratory slower.
    vars(store.database)["_SQLITE_WAIT_MS"] = 1500
    vars(deployments.dispatcher)["_IDLE_S"] = 0.1
    reaper = _Reaper(settings.death)
    _switch_off(settings.without, reaper)
    _make_mortal(reaper)
    return Board(settings.board), reaper


async def _open(settings: Settings, board: Board, reaper: _Reaper) -> Installation:
    loop = asyncio.get_running_loop()
    monotonic = loop.time
    vars(loop)["time"] = lambda: monotonic() + board.elapsed()
    opened = await open_installation(settings.home, database_url=settings.url)

    def answered() -> None:
        reaper.at(Point.AFTER_ANSWER)

    opened.connectors["documents"] = Printer()
    opened.connectors["books"] = Printer() if settings.own_documents else Books("books", settings.books, answered)
    opened.connectors["courier"] = Courier("courier", settings.courier, answered)
    opened.connectors["post"] = Post("post", settings.post, answered, can_look_up=settings.can_look_up)
    return replace(opened, worker=settings.name, clock=board.now)


class _Observed(Dispatcher):
    """A dispatcher that tells the laboratory when it is at work."""

    def __init__(self, opened: Installation, board: Board, place: int) -> None:
        super().__init__(opened, spacing=0.05, concurrent=2)
        self._board, self._place = board, place

    async def round(self) -> int:
        """Take what is due once and carry it on."""
        self._board.set_busy(self._place, busy=True)
        try:
            return await super().round()
        finally:
            self._board.set_busy(self._place, busy=False)


def run_dispatcher(settings: Settings) -> None:
    """Be a dispatcher until killed."""
    board, reaper = _prepare(settings)

    async def work() -> None:
        while True:
            try:
                opened = await _open(settings, board, reaper)
                break
            except Misconfigured:
                raise
            except Exception as error:  # noqa: BLE001 - whoever runs it starts it again while its database is away
                logging.getLogger("kvit").warning("could not begin (%s)", type(error).__name__)
                await asyncio.sleep(0.2)
        async with working_on(opened):
            await _Observed(opened, board, settings.place).run(asyncio.Event())

    asyncio.run(work())


def run_web(settings: Settings, port: int) -> None:
    """Be the web process until killed."""
    board, reaper = _prepare(settings)

    async def serve() -> None:
        opened = await _open(settings, board, reaper)

        async def waiting() -> int:
            return 0

        async with working_on(opened):
            app = web.app.create_app(opened, wake=lambda: None, waiting=waiting)
            config = uvicorn.Config(
                app, host="127.0.0.1", port=port, lifespan="off", log_config=None, access_log=False, backlog=512
            )
            await uvicorn.Server(config).serve()

    asyncio.run(serve())


def run_flow(settings: Settings, scenario: str, ids: list[int]) -> None:
    """Run a scenario's flow for payments that a dispatcher may have in hand already."""
    board, reaper = _prepare(settings)

    async def run() -> None:
        board.set_busy(settings.place, busy=True)
        try:
            async with working_on(await _open(settings, board, reaper)):
                flow, parameter = SCENARIOS[scenario]
                await flow(**{parameter: ids}, return_state=True)
        finally:
            board.set_busy(settings.place, busy=False)

    asyncio.run(run())
