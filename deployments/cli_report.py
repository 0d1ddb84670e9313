"""`kvit report`: what can be said of a shop as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, Wrong, opened_home
from deployments.shown import Json
from domain.reconciliation import Comparison, Difference, words

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
