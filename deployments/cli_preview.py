"""`kvit rules preview`: what a changed document would have made otherwise of its channel's past."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments import shown
from deployments.command import DONE, WRONG, AsJson, Wrong, opened_home
from deployments.given_files import GivenFile, parsed_rules, progress
from domain.preview import LAST, LAST_MAX

if TYPE_CHECKING:
    from domain.preview import Preview

_ROWS = 50


async def rules_preview(
    file: GivenFile,
    /,
    *,
    since: Annotated[
        date | None, Parameter(help="Only what was placed or booked on this day (UTC) or later, such as 2026-11-02.")
    ] = None,
    last: Annotated[int, Parameter(help="At most so many orders, and so many payments, the newest ones.")] = LAST,
    as_json: AsJson = False,
) -> int:
    """Show what changed rules would have made otherwise of their channel's own orders and payments.

        kvit rules preview cz.yaml --since 2026-11-01

    Old and new rules are tried on the same past: how orders begin, what happens once they are paid, and what payments
    settle. What differs between the two is counted by kind, and listed. Nothing is stored, whatever is shown; put the
    file into force with `kvit rules apply`. With --json, all differences are listed.
    """
    if not 0 < last <= LAST_MAX:
        raise Wrong(f"--last must be a number from 1 to {LAST_MAX}")
    found, refused = parsed_rules([file])
    if refused and as_json:
        shown.as_json({"refused": refused})
        return WRONG
    if refused:
        raise Wrong("\n".join(str(one["reason"]) for one in refused))
    ((_, rules),) = found.values()
    async with opened_home() as opened:
        from tasks.preview import compare, read_history

        history = await read_history(opened, rules, since=since, limit=last)
        with progress("previewing", len(history)) as advance:
            preview = await asyncio.to_thread(compare, history, rules, advance)
    if as_json:
        shown.as_json(_told(preview))
    else:
        _print(preview)
    return DONE


def _told(preview: Preview) -> shown.Json:
    return {
        "channel": preview.channel,
        "version": preview.version,
        "said": preview.said,
        "orders": preview.orders,
        "payments": preview.payments,
        "counts": [
            {
                "subject": one.subject.value,
                "decision": one.decision,
                "said": one.said,
                "count": one.count,
                "to_come": one.to_come,
            }
            for one in preview.counts
        ],
        "differences": [
            {
                "subject": one.subject.value,
                "name": one.name,
                "decision": one.decision,
                "now": one.now,
                "then": one.then,
                "to_come": one.to_come,
            }
            for one in preview.differences
        ],
        "not_previewed": list(preview.unseen),
        "how": list(preview.how),
    }


def _print(preview: Preview) -> None:
    from tasks.preview import cut_said, rows_of

    shown.line(preview.said)
    for one in preview.counts:
        shown.line(f"  {one.said}")
    rows = rows_of(preview)[:_ROWS]
    if rows:
        shown.table(
            ["Order or payment", "Decision", "Now", "Then", ""],
            [list(row.values()) for row in rows],
            title="One by one",
        )
    notes = [cut_said(preview, len(rows)), *preview.unseen, *preview.how]
    for note in filter(None, notes):
        shown.line(note)
