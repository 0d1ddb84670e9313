"""Transition times: read from the history of statuses, worked out, and shown in a run's log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from domain.transitions import Period, ReportError, Row, Times, changed_said, lasted, period_of, worst_said
from domain.wording import counted, listed
from store import rules
from store.transitions import transitions
from tasks import transitions_picture as picture
from tasks.cells import TABLE_ROWS, cells
from tasks.installation import Installation, installation


async def asked(*, channel: str | None, since: date | None, until: date | None, before_after: date | None) -> Period:
    """Return the days that a report is asked for. Raises ReportError for days or a channel that there are not."""
    opened = await installation()
    if channel is not None:
        async with opened.store.read() as connection:
            known = await rules.current(connection)
        if channel not in known:
            there = f"there is {listed(list(known))}" if known else "there is none yet"
            raise ReportError(f"there is no channel “{channel}”; {there}")
    return period_of(opened.clock().date(), since=since, until=until, change=before_after)


async def worked_out(opened: Installation, period: Period, channel: str | None) -> list[Row]:
    """Return the times of a period's transitions, of one channel or of all."""
    times = Times(period)
    async with opened.store.read() as connection:
        async for piece in transitions(connection, since=period.begins, until=period.ends, channel=channel):
            times.add(piece)
    return await asyncio.to_thread(times.rows)


@task(name="work out", cache_policy=NO_CACHE)
async def work_out(period: Period, channel: str | None) -> list[Row]:
    """Work the times out from the history of statuses."""
    return await worked_out(await installation(), period, channel)


@task(name="show transition times", cache_policy=NO_CACHE)
async def show_transitions(rows: Sequence[Row], period: Period) -> str:
    """Show the times as a picture and as tables, and return the longest delay in words."""
    opened = await installation()
    shown = await asyncio.to_thread(picture.markdown, rows, period, opened.clock().date())
    await acreate_markdown_artifact(
        key="transition-times-picture", markdown=shown, description="How long orders stay in a status"
    )
    await acreate_table_artifact(
        key="transition-times",
        table=cells(_row(row, period) for row in rows[:TABLE_ROWS]),
        description=f"Times between statuses, {period}; within a scenario, where most time is spent comes first. "
        "A time counts when it has ended, so orders that still wait are not in it",
    )
    await acreate_table_artifact(
        key="transition-times-by-week",
        table=cells(_weeks(row, period) for row in rows[:TABLE_ROWS]),
        description="Median of each week, from Monday, and how many there were",
    )
    return said_of(rows)


def said_of(rows: Sequence[Row]) -> str:
    """Return in words where most time is spent."""
    if not rows:
        return "no order came from one status to another"
    most = max(rows, key=lambda row: row.whole.total_s)
    named = f"{most.channel}, {most.method.value.replace('_', ' ')}, {most.name}"
    times = counted(sum(row.whole.count for row in rows), "transition")
    return f"{times}; most time is spent in {named}: median {lasted(most.whole.median_s)}"


def _named(row: Row) -> dict[str, str]:
    return {"Channel": row.channel, "Scenario": row.method.value.replace("_", " "), "From → to": row.name}


def _row(row: Row, period: Period) -> dict[str, object]:
    whole = row.whole
    found: dict[str, object] = {
        **_named(row),
        "Count": whole.count,
        "Median": lasted(whole.median_s),
        "9 of 10 within": lasted(whole.p90_s),
        "Longest": worst_said(whole),
    }
    if period.change:
        for name, side in (("Before", row.earlier), ("After", row.later)):
            found[name] = f"{lasted(side.median_s)} ({counted(side.count, 'time')})" if side else "—"
        found["Change"] = changed_said(row)
    return found


def _weeks(row: Row, period: Period) -> dict[str, str]:
    return _named(row) | {
        monday.isoformat(): f"{lasted(week.median_s)} ({week.count})" if week else "—"
        for monday, week in zip(period.mondays, row.weeks, strict=True)
    }
