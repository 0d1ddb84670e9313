"""`kvit report`: what can be said of a shop as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, OfChannel, Wrong, opened_home
from deployments.given_files import file_said
from deployments.shown import Json
from domain.reconciliation import Comparison, Difference, words
from domain.transitions import (
    Figures,
    Period,
    ReportError,
    Row,
    changed_said,
    csv_of,
    lasted,
    trend_of,
    worst_said,
)

report_app = App(name="report", help="Report: what can be said of the shop as a whole.")

_DAYS_MAX = 366


def _difference(found: Difference) -> Json:
    return {
        "compared": found.compared.value,
        "what": found.what.value,
        "alarm": found.alarm,
        "subject": found.subject,
        "one": found.one,
        "other": found.other,
        "since": found.since.isoformat() if found.since else None,
        "todo": found.todo,
    }


def _print(comparisons: Sequence[Comparison], found: Sequence[Difference], more: int) -> None:
    if found:
        shown.table(
            ("Compared", "What", "Which", "The one says", "The other says", "Since", "What to do"),
            (
                (
                    "alarm" if one.alarm else one.compared.value,
                    words(one.what),
                    one.subject,
                    one.one,
                    one.other,
                    one.since,
                    one.todo,
                )
                for one in found
            ),
        )
    if more:
        shown.line(f"… and {more} more")
    if not found:
        shown.line("Nothing differs, and nothing is old.")
    shown.line("\nCompared:")
    for comparison in comparisons:
        for said in comparison.said:
            shown.line(f"  {said}")


@report_app.command(name="reconciliation")
async def reconciliation(
    *,
    since: Annotated[
        date | None, Parameter(help="From this day (UTC) on; by default the last 30 days are looked at.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare gateways, banks, payouts, shop and accounting with the store; tell what differs and what is old.

        kvit report reconciliation --since 2026-11-01

    It changes nothing: the deployment `reconcile`, which also polls the sources, takes in what is missing. Exit 1 when
    anything differs, is old, or could not be compared.
    """
    from tasks.comparing import DAYS, compare_all, in_order, since_of

    async with opened_home() as opened:
        today = opened.clock().date()
        if since is not None and not today - timedelta(days=_DAYS_MAX) <= since <= today:
            raise Wrong(f"--since {since}: it must be a day of the last {_DAYS_MAX} days")
        comparisons = await compare_all(opened, since or since_of(opened, DAYS))
    found = in_order(comparisons)
    more = sum(one.more for one in comparisons)
    failed = any(one.failed for one in comparisons)
    if as_json:
        shown.as_json(
            {
                "differences": [_difference(one) for one in found],
                "more": more,
                "compared": [said for one in comparisons for said in one.said],
                "failed": failed,
            }
        )
    else:
        _print(comparisons, found, more)
    return ATTENTION if found or failed else DONE


def _figures(found: Figures | None) -> Json | None:
    if found is None:
        return None
    return {
        "count": found.count,
        "median_s": found.median_s,
        "p90_s": found.p90_s,
        "worst_s": found.worst_s,
        "worst": [{"number": number, "seconds": seconds} for seconds, number in found.worst],
    }


def _transition(row: Row, period: Period) -> Json:
    found: Json = {
        "channel": row.channel,
        "scenario": row.method.value,
        "from": row.before,
        "to": row.after,
        **(_figures(row.whole) or {}),
        "weeks": [
            {"week": monday.isoformat(), **(_figures(week) or {})}
            for monday, week in zip(period.mondays, row.weeks, strict=True)
            if week
        ],
    }
    if period.change:
        trend, percent = trend_of(row)
        found |= {"before": _figures(row.earlier), "after": _figures(row.later)}
        found |= {"change": trend.value, "faster_percent": percent}
    return found


def _print_transitions(rows: Sequence[Row], period: Period) -> None:
    if not rows:
        shown.line(f"No order came from one status to another, {period}.")
        return
    sides = ("Before", "After", "Change") if period.change else ()
    lines: list[list[object]] = []
    for row in rows:
        whole = row.whole
        line: list[object] = [row.channel, words(row.method), row.name, whole.count, lasted(whole.median_s)]
        line += [lasted(whole.p90_s), worst_said(whole)]
        if period.change:
            line += [lasted(side.median_s) if side else "—" for side in (row.earlier, row.later)]
            line.append(changed_said(row))
        lines.append(line)
    headers = ("Channel", "Scenario", "From → to", "Count>", "Median>", "9 of 10 within>", "Longest", *sides)
    shown.table(headers, lines)
    shown.line(f"\nTimes that ended from {period.since} to {period.until}; orders that still wait are not in it.")


def _write(file: Path, content: str) -> None:
    try:
        file.write_bytes(content.encode())
    except (OSError, ValueError) as error:
        raise Wrong(file_said(str(file), error)) from error


@report_app.command(name="transitions")
async def transitions(
    *,
    channel: OfChannel = None,
    since: Annotated[date | None, Parameter(help="First day (UTC); by default twelve weeks ago.")] = None,
    until: Annotated[date | None, Parameter(help="Last day (UTC); by default today.")] = None,
    before_after: Annotated[
        date | None, Parameter(help="Compare what ended before this day with what ended from it on.")
    ] = None,
    csv: Annotated[Path | None, Parameter(help="Write the figures into this file as CSV, by week too.")] = None,
    picture: Annotated[Path | None, Parameter(help="Draw them into this file, as SVG.")] = None,
    as_json: AsJson = False,
) -> int:
    """Tell how long orders stay in a status before they come to the next, which shows where the delay is.

        kvit report transitions --channel cz --before-after 2026-11-01 --picture times.svg

    Times are by channel and payment method, the longest in all first, and come from the history of statuses. With
    --before-after and no --since, as many days before that day are looked at as after it.
    """
    from tasks.transitions import asked, worked_out
    from tasks.transitions_picture import draw

    async with opened_home() as opened:
        try:
            period = await asked(channel=channel, since=since, until=until, before_after=before_after)
        except ReportError as error:
            raise Wrong(str(error)) from None
        rows = await worked_out(opened, period, channel)
        today = opened.clock().date()
    if csv is not None:
        _write(csv, csv_of(rows, period))
    if picture is not None:
        _write(picture, draw(rows, period, today))
    if as_json:
        shown.as_json(
            {
                "since": period.since.isoformat(),
                "until": period.until.isoformat(),
                "before_after": period.change.isoformat() if period.change else None,
                "transitions": [_transition(row, period) for row in rows],
            }
        )
    else:
        _print_transitions(rows, period)
    return DONE
