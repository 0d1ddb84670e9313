"""Archive: closed orders leave the growing tables, piece by piece; each piece is one transaction, there or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from store import archive, archived, orders
from store.archive import What
from tasks.cells import cells
from tasks.installation import Installation

PIECE = 50
"""Orders that are archived in one transaction; others wait for it."""
YOUNGEST_DAYS = 30
"""What happened since may still be compared with banks and gateways, or be disputed, so it stays."""
_NOT_ALLOWED, _BUSY = "42501", ("55P03", "40P01")
"""PostgreSQL's codes for what a user has no right to, and for a lock that was not to be had: others go first."""
_TRIES = 5


class ArchiveError(Exception):
    """Orders can't be archived as it is wanted; its text says why."""


@dataclass(slots=True)
class Archived:
    """What an archiving came to, or would come to: orders and rows that go, and how many orders stay for which reason.

    looked_at is how far it is, of `total` orders that were placed before the day.
    """

    total: int
    looked_at: int = 0
    orders: int = 0
    rows: int = 0
    kept: Counter[str] = field(default_factory=Counter[str])


Told = Callable[[Archived], Awaitable[None]]
"""Called after each piece."""


def day_before(opened: Installation, before: date) -> datetime:
    """Return the moment at which a day (UTC) begins. Raises ArchiveError for one that is too young."""
    begins = datetime.combine(before, time(), UTC)
    days = (opened.clock() - begins).days
    if days < YOUNGEST_DAYS:
        raise ArchiveError(f"{before} is too young: choose a day at least {YOUNGEST_DAYS} days ago")
    return begins


def day_ago(opened: Installation, days: int) -> date:
    """Return the day (UTC) that was so many days ago."""
    return (opened.clock() - timedelta(days=days)).date()


async def _nothing(_: Archived) -> None:
    pass


async def plan(opened: Installation, before: date, *, told: Told = _nothing) -> Archived:
    """Say what would be archived of the orders placed before a day, and what stays; nothing is moved.

    Raises ArchiveError.
    """
    begins = day_before(opened, before)

    async def judged(what: What, after: int) -> archive.Moved:
        async with opened.store.read() as connection:
            return await archive.judge(connection, what, before=begins, after=after, limit=PIECE, now=opened.clock())

    return await _piece_by_piece(opened, begins, judged, told)


async def archive_before(opened: Installation, before: date, *, told: Told = _nothing) -> Archived:
    """Archive what is closed of the orders placed before a day, if nothing happened to it since.

    One that is cut short has done its pieces; begun again, it goes on with the rest. Raises ArchiveError.
    """
    begins = day_before(opened, before)

    async def taken(what: What, after: int, tries: int = _TRIES) -> archive.Moved:
        try:
            async with opened.store.write() as connection:
                return await archive.take(connection, what, before=begins, after=after, limit=PIECE, now=opened.clock())
        except DBAPIError as error:
            code = getattr(error.orig, "sqlstate", None)
            if code == _NOT_ALLOWED:
                raise ArchiveError(
                    "the database user of KVIT_DATABASE_URL may not take anything out of the history; "
                    "archive with the URL of the tables' owner"
                ) from None
            if code not in _BUSY or tries == 1:
                raise
        return await taken(what, after, tries - 1)

    return await _piece_by_piece(opened, begins, taken, told)


async def _piece_by_piece(
    opened: Installation, begins: datetime, piece: Callable[[What, int], Awaitable[archive.Moved]], told: Told
) -> Archived:
    async with opened.store.read() as connection:
        found = Archived(total=await archive.how_many(connection, before=begins))
    for what in What:
        after: int | None = 0
        while after is not None:
            moved = await piece(what, after)
            found.orders += moved.orders
            found.rows += moved.rows
            found.kept.update(moved.kept)
            found.looked_at = min(found.looked_at + moved.looked_at, found.total)
            after = moved.last
            await told(found)
    found.looked_at = found.total
    await told(found)
    return found


@asynccontextmanager
async def as_it_was(opened: Installation, archive_id: int) -> AsyncGenerator[AsyncConnection]:
    """Give a transaction in which an archive's orders are here again, and which leaves no trace.

    Raises ArchiveError for one that can't be read.
    """
    async with opened.store.write() as connection, connection.begin_nested() as undone:
        try:
            await archive.bring_back_all(connection, [archive_id], because="")
        except archived.ArchiveError as error:
            raise ArchiveError(f"archive {archive_id} can't be read: {error}") from None
        yield connection
        await undone.rollback()


async def bring_back(opened: Installation, number: str, *, channel: str | None, because: str) -> int:
    """Bring back an archived order, with those that a payment joins with it; return how many that is.

    Raises ArchiveError for one that is not archived, or not known apart.
    """
    async with opened.store.write() as connection:
        found = await archived.of_number(connection, number.strip(), channel)
        if not found:
            here = await orders.ids_of(connection, number.strip(), channel)
            raise ArchiveError(f"order {number:.80} is {'not archived' if here else 'not known'}")
        if len(found) > 1:
            raise ArchiveError(f"order {number:.80} is in {', '.join(of for _, of in found)}; name the channel")
        try:
            return await archive.bring_back_all(connection, [found[0][0]], because=because)
        except archived.ArchiveError as error:
            raise ArchiveError(f"archive {found[0][0]} can't be brought back: {error}") from None


def said_of(found: Archived, *, planned: bool) -> str:
    """Say in words what an archiving came to."""
    words = "would be archived" if planned else "archived"
    stay = found.kept.total()
    stays = f"{stay} {'stays' if stay == 1 else 'stay'}"
    return f"{found.orders} of {found.total} orders {words}, {found.rows} rows; {stays}"


async def show(found: Archived, *, planned: bool) -> None:
    """Show in the log of the run what goes, and what stays for which reason."""
    rows = [{"Orders": "would be archived" if planned else "archived", "How many": str(found.orders)}]
    rows += [{"Orders": f"stay: {why}", "How many": str(count)} for why, count in kept_most_first(found.kept)]
    await acreate_table_artifact(key="archived", table=cells(rows), description=said_of(found, planned=planned))


class Progress:
    """A progress bar in the run's artifacts."""

    def __init__(self) -> None:
        self._artifact: Any = None

    async def show(self, found: Archived) -> None:
        """Say how much is done."""
        percent = 100 * found.looked_at / max(found.total, 1)
        if self._artifact is None:
            said = f"{found.total} orders to look at"
            self._artifact = await acreate_progress_artifact(progress=percent, key="archive", description=said)
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, progress=percent)


def kept_most_first(kept: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return why orders stay, the most frequent reason first."""
    return sorted(kept.items(), key=lambda one: (-one[1], one[0]))
