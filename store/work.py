"""What is due: which payments and orders a scenario must carry on, leased to one worker at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Integer, bindparam, case, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import TIMED
from store import orders
from store.sql import among, chunks, insert_or
from store.tables import AllocationRow, OrderRow, UtcDateTime, WorkRow


@dataclass(frozen=True, slots=True)
class Due:
    """A subject that is due: a payment or an order, in its scenario."""

    id: int
    scenario: str
    subject: str
    subject_id: int


_DUE_AGAIN = text(
    "ON CONFLICT (subject, subject_id, scenario) DO UPDATE SET due_at = excluded.due_at, finished_at = NULL, "
    "again = work.lease_owner IS NOT NULL, note = coalesce(excluded.note, work.note)"
)
_DUE_AGAIN_AS_SAID = text(
    "ON CONFLICT (subject, subject_id, scenario) DO UPDATE SET due_at = excluded.due_at, finished_at = NULL, "
    "again = work.lease_owner IS NOT NULL, note = coalesce(excluded.note, work.note), quiet = excluded.quiet"
)


async def add(
    connection: AsyncConnection,
    scenario: str,
    subject: str,
    ids: Sequence[int],
    *,
    now: datetime,
    quiet: bool | None = None,
    note: str | None = None,
    due_at: datetime | None = None,
) -> None:
    """Make subjects due in a scenario; those that are known to it become due again, even while they are worked on.

    quiet says whether customers get no messages for them; None leaves what was said before. due_at is when they fall
    due, where that is not now.
    """
    due = [(scenario, id_, due_at or now) for id_ in sorted(ids)]
    await add_all(connection, subject, due, now=now, quiet=quiet, note=note)


async def add_all(
    connection: AsyncConnection,
    subject: str,
    due: Iterable[tuple[str, int, datetime]],
    *,
    now: datetime,
    quiet: bool | None = None,
    note: str | None = None,
) -> None:
    """Make subjects due in several scenarios as `add` does in one, each given as (scenario, id, when).

    Those that others may know are given by scenario and id: in that order such rows are locked everywhere.
    """
    rows = [
        {
            "scenario": scenario,
            "subject": subject,
            "subject_id": subject_id,
            "due_at": due_at,
            "again": False,
            "attempts": 0,
            "quiet": bool(quiet),
            "note": note,
            "created_at": now,
        }
        for scenario, subject_id, due_at in due
    ]
    if rows:
        await connection.execute(insert_or(WorkRow, _DUE_AGAIN if quiet is None else _DUE_AGAIN_AS_SAID), rows)


_WOKEN = (
    update(WorkRow)
    .where(
        WorkRow.subject == bindparam("of"),
        among(WorkRow.subject_id, "ids"),
        or_(WorkRow.scenario.not_in(TIMED), WorkRow.due_at.is_(None), WorkRow.due_at <= bindparam("now")),
    )
    .values(due_at=bindparam("now"), finished_at=None, again=WorkRow.lease_owner.is_not(None))
)


async def wake(connection: AsyncConnection, subject: str, ids: Sequence[int], *, now: datetime) -> None:
    """Make subjects due at once in every scenario that knows them, but for those whose time is still to come."""
    for some in chunks(list(ids)):
        await connection.execute(_WOKEN, {"of": subject, "ids": some, "now": now})


_DUE = (WorkRow.due_at.is_not(None), WorkRow.due_at <= bindparam("now"))
_FREE = or_(WorkRow.lease_until.is_(None), WorkRow.lease_until <= bindparam("now"))
_NEXT = (
    select(WorkRow.id, WorkRow.scenario, WorkRow.subject, WorkRow.subject_id)
    .where(*_DUE, _FREE)
    .order_by(WorkRow.due_at, WorkRow.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_TAKEN = (
    update(WorkRow)
    .where(among(WorkRow.id, "ids"))
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until"), again=False, attempts=WorkRow.attempts + 1)
)


async def take(
    connection: AsyncConnection, *, owner: str, now: datetime, lease_until: datetime, limit: int
) -> list[Due]:
    """Lease what is due and free, the longest due first. Workers on PostgreSQL pass over each other's rows."""
    rows = (await connection.execute(_NEXT, {"now": now, "most": limit})).all()
    for some in chunks([row.id for row in rows]):
        await connection.execute(_TAKEN, {"ids": some, "owner": owner, "until": lease_until})
    return [Due(row.id, row.scenario, row.subject, row.subject_id) for row in rows]


_HELD = (among(WorkRow.id, "ids"), WorkRow.lease_owner == bindparam("owner"))
_RENEWED = update(WorkRow).where(*_HELD).values(lease_until=bindparam("until"))


async def renew(connection: AsyncConnection, owner: str, ids: Sequence[int], until: datetime) -> None:
    """Put off the end of a worker's leases while its run goes on."""
    for some in chunks(list(ids)):
        await connection.execute(_RENEWED, {"ids": some, "owner": owner, "until": until})


_UNTIL = bindparam("until", type_=UtcDateTime())
_ENDED = (
    update(WorkRow)
    .where(
        WorkRow.scenario == bindparam("named"),
        WorkRow.subject == bindparam("of"),
        WorkRow.subject_id == bindparam("id_"),
    )
    .values(
        due_at=case((WorkRow.again, WorkRow.due_at), else_=_UNTIL),
        finished_at=case((_UNTIL.is_(None) & WorkRow.again.is_(False), bindparam("now", type_=UtcDateTime()))),
        note=bindparam("said"),
    )
)


async def finish(
    connection: AsyncConnection,
    scenario: str,
    subject: str,
    ends: Sequence[tuple[int, datetime | None, str | None]],
    *,
    now: datetime,
) -> None:
    """Say how subjects ended: (id, when due again or None for finished, note).

    What was made due once more meanwhile stays due at once: the run that ends may not have seen why.
    """
    if not ends:
        return
    await connection.execute(
        _ENDED,
        # In the order in which such rows are locked everywhere.
        [
            {"named": scenario, "of": subject, "id_": id_, "until": due_at, "said": note, "now": now}
            for id_, due_at, note in sorted(ends, key=lambda ended: ended[0])
        ],
    )


_PUT_OFF = (
    update(WorkRow)
    .where(*_HELD, WorkRow.due_at.is_not(None), WorkRow.due_at < bindparam("until"))
    .values(due_at=bindparam("until"))
)
_GIVEN_BACK = update(WorkRow).where(*_HELD).values(lease_owner=None, lease_until=None)


async def give_back(connection: AsyncConnection, owner: str, ids: Sequence[int], *, due_at: datetime | None) -> None:
    """End a worker's leases; due_at says when rows that are still due may be taken again (None leaves it)."""
    for some in chunks(list(ids)):
        if due_at is not None:
            await connection.execute(_PUT_OFF, {"ids": some, "owner": owner, "until": due_at})
        await connection.execute(_GIVEN_BACK, {"ids": some, "owner": owner})


_QUIET = select(WorkRow.subject_id).where(
    WorkRow.subject == bindparam("of"), among(WorkRow.subject_id, "ids"), WorkRow.quiet.is_(True)
)


async def quiet_ones(connection: AsyncConnection, subject: str, ids: Sequence[int]) -> set[int]:
    """Return those subjects for which nobody gets a message."""
    found: set[int] = set()
    for some in chunks(list(ids)):
        rows = await connection.execute(_QUIET, {"of": subject, "ids": some})
        found.update(rows.scalars().all())
    return found


_ATTEMPTS = select(WorkRow.subject_id, WorkRow.attempts).where(
    WorkRow.scenario == bindparam("named"), WorkRow.subject == bindparam("of"), among(WorkRow.subject_id, "ids")
)


async def attempts(connection: AsyncConnection, scenario: str, subject: str, ids: Sequence[int]) -> dict[int, int]:
    """Return how often each subject was taken."""
    found: dict[int, int] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(_ATTEMPTS, {"named": scenario, "of": subject, "ids": some})
        found.update({row.subject_id: row.attempts for row in rows.all()})
    return found


_FIRST_DUE = select(func.min(WorkRow.due_at)).where(WorkRow.due_at.is_not(None))


async def next_due(connection: AsyncConnection) -> datetime | None:
    """Return when the next row falls due, or None when nothing is waiting."""
    return await connection.scalar(_FIRST_DUE)


_COUNT_DUE = select(func.count()).select_from(WorkRow).where(*_DUE)


async def count_due(connection: AsyncConnection, now: datetime) -> int:
    """Return how many rows are due now, leased or not."""
    return await connection.scalar(_COUNT_DUE, {"now": now}) or 0


_ANY_FREE = select(WorkRow.id).where(*_DUE, _FREE).limit(1)


async def anything_free(connection: AsyncConnection, now: datetime) -> bool:
    """Say whether a row is due now that nobody works on."""
    return await connection.scalar(_ANY_FREE, {"now": now}) is not None


_HOLDERS = (
    select(WorkRow.lease_owner)
    .where(WorkRow.lease_owner.is_not(None), WorkRow.lease_until > bindparam("now"))
    .distinct()
)


async def holders(connection: AsyncConnection, now: datetime) -> set[str]:
    """Return the workers that hold a live lease."""
    rows = await connection.execute(_HOLDERS, {"now": now})
    return {owner for owner in rows.scalars().all() if owner}


async def of_orders(
    connection: AsyncConnection,
    *,
    channel: str | None = None,
    status: str | None = None,
    method: str | None = None,
    placed_from: datetime | None = None,
    placed_to: datetime | None = None,
    numbers: Sequence[str] = (),
) -> list[tuple[Due, str, bool, int]]:
    """Return the work of chosen orders and of their payments: (row, order number, whether it is finished, order)."""
    chosen = orders.chosen(channel=channel, status=status, method=method, placed_from=placed_from, placed_to=placed_to)
    columns = (
        WorkRow.id,
        WorkRow.scenario,
        WorkRow.subject,
        WorkRow.subject_id,
        OrderRow.number,
        WorkRow.finished_at.is_not(None),
        OrderRow.id,
    )
    own = (
        select(*columns)
        .join(OrderRow, (WorkRow.subject == "order") & (WorkRow.subject_id == OrderRow.id))
        .where(WorkRow.scenario.not_in(TIMED))
    )
    paid = (
        select(*columns)
        .join(AllocationRow, (WorkRow.subject == "payment") & (WorkRow.subject_id == AllocationRow.payment_id))
        .join(OrderRow, OrderRow.id == AllocationRow.order_id)
    )
    found: dict[int, tuple[Due, str, bool, int]] = {}
    some_numbers = list(chunks(list(numbers))) if numbers else [()]
    for some in some_numbers:
        conditions = [*chosen, OrderRow.number.in_(some)] if some else chosen
        for query in (own, paid):
            for row in (await connection.execute(query.where(*conditions))).all():
                found[row[0]] = (Due(row[0], row[1], row[2], row[3]), row[4], bool(row[5]), row[6])
    return [found[id_] for id_ in sorted(found)]


_AT_REST = or_(WorkRow.finished_at.is_not(None), WorkRow.attempts == 0)
_QUIETED = update(WorkRow).where(among(WorkRow.id, "ids"), _AT_REST).values(quiet=bindparam("silent"))
_SET_ASIDE = (
    update(WorkRow)
    .where(among(WorkRow.id, "ids"))
    .values(due_at=bindparam("until"), finished_at=None, note=bindparam("said"))
)


async def hold_for(connection: AsyncConnection, ids: Sequence[int], *, until: datetime, quiet: bool, note: str) -> None:
    """Set rows aside for a run that carries them on by itself; should it die, they fall due at `until`.

    What is on its way keeps its messages: only rows that were finished, or never begun, become quiet.
    """
    for some in chunks(list(ids)):
        await connection.execute(_QUIETED, {"ids": some, "silent": quiet})
        await connection.execute(_SET_ASIDE, {"ids": some, "until": until, "said": note})
