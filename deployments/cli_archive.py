"""`kvit archive`: orders that were closed long ago leave the tables that every payment is looked up in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import DONE, AsJson, OfChannel, Wrong, opened_home

if TYPE_CHECKING:
    from tasks.archive import Archived, Told

archive_app = App(name="archive", help="Archive: put closed orders out of the way.")


@archive_app.default
async def archive(
    *,
    before: Annotated[date, Parameter(help="Nothing has happened to an order since this day (UTC) began.")],
    plan: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only show what would go and what stays.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Archive orders that are closed and settled, with their payments, steps, journal, documents and messages.

        kvit archive --before 2025-01-01 --plan
        kvit archive --before 2025-01-01

    Whatever comes late for such an order, such as a chargeback, finds it and brings it back. One that was cut short is
    simply begun again.
    """
    async with opened_home() as opened:
        from tasks.archive import ArchiveError, archive_before
        from tasks.archive import plan as planned

        try:
            with _bar() as told:
                found = await (planned if plan else archive_before)(opened, before, told=told)
        except ArchiveError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json(_told(found, planned=plan))
    else:
        _print(found, planned=plan)
    return DONE


@archive_app.command(name="back")
async def archive_back(
    number: Annotated[str, Parameter(help="The order's number.")],
    /,
    *,
    because: Annotated[str, Parameter(help="Why; it stands with the archive.")] = "",
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Bring an archived order back as it was, with those that one payment settled with it, such as to revert it.

    kvit archive back CZ1042 --because "the customer sends it back"
    """
    async with opened_home() as opened:
        from tasks.archive import ArchiveError, bring_back

        try:
            count = await bring_back(opened, number, channel=channel, because=because)
        except ArchiveError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"order": number, "brought_back": count})
    else:
        others = f", and {count - 1} that were settled with it" if count > 1 else ""
        shown.line(f"Order {number} is back{others}.")
    return DONE


def _told(found: Archived, *, planned: bool) -> shown.Json:
    from tasks.archive import kept_most_first

    return {
        "plan": planned,
        "orders": found.orders,
        "rows": found.rows,
        "looked_at": found.total,
        "stay": [{"because": why, "orders": count} for why, count in kept_most_first(found.kept)],
    }


def _print(found: Archived, *, planned: bool) -> None:
    from tasks.archive import kept_most_first, said_of

    if found.kept:
        shown.table(("Orders that stay, because", "Orders>"), kept_most_first(found.kept))
    said = said_of(found, planned=planned)
    shown.line(f"{said[0].upper()}{said[1:]}.")


@contextmanager
def _bar() -> Generator[Told]:
    """Show on a terminal how much was looked at."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("archive", total=None)

        async def told(found: Archived) -> None:
            bar.update(line, total=found.total, completed=found.looked_at)

        yield told
