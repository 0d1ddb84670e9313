"""`kvit backfill`: chosen orders are carried on again in bulk, and one that was cut short goes on."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from deployments import shown
from deployments.command import (
    ATTENTION,
    DONE,
    AsJson,
    OfChannel,
    OfMethod,
    OfStatus,
    Verbose,
    Wrong,
    opened_home,
    prefect_answers,
    user_name,
)
from deployments.prefect_server import login_of, point_at_prefect

if TYPE_CHECKING:
    from prefect import State

    from domain.planned import Totals
    from tasks.installation import Installation

_NUMBERS_MAX = 100_000
_LOOK_S = 0.5
_SHARDS_MAX = 64


def _flag(text: str) -> Parameter:
    return Parameter(negative="", show_default=False, help=text)


async def backfill(
    *,
    channel: OfChannel = None,
    status: OfStatus = None,
    scenario: OfMethod = None,
    since: Annotated[date | None, Parameter(help="Placed on this day (UTC) or later, such as 2026-11-02.")] = None,
    until: Annotated[date | None, Parameter(help="Placed on this day (UTC) or earlier.")] = None,
    order: Annotated[
        list[str] | None, Parameter(negative="", help="Only this order; can be given several times.")
    ] = None,
    file: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Only the orders of a file: a number per line, or CSV with a column number; - for stdin.",
        ),
    ] = None,
    dry_run: Annotated[bool, _flag("Only show what would be carried on.")] = False,
    notify: Annotated[bool, _flag("Send customers the messages that were not begun yet.")] = False,
    because: Annotated[str, Parameter(help="Why; it stands in the list of backfills.")] = "",
    resume: Annotated[int | None, Parameter(help="Go on with this backfill, which was cut short.")] = None,
    shards: Annotated[
        int, Parameter(help="Share the work among so many runs: this one, and others through the work pool.")
    ] = 1,
    rate: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Requests to an outside system at most, such as stripe=5/s or cdek=30/min; can be repeated.",
        ),
    ] = None,
    report: Annotated[int | None, Parameter(help="Only write and show what has become of this backfill.")] = None,
    listed: Annotated[bool, Parameter(name="--list", negative="", show_default=False, help="List them.")] = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Carry chosen orders on again: what is done stays done, what is missing is done. Nobody is written to by default.

        kvit backfill --channel cz --since 2026-11-01 --dry-run
        kvit backfill --resume 3

    Exit 1 when anything needs a person; what goes on later by itself does not.
    """
    chosen = any((channel, status, scenario, since, until, order, file))
    ways = (chosen, resume is not None, report is not None, listed)
    if sum(ways) > 1:
        raise Wrong("choose orders, or say one of --resume, --report and --list")
    if not any(ways):
        raise Wrong("choose orders by --channel, --status, --scenario, --since, --until, --order or --file")
    if resume is not None and (dry_run or notify or because or rate):
        raise Wrong("--resume goes on as it was begun; leave out --dry-run, --notify, --because and --rate")
    if not 1 <= shards <= _SHARDS_MAX:
        raise Wrong(f"--shards must be a number from 1 to {_SHARDS_MAX}")
    if since and until and since > until:
        raise Wrong(f"--since {since} is after --until {until}")
    numbers = [*(order or []), *(_numbers_in(file) if file else [])]
    async with opened_home() as opened:
        if listed:
            return await _list(opened, as_json=as_json)
        if report is not None:
            return await _report(opened, report, as_json=as_json)
        await _check(opened, channel, status, numbers)
        if resume is not None:
            await _check_open(opened, resume, shards)
        point_at_prefect(opened.home, login=login_of(opened.settings), verbose=verbose)
        at_most = _rates(opened, rate or [], shards)
        from domain.planned import Totals
        from flows.backfill import backfill as run
        from store import work
        from tasks.backfill import Planned, Selection
        from tasks.plan_backfill import plan_totals

        selection = Selection.model_validate(
            {
                "channel": channel,
                "status": status,
                "scenario": scenario,
                "placed_from": since,
                "placed_to": until,
                "numbers": numbers,
            }
        )
        first, last = selection.bounds()
        rows: list[tuple[Any, str, bool, int]] = []
        if resume is None:
            async with opened.store.read() as connection:
                rows = await work.of_orders(
                    connection,
                    channel=channel,
                    status=status,
                    method=scenario,
                    placed_from=first,
                    placed_to=last,
                    numbers=numbers,
                )
        totals = Totals()
        if dry_run:
            planned = [Planned(*row) for row in rows]
            totals = await plan_totals(opened, planned, notify=notify)
        await prefect_answers()
        given = (selection, dry_run, notify, user_name(), because, resume, shards, rate or [])
        started = cast("Any", run)(*given, return_state=True)
        async with _bar(opened, resume, hidden=dry_run):
            # The state that the flow returns is wanted; the data in it are a backfill's number and its totals.
            state = cast("State[Any]", await started)
        data: object = await state.aresult(raise_on_failure=False)
    found = [{"order": number, "scenario": due.scenario, "finished": finished} for due, number, finished, _ in rows]
    if as_json:
        told: shown.Json = {
            "dry_run": dry_run,
            "notify": notify,
            "rates": [{name.lower().replace(" ", "_"): value for name, value in row.items()} for row in at_most],
            "chosen": found,
            "state": state.name,
            "said": state.message,
        }
        told |= cast("shown.Json", data) if isinstance(data, dict) else {}
        shown.as_json(told | (_counts(totals) if dry_run else {}))
    else:
        if resume is None:
            shown.print_chosen(found)
        if at_most:
            shown.table([*at_most[0]], ([*row.values()] for row in at_most))
        if dry_run:
            _print_counts(totals)
        shown.line(f"{state.name}: {state.message}")
    return DONE if state.is_completed() else ATTENTION


def _counts(totals: Totals) -> shown.Json:
    return {
        "steps": [{"step": step, "would": would, "count": n} for (step, would), n in totals.steps.items()],
        "left_out": [{"step": step, "why": why, "count": n} for (step, why), n in totals.reasons.most_common()],
        "messages": [{"moment": moment, "by": by, "count": n} for (moment, by), n in totals.messages.most_common()],
    }


def _print_counts(totals: Totals) -> None:
    if rows := totals.rows():
        shown.table(["Step", *(f"{name}>" for name in rows[0] if name != "Step")], ([*row.values()] for row in rows))
    if totals.reasons:
        reasons = ((step, why, n) for (step, why), n in totals.reasons.most_common())
        shown.table(("Left out", "Why", "Orders>"), reasons)
    if totals.messages:
        messages = ((moment, by, n) for (moment, by), n in totals.messages.most_common())
        shown.table(("Message", "By", "Would go out>"), messages)
    else:
        shown.line("Nobody would get a message.")


def _numbers_in(file: str) -> list[str]:
    """Return the order numbers of a file, each once."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Wrong(f"{file} can't be read: {said}") from None
    lines = text.splitlines()
    header = lines[0] if lines else ""
    separator = max(",;\t", key=header.count)
    names = [name.strip().strip('"').casefold() for name in header.split(separator)]
    if "number" in names:
        place = names.index("number")
        rows = csv.reader(lines[1:], delimiter=separator)
        numbers = [row[place].strip() for row in rows if len(row) > place]
    elif len(names) > 1:
        raise Wrong(f"{file} has several columns, and none is called number")
    else:
        numbers = [line.strip() for line in lines]
    found = list(dict.fromkeys(number for number in numbers if number))
    if not found:
        raise Wrong(f"{file} names no orders")
    if len(found) > _NUMBERS_MAX:
        raise Wrong(f"{file} names {len(found)} orders; give at most {_NUMBERS_MAX} at once")
    return found


async def _check(opened: Installation, channel: str | None, status: str | None, numbers: list[str]) -> None:
    """Raise Wrong for a channel, a status or an order that is not known."""
    from domain.orders import Status
    from store import backfills, rules

    async with opened.store.read() as connection:
        known = await rules.current(connection)
        if channel and channel not in known:
            raise Wrong(f"channel “{channel}” is not known; there is {', '.join(known) or 'none yet'}")
        own = {name for versioned in known.values() for name in versioned.rules.statuses}
        if status and status not in {*Status, *own}:
            raise Wrong(f"status “{status}” is not known; there is {', '.join([*Status, *sorted(own)])}")
        found = await backfills.channels_of(connection, numbers, channel)
    for number in numbers:
        if number not in found:
            raise Wrong(f"there is no order {number}{f' in channel {channel}' if channel else ''}")
        if len(found[number]) > 1:
            channels = ", ".join(found[number])
            raise Wrong(f"order {number} is in several channels ({channels}); choose one with --channel")


def _rates(opened: Installation, written: list[str], shards: int) -> list[dict[str, Any]]:
    """Return how fast each outside system is asked at most, as it is shown. Raises Wrong."""
    if not written:
        return []
    from tasks.backfill import BackfillError
    from tasks.backfill_rates import rate_rows, rates_of

    try:
        return rate_rows(opened, rates_of(opened, written, runs=shards), runs=shards)
    except BackfillError as error:
        raise Wrong(str(error)) from None


async def _check_open(opened: Installation, backfill_id: int, shards: int) -> None:
    from domain.rates import RateError, check_shares
    from store import backfills

    async with opened.store.read() as connection:
        row = await backfills.load(connection, backfill_id)
    if row is None:
        raise Wrong(f"there is no backfill {backfill_id}; `kvit backfill --list` shows those there are")
    if row["finished_at"] is not None:
        raise Wrong(f"backfill {backfill_id} has ended; `kvit backfill --report {backfill_id}` shows what came of it")
    try:
        check_shares(row["rates"], runs=shards)
    except RateError as error:
        raise Wrong(str(error)) from None


@asynccontextmanager
async def _bar(opened: Installation, backfill_id: int | None, *, hidden: bool) -> AsyncGenerator[None]:
    """Show on a terminal how much of a backfill has ended."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield
        return
    with Progress(console=console, transient=True) as bar:
        watching = asyncio.create_task(_watch(opened, backfill_id, bar, bar.add_task("backfill", total=None)))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


async def _watch(opened: Installation, backfill_id: int | None, bar: Any, line: Any) -> None:
    from store import backfills

    while True:
        await asyncio.sleep(_LOOK_S)
        async with opened.store.read() as connection:
            open_id = backfill_id or await backfills.last_open(connection)
            row = await backfills.load(connection, open_id) if open_id else None
            if row is None:
                continue
            totals = await backfills.totals(connection, row["id"])
        bar.update(line, total=row["total"], completed=row["total"] - totals.get("not yet", 0))


async def _list(opened: Installation, *, as_json: bool) -> int:
    from store import backfills

    async with opened.store.read() as connection:
        rows = await backfills.listing(connection)
    if as_json:
        shown.as_json(
            {
                "backfills": [
                    {
                        "backfill": row["id"],
                        "started_at": row["started_at"].isoformat(),
                        "finished_at": row["finished_at"].isoformat() if row["finished_at"] else None,
                        "total": row["total"],
                        "ended": row["ended"],
                        "notify": row["notify"],
                        "author": row["author"],
                        "reason": row["reason"],
                    }
                    for row in rows
                ]
            }
        )
        return DONE
    if not rows:
        shown.line("There was no backfill yet.")
        return DONE
    shown.table(
        ("Backfill>", "Begun (UTC)", "Ended (UTC)", "Work>", "Gone through>", "By", "Why"),
        (
            (
                row["id"],
                shown.at(row["started_at"]),
                shown.at(row["finished_at"]) if row["finished_at"] else "not yet",
                row["total"],
                row["ended"],
                row["author"],
                row["reason"],
            )
            for row in rows
        ),
    )
    return DONE


async def _report(opened: Installation, backfill_id: int, *, as_json: bool) -> int:
    from store import backfills
    from tasks.backfill import look_again, state_of, write_report

    async with opened.store.read() as connection:
        row = await backfills.load(connection, backfill_id)
    if row is None:
        raise Wrong(f"there is no backfill {backfill_id}; `kvit backfill --list` shows those there are")
    await look_again(opened, row)
    path, totals = await write_report(opened, backfill_id)
    state = await state_of(opened, backfill_id, totals)
    if as_json:
        said: shown.Json = {"state": state.name, "said": state.message}
        shown.as_json({"backfill": backfill_id, "file": str(path), "results": totals} | said)
    else:
        shown.line(f"{state.name}: {state.message}")
        shown.table(("Result", "Work>"), totals.items())
        shown.line(f"Order by order: {path}")
    return DONE if state.is_completed() else ATTENTION
