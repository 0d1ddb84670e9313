"""Backfill: payments and orders chosen by hand are carried on again, in chunks; what is done already stays done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import uuid4

from prefect import State, get_run_logger, task
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.payments import Method
from domain.rates import shown_rates
from domain.rules import Policy
from domain.spreadsheet import csv_line
from store import backfills, payments, work
from store.backfills import Part
from store.effects import EffectState
from store.work import Due
from tasks.cells import TABLE_ROWS, cells
from tasks.ends import needs_person
from tasks.installation import Installation, installation
from tasks.pace import LEASE
from tasks.step import MISCONFIGURED, current_actor

CHUNK = 200
_FALLS_DUE = timedelta(minutes=10)
_KEPT_BEFORE = timedelta(minutes=5)
"""What a living backfill has set aside is kept from falling due so long before it would."""
_PER_ORDER = timedelta(seconds=0.1)
RENEW_S = 12.0
HELD = LEASE + timedelta(seconds=RENEW_S)
"""How long a dead worker's backfill is held: a little longer than what it had begun, so that no step is left out."""
_LOOK_AGAIN_S = 1.0


class BackfillError(ValueError):
    """A backfill can't be carried on; its text says why."""


class Selection(BaseModel):
    """Which orders a backfill is for; what is left empty chooses all."""

    model_config = ConfigDict(extra="forbid")

    channel: Annotated[str | None, Field(title="Channel", description="Such as cz; empty: all channels")] = None
    status: Annotated[
        str | None, Field(title="Status", description="A standard status or one of the channel's own")
    ] = None
    scenario: Annotated[Method | None, Field(title="Scenario", description="Payment method of the orders")] = None
    placed_from: Annotated[date | None, Field(title="Placed from", description="First day, UTC")] = None
    placed_to: Annotated[date | None, Field(title="Placed to", description="Last day, UTC")] = None
    numbers: Annotated[list[str], Field(title="Orders", description="Order numbers; empty: all that fit the rest")] = (
        Field(default_factory=list[str], max_length=100_000)
    )

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """Return the moment at which the chosen days begin, and the one at which they are over."""
        first = datetime.combine(self.placed_from, time.min, UTC) if self.placed_from else None
        if self.placed_to is None or self.placed_to == date.max:
            return first, None
        return first, datetime.combine(self.placed_to, time.min, UTC) + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Planned:
    """A subject that a backfill would carry on: how far it is, and what is still to do."""

    due: Due
    number: str
    finished: bool
    order_id: int


@task(name="choose", cache_policy=NO_CACHE)
async def choose(selection: Selection) -> list[Planned]:
    """Find the work of the chosen orders: their own, and that of the payments allocated to them."""
    opened = await installation()
    placed_from, placed_to = selection.bounds()
    async with opened.store.read() as connection:
        rows = await work.of_orders(
            connection,
            channel=selection.channel,
            status=selection.status,
            method=selection.scenario.value if selection.scenario else None,
            placed_from=placed_from,
            placed_to=placed_to,
            numbers=selection.numbers,
        )
    planned = [Planned(*row) for row in rows]
    counts = Counter(item.due.scenario for item in planned)
    get_run_logger().info("chosen: %s", ", ".join(f"{n} × {s}" for s, n in counts.items()) or "nothing")
    return planned


async def show_plan(
    planned: Sequence[Planned], *, dry_run: bool, notify: bool, rates: Mapping[str, float] | None = None
) -> None:
    """Show what a backfill would do, as a table in the run."""
    paced = f"; {shown_rates(rates)}" if rates else ""
    await acreate_table_artifact(
        key="backfill-plan",
        table=cells(
            {
                "Order": item.number,
                "Scenario": item.due.scenario.replace("_", " "),
                "Now": "all steps ended before" if item.finished else "steps are open",
                "Would": "look at every step again; what is done stays done",
            }
            for item in planned[:2_000]
        ),
        description=("Dry run: nothing was done. " if dry_run else "")
        + f"{len(planned)} to carry on; messages to customers are {'on' if notify else 'off'}{paced}",
    )


async def set_aside(planned: Sequence[Planned], *, notify: bool) -> None:
    """Take chosen work into this run, silently unless messages were asked for; should the run die, it falls due."""
    await _set_aside([item.due.id for item in planned], notify=notify)


async def _set_aside(work_ids: Sequence[int], *, notify: bool) -> None:
    opened = await installation()
    context = FlowRunContext.get()
    run = context.flow_run.name if context and context.flow_run else "by hand"
    async with opened.store.write() as connection:
        await work.hold_for(
            connection,
            work_ids,
            until=_falls_due(opened, len(work_ids)),
            quiet=not notify,
            note=f"{backfills.SET_ASIDE}{run}",
        )


def _falls_due(opened: Installation, count: int) -> datetime:
    return opened.clock() + _FALLS_DUE + _PER_ORDER * count


def by_scenario(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Cut work into chunks of one scenario each.

    What was placed comes before what was paid: a payment may need what its order's beginning did.
    """
    found: list[list[Planned]] = []
    scenarios = {(item.due.subject, item.due.scenario) for item in planned}
    for _, scenario in sorted(scenarios, key=lambda one: (one[0] != "order", one[1])):
        mine = [item for item in planned if item.due.scenario == scenario]
        found += [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)]
    return found


async def begin(
    selection: Selection,
    planned: Sequence[Planned],
    *,
    notify: bool,
    author: str,
    because: str,
    rates: Mapping[str, float] | None = None,
) -> int:
    """Store a backfill with its chunks, so that it can be carried on after a crash, and return its number."""
    opened = await installation()
    cut = [[(item.due.id, item.order_id) for item in some] for some in by_scenario(planned)]
    async with opened.store.write() as connection:
        return await backfills.begin(
            connection,
            cut,
            selection=selection.model_dump(mode="json", exclude_defaults=True),
            notify=notify,
            author=author.strip()[:200] or opened.worker,
            reason=because.strip(),
            now=opened.clock(),
            rates=rates,
        )


@asynccontextmanager
async def held(opened: Installation, backfill_id: int) -> AsyncGenerator[dict[str, Any]]:
    """Hold a backfill while it is carried on, by one process at a time.

    One whose process was killed is held a little longer, which is waited for. Raises BackfillError when another process
    is at it, when it has ended, or when there is none.
    """
    owner = f"{opened.worker[:80]} {uuid4().hex[:12]}"
    row = await _taken(opened, backfill_id, owner)
    renewing = asyncio.create_task(_renew(opened, backfill_id, owner, row["total"]))
    try:
        yield row
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        async with opened.store.write() as connection:
            ended = not await backfills.open_chunks(connection, backfill_id)
            now = opened.clock()
            await backfills.let_go(connection, backfill_id, owner, finished_at=now if ended else None)


async def _taken(opened: Installation, backfill_id: int, owner: str) -> dict[str, Any]:
    seen: datetime | None = None
    while True:
        async with opened.store.write() as connection:
            row = _checked(await backfills.load(connection, backfill_id), backfill_id)
            now = opened.clock()
            if await backfills.hold(connection, backfill_id, owner, until=now + HELD, now=now):
                return row
        if seen is not None and row["lease_until"] != seen:
            raise BackfillError(f"backfill {backfill_id} is being carried on by another process; let it end")
        seen = row["lease_until"]
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _renew(opened: Installation, backfill_id: int, owner: str, total: int) -> None:
    aside = opened.clock()
    while True:
        await asyncio.sleep(RENEW_S)
        with suppress(SQLAlchemyError, OSError):  # the next renewal may come in time
            async with opened.store.write() as connection:
                now = opened.clock()
                if not await backfills.hold(connection, backfill_id, owner, until=now + HELD, now=now):
                    continue
                if now > aside - _KEPT_BEFORE:
                    # Else the dispatcher would carry on beside it what a slow one has not come to, and not at its rate.
                    aside = _falls_due(opened, total)
                    await backfills.keep_aside(connection, backfill_id, until=aside)


async def open_backfill(opened: Installation, backfill_id: int) -> dict[str, Any]:
    """Return a backfill that has not ended. Raises BackfillError when it has, or when there is none."""
    async with opened.store.read() as connection:
        return _checked(await backfills.load(connection, backfill_id), backfill_id)


def _checked(row: dict[str, Any] | None, backfill_id: int) -> dict[str, Any]:
    if row is None:
        raise BackfillError(f"there is no backfill {backfill_id}; `kvit backfill --list` shows those there are")
    if row["finished_at"] is not None:
        raise BackfillError(
            f"backfill {backfill_id} has ended; `kvit backfill --report {backfill_id}` shows what came of it"
        )
    return row


async def take_chunk(opened: Installation, backfill_id: int, chunk: int, *, notify: bool) -> list[Part]:
    """Take what has not ended of a chunk into this run."""
    async with opened.store.read() as connection:
        parts = await backfills.parts(connection, backfill_id, chunk)
    await _set_aside([part.work_id for part in parts], notify=notify)
    return parts


async def end_chunk(opened: Installation, row: dict[str, Any], parts: Sequence[Part], *, failed: str | None) -> None:
    """Record what became of each order of a chunk; failed is what its run said when it ended before its steps did."""
    async with opened.store.write() as connection:
        became = await _became(connection, row, parts, failed=failed)
        ends = [(part, *became[part.item_id]) for part in parts]
        await backfills.end(connection, row["id"], ends, actor=current_actor(opened), now=opened.clock())


async def look_again(opened: Installation, row: dict[str, Any]) -> int:
    """Bring a backfill's report up to date: what went on later, or waited for a person; return how much has moved.

    What is set aside for a backfill stays as it was: nobody has carried it on since.
    """
    async with opened.store.write() as connection:
        parts = await backfills.ended_as(connection, row["id"], _NOT_YET)
        moved = 0
        for start in range(0, len(parts), CHUNK):
            some = parts[start : start + CHUNK]
            aside = await backfills.aside(connection, some)
            became = await _became(connection, row, [part for part in some if part.work_id not in aside])
            anew = [(part, *became[part.item_id]) for part in some if part.item_id in became]
            await backfills.say_anew(connection, anew)
            moved += sum(result not in _NOT_YET for _, result, _ in anew)
    return moved


_LATER = "goes on later"
_FOR_A_PERSON = ("parked", "in doubt", "misconfigured", "failed")
_NOT_YET = (_LATER, *_FOR_A_PERSON)
"""Results that a chunk can end with and that are not the last word."""
_RESULTS = ("done", "already done", "skipped", *_NOT_YET, "not yet")
"""In the order in which they are said."""


async def _became(
    connection: AsyncConnection, row: dict[str, Any], parts: Sequence[Part], *, failed: str | None = None
) -> dict[int, tuple[str, str]]:
    """Return by piece of work what became of it, in a word, and what says so."""
    steps = await backfills.moved(connection, parts, mark=row["journal_mark"])
    left = await _left_to_a_person(connection, parts)
    due = await backfills.still_due(connection, parts)
    return {
        part.item_id: _result(steps[subject], failed, left.get(subject), due.get(part.work_id))
        for part in parts
        for subject in [(part.subject, part.subject_id)]
    }


async def _left_to_a_person(connection: AsyncConnection, parts: Sequence[Part]) -> dict[tuple[str, int], str]:
    """Return what somebody must decide about payments, by subject: all of one, or what it brought too much."""
    found: dict[tuple[str, int], str] = {}
    ids = [part.subject_id for part in parts if part.subject == "payment"]
    for id_, row in (await payments.by_ids(connection, ids)).items():
        if row["policy"] == Policy.OPERATOR or row["surplus_left_minor"]:
            found["payment", id_] = f"match: {row['reason']}"
    return found


def _result(
    steps: Sequence[tuple[str, str, str | None, bool]], failed: str | None, left: str | None, due: str | None
) -> tuple[str, str]:
    """Say in a word what became of an order, and which step says so.

    left is what a person must decide about, due why it is due again though no step of it is open.
    """
    for state, begins, result in (
        (EffectState.REJECTED, "", "parked"),
        (EffectState.IN_DOUBT, "", "in doubt"),
        # It is tried again, too, but nothing can come of that before somebody has changed a setting.
        (EffectState.INTENDED, MISCONFIGURED, "misconfigured"),
        (EffectState.INTENDED, "", _LATER),
    ):
        for step, is_, reason, _ in steps:
            if is_ == state and (reason or "").startswith(begins):
                return result, f"{step}: {reason or 'not ended yet'}"
    if failed:
        return "failed", failed
    if left:
        return "parked", left
    if due is not None:
        return _LATER, due or "it is due again"
    now = [(step, state, reason) for step, state, reason, new in steps if new]
    if any(state == EffectState.DONE for _, state, _ in now):
        return "done", ""
    if now:
        return "skipped", "; ".join(f"{step}: {reason}" for step, _, reason in now)
    return ("already done", "") if steps else ("skipped", "none of its steps has begun; see its payment")


async def write_report(opened: Installation, backfill_id: int) -> tuple[Path, dict[str, int]]:
    """Write a backfill's results to its file, order by order, and return the file and how many ended in each way."""
    path = opened.home / "backfills" / f"{backfill_id}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    being_written = path.with_suffix(".part")
    async with opened.store.read() as connection:
        with being_written.open("w", encoding="utf-8", newline="") as file:
            file.write(csv_line(("order", "channel", "scenario", "chunk", "result", "said")))
            async for rows in backfills.report(connection, backfill_id):
                file.writelines(csv_line(list(row.values())) for row in rows)
        totals = await backfills.totals(connection, backfill_id)
    being_written.replace(path)
    return path, totals


async def state_of(opened: Installation, backfill_id: int, totals: Mapping[str, int]) -> State[Any]:
    """Say in the name of a state, and in a sentence, how a backfill stands; data has its number and its totals."""
    counts = [(totals[result], result) for result in _RESULTS if totals.get(result)]
    said = ", ".join(f"{n} {'go on later' if n > 1 and result == _LATER else result}" for n, result in counts)
    message = f"backfill {backfill_id}: {said or 'nothing chosen'}"
    persons = sum(totals.get(result, 0) for result in _FOR_A_PERSON)
    if persons:
        message += f"; {persons} need{'s' if persons == 1 else ''} a person"
    if totals.get(_LATER):
        async with opened.store.read() as connection:
            first = await backfills.first_due(connection, backfill_id, _LATER)
        message += f"; the first on {first:%Y-%m-%d at %H:%M} UTC" if first else ""
    data = {"backfill": backfill_id, "results": dict(totals)}
    if persons:
        return needs_person(message, data=data)
    name = "Will go on" if totals.get(_LATER) or totals.get("not yet") else "Done"
    return Completed(name=name, message=message, data=data)


async def show_results(opened: Installation, backfill_id: int, totals: dict[str, int], said: str, path: Path) -> None:
    """Show what became of each order, as a table in the run; said sums it up."""
    async with opened.store.read() as connection:
        pages = backfills.report(connection, backfill_id, TABLE_ROWS)
        first: list[dict[str, Any]] = await anext(pages, cast("list[dict[str, Any]]", []))
        await pages.aclose()
    total = sum(totals.values())
    rest = f" The first {len(first)} of {total} are shown; all are in {path.name}." if total > len(first) else ""
    table = [{name.capitalize(): str(value).replace("_", " ") for name, value in row.items()} for row in first]
    await acreate_table_artifact(key="backfill-report", table=cells(table), description=f"B{said[1:]}.{rest}")


class Progress:
    """A progress bar in the run's artifacts, of all that the backfill is for, whichever runs carry it on."""

    def __init__(self, opened: Installation, row: Mapping[str, Any]) -> None:
        self._opened, self._id, self._total = opened, row["id"], row["total"]
        self._artifact: Any = None

    async def show(self) -> None:
        """Say how much has ended."""
        async with self._opened.store.read() as connection:
            ended = await backfills.count_ended(connection, self._id)
        percent = 100 * ended / max(self._total, 1)
        # The page of the run shows the description alone, so the percentage stands in it.
        said = f"{percent:.0f} %: {ended} of {self._total} ended in backfill {self._id}"
        get_run_logger().info(said)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                progress=percent, key="backfill-progress", description=said
            )
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, progress=percent, description=said)
