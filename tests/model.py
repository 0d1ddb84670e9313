"""What the model test is made of: the product without Prefect, an outside world, and places at which a worker stops.

The scenarios' own flows run here, handed over by the real dispatcher, on a real SQLite database. Only Prefect is left
out, because thousands of runs would take hours: calling a flow or a task calls its function. So whatever the test
finds, it finds in the order in which the documents have the steps; and what holds here holds without Prefect's state.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import Flow, State, Task
from prefect.states import Failed
from shop_builders import Clock

import store.payments
import store.reverts
import tasks.close
import tasks.outage
import tasks.revert
import tasks.step
from connectors.errors import Rejected, Transient
from connectors.roles import Consignment, IssuedDocument, OutgoingMessage, Shipment
from deployments.dispatcher import Dispatcher
from domain.documents import Document
from flows.scenarios import SCENARIOS
from store import effects, work
from tasks.installation import Installation, _current, close_installation, open_installation  # pyright: ignore[reportPrivateUsage] - several workers in one process
from tasks.pace import LEASE

# Places at which a worker stops.

OPEN_PLACES = ("claimed", "before the act", "after the act", "answered", "recorded", "closing")
"""Places at which no transaction is open, so that a worker that stands still there holds up nobody else."""
PLACES = (
    *OPEN_PLACES,
    "before the claim",
    "in the claim",
    "in the act",
    "in the record",
    "in the match",
    "in the release",
)
"""Every place at which a worker can die."""


@dataclass(slots=True)
class Stops:
    """Where the worker that comes by is to stop, once: at which place, and how often others pass it first."""

    place: str | None = None
    passes: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def at(self, place: str, passes: int) -> None:
        """Let whoever comes to a place next stop there."""
        self.place, self.passes = place, passes
        self.reached, self.goes_on = asyncio.Event(), asyncio.Event()

    async def here(self, place: str) -> None:
        """Stop, if this is the place, until somebody lets the worker go on, which a dead one never does."""
        if place != self.place:
            return
        self.passes -= 1
        if self.passes >= 0:
            return
        self.place = None
        self.reached.set()
        await self.goes_on.wait()


Function = Callable[..., Awaitable[Any]]


def _stopping(function: Function, stops: Stops, *, before: str | None = None, after: str | None = None) -> Function:
    async def wrapped(*given: Any, **named: Any) -> Any:
        if before:
            await stops.here(before)
        done = await function(*given, **named)
        if after:
            await stops.here(after)
        return done

    return wrapped


def put_stops(patch: pytest.MonkeyPatch, stops: Stops) -> None:
    """Put the places around the product's own functions; inside and outside of its transactions."""

    def around(owner: Any, name: str, **places: str) -> None:
        patch.setattr(owner, name, _stopping(getattr(owner, name), stops, **places))

    around(effects, "claim", before="before the claim", after="in the claim")
    around(tasks.outage.Watch, "carry_on", before="claimed")
    attempt = tasks.step.Step._attempt  # pyright: ignore[reportPrivateUsage]
    outside, here = _stopping(attempt, stops, after="answered"), _stopping(attempt, stops, after="in the act")

    async def attempted(self: tasks.step.Step, *given: Any, **named: Any) -> Any:
        # What acts in our own database alone does so within the transaction that claims it.
        return await (here if self.local else outside)(self, *given, **named)

    patch.setattr(tasks.step.Step, "_attempt", attempted)
    around(effects, "end", after="in the record")
    around(tasks.step.Step, "_record", after="recorded")
    around(store.payments, "record_matches", after="in the match")
    around(store.payments, "record_returned", after="in the match")
    around(store.reverts, "release", after="in the release")
    around(tasks.close, "print_documents", before="closing")


# Without Prefect.


def leave_prefect_out(patch: pytest.MonkeyPatch) -> list[BaseException]:
    """Let flows and tasks be called as what they are: functions. What a flow raises is put into the list returned."""
    raised: list[BaseException] = []

    def call(self: Any, *given: Any, **named: Any) -> Any:
        return self.fn(*given, **named)

    async def carry_out(self: Any, *given: Any, return_state: bool = False, **named: Any) -> Any:
        try:
            return await self.fn(*given, **named)
        except Exception as error:
            raised.append(error)
            if not return_state:
                raise
            return Failed(message=type(error).__name__)

    async def nothing(**_: Any) -> None:
        """Show nothing."""

    patch.setattr(Task, "__call__", call)
    patch.setattr(Flow, "__call__", carry_out)
    patch.setattr(tasks.close, "acreate_table_artifact", nothing)
    patch.setattr(tasks.revert, "acreate_table_artifact", nothing)
    return raised


# The outside world.

TROUBLES = ("refuses", "never got it", "lost its answer", "can't be reached", "is busy")
"""What comes of one request: refused; lost before or after it was carried out; no connection; asked to come later."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that was done outside: by which system, what, for whom, and with which key it was asked for."""

    system: str
    what: str
    subject: str
    key: str


class World:
    """Accounting, carrier and post outside. They never notice a repeat, so that the test does."""

    def __init__(self, stops: Stops) -> None:
        self.acts: list[Act] = []
        self.labels: dict[str, str] = {}
        """The order of each label that was ordered and not cancelled, by tracking number."""
        self.troubles: dict[str, list[str]] = {}
        """What comes of the next requests to a system."""
        self._stops = stops
        self._numbers = itertools.count(1)
        self._done: dict[tuple[str, str], str] = {}

    def heal(self) -> None:
        """Let everything work again."""
        self.troubles.clear()

    async def _is_asked(self, system: str, *, refuses: bool = True) -> str | None:
        planned = self.troubles.get(system)
        trouble = planned.pop(0) if planned else None
        if trouble == "refuses" and refuses:
            raise Rejected(f"{system}: refused")
        if trouble == "never got it":
            raise Transient(f"{system}: no answer", in_doubt=True)
        if trouble == "can't be reached":
            raise Transient(f"{system}: no connection")
        if trouble == "is busy":
            raise Transient(f"{system}: answered 429", retry_after=30, busy=True)
        return trouble

    async def act(self, system: str, what: str, subject: str, key: str, *, refuses: bool = True) -> str:
        """Do something, or go wrong; return its number. What can't be refused goes on instead."""
        await self._stops.here("before the act")
        trouble = await self._is_asked(system, refuses=refuses)
        number = f"{what[0].upper()}{next(self._numbers)}"
        self.acts.append(Act(system, what, subject, key))
        if what == "label":
            self.labels[number] = subject
        if what == "cancel":
            self.labels.pop(subject, None)
        self._done[system, key] = number
        await self._stops.here("after the act")
        if trouble == "lost its answer":
            raise Transient(f"{system}: no answer", in_doubt=True)
        return number

    async def look(self, system: str, key: str) -> str | None:
        """Return the number of what was done with a key, or None."""
        trouble = await self._is_asked(system)
        if trouble == "lost its answer":
            raise Transient(f"{system}: no answer")
        return self._done.get((system, key))

    @property
    def connectors(self) -> dict[str, Any]:
        """What speaks to the world, by the names that the rules have for it."""
        return {
            "books": Books(self),
            "courier": Courier(self),
            "post": Post(self, "post", can_look_up=True),
            "pigeons": Post(self, "pigeons", can_look_up=False),
            "documents": Printer(),
        }


class _Speaking:
    def __init__(self, world: World) -> None:
        self._world = world


class Books(_Speaking):
    """The accounting system."""

    async def issue(self, document: Document, key: str) -> IssuedDocument:
        """Issue a document."""
        return IssuedDocument(number=await self._world.act("books", "invoice", document.order_number, key))

    async def find(self, document: Document, key: str) -> IssuedDocument | None:  # noqa: ARG002 - its role's shape
        """Look for a document."""
        found = await self._world.look("books", key)
        return IssuedDocument(number=found) if found else None


class Courier(_Speaking):
    """The carrier."""

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Order a label."""
        return Shipment(tracking_number=await self._world.act("courier", "label", consignment.order_number, key))

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:  # noqa: ARG002 - its role's shape
        """Look for a label."""
        found = await self._world.look("courier", key)
        return Shipment(tracking_number=found) if found else None

    async def cancel(self, tracking_number: str, key: str) -> None:
        """Cancel a label; doing so twice changes nothing."""
        await self._world.act("courier", "cancel", tracking_number, key, refuses=False)


class Post(_Speaking):
    """Who brings messages; pigeons can't be asked whether they did."""

    def __init__(self, world: World, name: str, *, can_look_up: bool) -> None:
        super().__init__(world)
        self._name = name
        self.can_look_up = can_look_up

    async def send(self, message: OutgoingMessage) -> str:
        """Send a message."""
        return await self._world.act(self._name, "message", message.subject, message.message_id)

    async def find(self, message_id: str) -> str | None:
        """Look for a message."""
        return await self._world.look(self._name, message_id)


class Printer:
    """Prints nothing, at once; the files have tests of their own."""

    async def print(self, document: Document) -> bytes:  # noqa: ARG002 - its role's shape
        """Return what is no PDF."""
        return b"%PDF-"


# Workers on one database.


class Shop:
    """A shop under way: its database, its worker, and how that dies and starts again."""

    def __init__(self, stocked: Path, home: Path, stops: Stops) -> None:
        shutil.copytree(stocked, home)
        self.home = home
        self.clock = Clock()
        self.stops = stops
        self.world = World(stops)
        self.opened: Installation
        self._names = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self.do(self._start())

    def do(self, work_: Awaitable[Any]) -> Any:
        """Do something asynchronous to its end."""
        return self._loop.run_until_complete(work_)

    def close(self) -> None:
        """Close everything."""
        self.do(self._end(self.opened))
        self._loop.close()
        shutil.rmtree(self.home)

    def rows(self, query: str, *given: Any) -> list[sqlite3.Row]:
        """Return what the database has, read past the product."""
        connection = sqlite3.connect(self.home / "kvit.sqlite")
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(query, given).fetchall()
        finally:
            connection.close()

    def until_due(self) -> None:
        """Move the clock to when something is due, if nothing is now."""
        if (due := self.do(self._next_due())) is not None:
            self.clock.now = max(self.clock.now, due)

    def is_idle(self) -> bool:
        """Say whether nothing is due, now or later."""
        return self.do(self._next_due()) is None

    # What a worker does.

    def work(self) -> None:
        """Let the worker work off all that is due."""
        self.do(self._work_off(self.opened))

    def work_and_die(self, place: str, passes: int) -> None:
        """Let the worker die at a place, if it comes there; another one starts."""
        self.do(self._die(place, passes))

    def work_beside_stalled(self, place: str, passes: int) -> None:
        """Let the worker stand still at a place, while another starts everything once more; then it goes on."""
        self.do(self._stall(place, passes))

    def run_again(self) -> None:
        """Start every scenario's flow for all that was ever due, as a run does that Prefect repeats."""
        self.do(self._all_again())

    def restart(self) -> None:
        """End the worker, and start another on the same database."""

        async def again() -> None:
            await self._end(self.opened)
            await self._start()

        self.do(again())

    async def _start(self) -> None:
        opened = await open_installation(self.home)
        opened.connectors.update(self.world.connectors)
        self.opened = replace(opened, worker=f"worker {next(self._names)}", clock=self.clock)
        _current.append(self.opened)

    async def _end(self, opened: Installation) -> None:
        _current.remove(opened)
        await close_installation(opened)

    async def _work_off(self, opened: Installation) -> None:
        dispatcher = Dispatcher(opened)
        for _ in range(10):
            if not await dispatcher.round():
                return

    async def _until_stopped(self, place: str, passes: int) -> asyncio.Task[None] | None:
        """Return the worker's task once it stands still, or None if it came to the end of its work."""
        self.stops.at(place, passes)
        working = asyncio.create_task(self._work_off(self.opened))
        reached = asyncio.create_task(self.stops.reached.wait())
        await asyncio.wait({working, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        self.stops.place = None
        if working.done():
            await working
            return None
        return working

    async def _die(self, place: str, passes: int) -> None:
        if await self._until_stopped(place, passes) is None:
            return
        left = asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._end(self.opened)
        await self._start()

    async def _stall(self, place: str, passes: int) -> None:
        stalled, working = self.opened, await self._until_stopped(place, passes)
        if working is None:
            return
        await self._start()
        await self._all_again()
        await self._work_off(self.opened)
        await self._end(self.opened)
        self.opened = stalled
        self.stops.goes_on.set()
        await working

    async def _all_again(self) -> None:
        rows = self.rows("SELECT scenario, subject_id FROM work ORDER BY id")
        for scenario, (flow, parameter) in SCENARIOS.items():
            if ids := [row["subject_id"] for row in rows if row["scenario"] == scenario]:
                state: State[Any] = await flow(**{parameter: ids}, return_state=True)
                del state

    # Rest.

    def rest(self, is_stuck: Callable[[], bool]) -> bool:
        """Let everything go on until nothing is due any more, or only what is_stuck says; say whether it came to that.

        The clock goes from one thing that is due to the next.
        """
        self.world.heal()
        patience = 4
        for _ in range(60):
            self.work()
            if (due := self.do(self._next_due())) is None:
                return True
            if is_stuck():
                patience -= 1
                if not patience:
                    return True
            self.clock.now = max(self.clock.now + LEASE, due)
        return False

    async def _next_due(self) -> Any:
        async with self.opened.store.read() as connection:
            return await work.next_due(connection)
