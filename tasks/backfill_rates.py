"""Backfill rates: how many requests a second one backfill makes of an outside system, over all runs that share it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prefect.artifacts import acreate_table_artifact

from connectors import own_rates
from connectors.pacing import Pace, paced
from domain.rates import RateError, check_shares, read_rates, shown_rate
from store import backfills
from tasks.backfill import BackfillError
from tasks.cells import cells
from tasks.installation import Installation


def rates_of(opened: Installation, written: Sequence[str], *, runs: int) -> dict[str, float]:
    """Return the rates that are given for a backfill, such as `stripe=5/s`, by system. Raises BackfillError."""
    if not written:
        return {}
    try:
        rates = read_rates(written, [*_own(opened)])
    except RateError as error:
        raise BackfillError(str(error)) from None
    check_runs(rates, runs=runs)
    return rates


def check_runs(rates: Mapping[str, float], *, runs: int) -> None:
    """Raise BackfillError when rates are too slow to be shared by so many runs."""
    try:
        check_shares(rates, runs=runs)
    except RateError as error:
        raise BackfillError(str(error)) from None


def _own(opened: Installation) -> dict[str, float | None]:
    return own_rates(opened.settings.get("connectors", []), home=opened.home)


def rate_rows(opened: Installation, rates: Mapping[str, float], *, runs: int) -> list[dict[str, Any]]:
    """Return for each rate what the connector's own limit is, and which of both holds, as the dry run shows it."""
    own = _own(opened) if rates else {}
    rows: list[dict[str, Any]] = []
    for system, rate in rates.items():
        limit = own.get(system)
        row = {"System": system, "Given": shown_rate(rate), "Its own limit": shown_rate(limit)}
        row["Holds"] = shown_rate(rate if limit is None else min(rate, limit))
        rows.append(row | ({f"Each of {runs} runs": shown_rate(rate / runs)} if runs > 1 else {}))
    return rows


async def show_rates(opened: Installation, rates: Mapping[str, float], *, runs: int) -> None:
    """Show the rates as a table in the run, if there are any."""
    if rates:
        await acreate_table_artifact(
            key="backfill-plan-rates",
            table=cells(rate_rows(opened, rates, runs=runs)),
            description="Requests to outside systems at most, over all runs of this backfill",
        )


@asynccontextmanager
async def at_rates(
    opened: Installation, row: Mapping[str, Any], *, runs: int
) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Keep to a backfill's rates while the block runs.

    What it gives is called before each chunk: each run has an equal part, of as many as were asked for, or as are at
    work when these are more.
    """
    paces = {system: Pace(rate) for system, rate in row["rates"].items()}

    async def share() -> None:
        if not paces:
            return
        async with opened.store.read() as connection:
            at_work = await backfills.runs_at_work(connection, row["id"], opened.clock())
        for pace in paces.values():
            pace.share(max(runs, at_work))

    with paced(paces):
        yield share
