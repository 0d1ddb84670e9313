"""`kvit payments`: statement files read and imported, payments listed, the operator's queue, one payment shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import DONE, AsJson, Limit, Wrong, checked_limit, database_said, exit_of, opened_home
from deployments.given_files import GivenFiles, named, progress, read_bytes
from deployments.shown import Json
from domain.payments import Outcome

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tasks.unmatched import QueueRow

payments_app = App(name="payments", help="Payments: read and import statement files, list payments, show one.")
payments_app.command("deployments.cli_revert:payments_match", name="match")


def _unread(file: str, reason: str) -> Json:
    return {"file": file, "format": "unknown", "refused": [{"where": shown.WHOLE_FILE, "reason": reason}]}


def _told(file: str, error: Wrong) -> str:
    return str(error).removeprefix(f"{named(file)}: ")


@payments_app.command(name="read")
def payments_read(files: GivenFiles, /, *, as_json: AsJson = False) -> int:
    """Show what statement files say: nothing is stored, and no database is needed.

    The format of each file is recognised: camt.053, MT940, banks' CSV, carriers' remittances, gateways' payout reports.

        kvit payments read statement.xml

    Exit 1 when something was refused but something was read, 2 when nothing could be read.
    """
    from connectors.roles import StatementReader
    from connectors.statements import MAX_BYTES, read_statement
    from tasks.installation import (
        _load_connectors,  # pyright: ignore[reportPrivateUsage] - the readers are wanted without a database
        _settings,  # pyright: ignore[reportPrivateUsage]
        home_folder,
    )

    home = home_folder()
    connectors = _load_connectors(_settings(home), home)
    readers = [connector for connector in connectors.values() if isinstance(connector, StatementReader)]
    found: list[Json] = []
    for file in files:
        try:
            read = read_statement(read_bytes(file, MAX_BYTES), Path(file).name, readers)
            found.append(shown.statement_file(file, read))
        except Wrong as error:
            found.append({**_unread(file, _told(file, error)), "statements": []})
    if as_json:
        order = ("file", "format", "statements", "payouts", "refused")
        shown.as_json({"files": [{key: one[key] for key in order if key in one} for one in found]})
    else:
        shown.print_statement_files(found)
    # A file without a movement is read well; one in which all was refused is not.
    read_any = any(
        not one["refused"] or one.get("payouts") or any(part["entries"] for part in one["statements"]) for one in found
    )
    return exit_of(read=read_any, refused=any(one["refused"] for one in found))


@payments_app.command(name="import")
async def payments_import(files: GivenFiles, /, *, as_json: AsJson = False) -> int:
    """Store the payments of statement files: each once, whatever file it comes in. `kvit process` carries them on.

        kvit payments import statements/*.xml

    Exit 1 when something was refused but something was read, 2 when nothing could be read.
    """
    from sqlalchemy.exc import DataError

    from connectors.statements import MAX_BYTES
    from tasks.intake import take_statement

    found: list[Json] = []
    none: Json = {"entries": 0, "new": 0, "already_known": 0}
    async with opened_home() as opened:
        with progress("files", len(files)) as advance:
            for file in files:
                try:
                    data = read_bytes(file, MAX_BYTES)
                    found.append(shown.imported_file(file, await take_statement(opened, data, Path(file).name)))
                except Wrong as error:
                    found.append({**_unread(file, _told(file, error)), **none})
                except DataError as error:
                    found.append({**_unread(file, f"it could not be stored: {database_said(error)}"), **none})
                advance()
    if as_json:
        order = ("file", "format", *none, "refused")
        shown.as_json({"files": [{key: one[key] for key in order} for one in found]})
    else:
        shown.print_imported_files(found)
    read_any = any(one["entries"] or not one["refused"] for one in found)
    return exit_of(read=read_any, refused=any(one["refused"] for one in found))


@payments_app.command(name="list")
async def payments_list(
    *,
    state: Annotated[
        str | None,
        Parameter(
            choices=["new", *(outcome.value for outcome in Outcome)],
            help="Only payments that ended so; new: not looked at yet.",
        ),
    ] = None,
    unmatched: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="Only payments that wait for a person, the first to look at in front."
        ),
    ] = False,
    limit: Limit = None,
    as_json: AsJson = False,
) -> int:
    """List payments with what they turned out to be, the oldest first.

        kvit payments list --unmatched

    With --unmatched: those to be decided, those to be sent back, and those with a surplus, each with what can be done.
    """
    from store import payments

    async with opened_home() as opened, opened.store.read() as connection:
        if unmatched:
            queue = (await _queue(connection, opened.clock(), state))[: checked_limit(limit)]
            rows = [row for row, _ in queue]
        else:
            queue = []
            rows = await payments.listing(connection, outcome=state, limit=checked_limit(limit))
        parts = await payments.allocated(connection, [row["id"] for row in rows])
    found = [shown.payment(row, parts.get(row["id"], [])) for row in rows]
    if unmatched:
        found = [one | _waiting(waits) for one, (_, waits) in zip(found, queue, strict=True)]
    if as_json:
        shown.as_json({"payments": found})
    elif not found:
        shown.line(f"no such payments in {opened.home}")
    elif unmatched:
        _print_waiting(found)
    else:
        shown.print_payments(found)
    return DONE


async def _queue(
    connection: AsyncConnection, now: datetime, state: str | None
) -> list[tuple[dict[str, Any], QueueRow]]:
    """Return the payments of the operator's queue, each from its row; the messages in it are no payments."""
    from tasks.unmatched import queue_rows

    rows = [(one.payment, one) for one in await queue_rows(connection, now) if one.payment]
    return [(row, one) for row, one in rows if state in (None, row["outcome"])]


def _waiting(row: QueueRow) -> Json:
    """Return what a person needs to decide about a payment, beside what it is."""
    return {
        "rank": row.rank,
        "asked": row.ask.value,
        "waits": row.amount.amount if row.amount else None,
        "age_days": row.age_days,
        "candidates": [
            {
                "order": one.order,
                "channel": one.channel,
                "status": one.status.value if one.status else None,
                "open": one.open.amount if one.open else None,
                "currency": one.open.currency if one.open else None,
                "takes": one.takes,
                "said": one.said,
                "evidence": list(one.evidence),
            }
            for one in row.candidates
        ],
        "todo": row.todo,
    }


def _print_waiting(found: Sequence[Json]) -> None:
    shown.table(
        ("Payment>", "Booked", "Days>", "Amount>", "", "Source", "Outcome", "Why", "Could be for", "What to do"),
        (
            (
                one["id"],
                one["booked_on"],
                one["age_days"],
                one["waits"],
                one["currency"],
                one["source"],
                shown.words(one["outcome"]),
                one["reason"],
                "; ".join(f"{c['order']}: {c['said']} ({', '.join(c['evidence'])})" for c in one["candidates"]),
                one["todo"],
            )
            for one in found
        ),
    )


@payments_app.command(name="show")
async def payments_show(
    payment: Annotated[int, Parameter(name="ID", help="The payment's number in Kvit, as the list shows it.")],
    /,
    *,
    as_json: AsJson = False,
) -> int:
    """Show a payment: what it turned out to be and why, the orders it could be for, and what it settles.

    kvit payments show 17
    """
    from store import payments

    async with opened_home() as opened, opened.store.read() as connection:
        rows = await payments.listing(connection, payment_id=payment) if 0 < payment < 1 << 63 else []
        parts = await payments.allocated(connection, [row["id"] for row in rows])
    if not rows:
        raise Wrong(f"there is no payment {payment}")
    found = shown.payment_details(rows[0], parts.get(payment, []))
    if as_json:
        shown.as_json(found)
    else:
        shown.print_payment(found)
    return DONE
