"""The inbox: whatever came from outside is stored raw, once, before it is answered; it is worked off later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.archived import Name, find
from store.sql import add_new, add_new_returning, among, chunks
from store.tables import ConnectorState, InboxRow

_ID_MAX = 200


@dataclass(frozen=True, slots=True)
class Letter:
    """A stored message that is due to be worked off."""

    id: int
    source: str
    external_id: str
    kind: str
    body: bytes
    attempts: int


def _short(external_id: str) -> str:
    """Return an id that fits its column; two ids that differ anywhere stay different."""
    if len(external_id) <= _ID_MAX:
        return external_id
    digest = hashlib.sha256(external_id.encode()).hexdigest()
    return f"{external_id[: _ID_MAX - 65]}#{digest}"


@dataclass(frozen=True, slots=True)
class NewLetter:
    """A message as it came, which is to be stored."""

    source: str
    external_id: str
    kind: str
    body: bytes
    received_at: datetime
    due_at: datetime | None
    """None for what is worked off in the same transaction, such as a statement file."""


async def put(
    connection: AsyncConnection,
    *,
    source: str,
    external_id: str,
    kind: str,
    body: bytes,
    now: datetime,
    due_at: datetime | None,
) -> int | None:
    """Store a message; return its id, or None if (source, external id) is known already."""
    (id_,) = await put_all(connection, [NewLetter(source, external_id, kind, body, now, due_at)])
    return id_


async def put_all(connection: AsyncConnection, letters: Sequence[NewLetter]) -> list[int | None]:
    """Store messages together; return the id of each, in their order, or None where (source, external id) is known.

    What is archived is known as well, and so is what an earlier one of these has.
    """
    first: dict[tuple[str, str], int] = {}
    for place, letter in enumerate(letters):
        first.setdefault((letter.source, _short(letter.external_id)), place)
    archived = await find(connection, [Name("letter", *key) for key in first])
    ids: list[int | None] = [None] * len(letters)
    # In one order, so that two processes that are told the same don't wait for each other.
    new = [key for key in sorted(first) if Name("letter", *key) not in archived]
    rows = [_row(letters[first[key]], key) for key in new]
    columns = (InboxRow.id, InboxRow.source, InboxRow.external_id)
    for row in await add_new_returning(connection, InboxRow, rows, *columns):
        ids[first[row.source, row.external_id]] = row.id
    return ids


def due_in_order(source: str, kind: str, told: Sequence[tuple[str, bytes]], *, now: datetime) -> list[NewLetter]:
    """Make messages of (external id, body) that are due now, and worked off in this order whatever their ids are."""
    due_ats = [now - timedelta(microseconds=later) for later in reversed(range(len(told)))]
    return [
        NewLetter(source, external_id, kind, body, received_at=now, due_at=due_at)
        for (external_id, body), due_at in zip(told, due_ats, strict=True)
    ]


def _row(letter: NewLetter, key: tuple[str, str]) -> dict[str, Any]:
    return {
        "source": key[0],
        "external_id": key[1],
        "kind": letter.kind[:80],
        "body": letter.body,
        "received_at": letter.received_at,
        "handled_at": None if letter.due_at else letter.received_at,
        "due_at": letter.due_at,
        "attempts": 0,
    }


_DUE = (InboxRow.due_at.is_not(None), InboxRow.due_at <= bindparam("now"))
_NEXT = (
    select(
        InboxRow.id,
        InboxRow.source,
        InboxRow.external_id,
        InboxRow.kind,
        InboxRow.body,
        InboxRow.attempts,
    )
    .where(*_DUE, or_(InboxRow.lease_until.is_(None), InboxRow.lease_until <= bindparam("now")))
    .order_by(InboxRow.due_at, InboxRow.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_TAKEN = (
    update(InboxRow)
    .where(among(InboxRow.id, "ids"))
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until"), attempts=InboxRow.attempts + 1)
)


async def take(
    connection: AsyncConnection, *, owner: str, now: datetime, lease_until: datetime, limit: int
) -> list[Letter]:
    """Lease messages that are due and free, the oldest first."""
    rows = (await connection.execute(_NEXT, {"now": now, "most": limit})).all()
    for some in chunks([row.id for row in rows]):
        await connection.execute(_TAKEN, {"ids": some, "owner": owner, "until": lease_until})
    return [Letter(row.id, row.source, row.external_id, row.kind, row.body, row.attempts + 1) for row in rows]


_HANDLED = (
    update(InboxRow)
    .where(among(InboxRow.id, "ids"))
    .values(handled_at=bindparam("now"), due_at=None, lease_owner=None, lease_until=None, problem=None)
)


async def handled(connection: AsyncConnection, ids: Sequence[int], *, now: datetime) -> None:
    """Mark messages as worked off."""
    for some in chunks(list(ids)):
        await connection.execute(_HANDLED, {"ids": some, "now": now})


_PUT_OFF = (
    update(InboxRow)
    .where(InboxRow.id == bindparam("letter"), InboxRow.handled_at.is_(None))
    .values(due_at=bindparam("until"), problem=bindparam("said"), lease_owner=None, lease_until=None)
)


async def put_off(connection: AsyncConnection, letter_id: int, *, due_at: datetime | None, problem: str) -> None:
    """Give a message back, due again later or (None) parked for a person, with what was wrong.

    One that another worker has handled meanwhile stays handled.
    """
    await connection.execute(_PUT_OFF, {"letter": letter_id, "until": due_at, "said": problem})


_PARKED = (InboxRow.handled_at.is_(None), InboxRow.due_at.is_(None))
_SETTLED = (
    update(InboxRow)
    .where(InboxRow.id == bindparam("letter"), *_PARKED)
    .values(due_at=bindparam("until"), handled_at=bindparam("done"), attempts=0)
    .returning(InboxRow.source)
)


async def settle(connection: AsyncConnection, letter_id: int, *, again: bool, now: datetime) -> str | None:
    """Take a parked message up again, or be done with it; return whose it is, None when none of this id is parked."""
    told = {"letter": letter_id, "until": now if again else None, "done": None if again else now}
    return await connection.scalar(_SETTLED, told)


_ALL_PARKED = (
    select(
        InboxRow.id,
        InboxRow.source,
        InboxRow.external_id,
        InboxRow.kind,
        InboxRow.received_at,
        InboxRow.problem,
    )
    .where(*_PARKED)
    .order_by(InboxRow.id)
)


async def parked(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Return the messages that were given up, with the reason."""
    rows = await connection.execute(_ALL_PARKED)
    return [dict(row) for row in rows.mappings().all()]


_PARKED_FOR = (
    select(InboxRow.id)
    .where(InboxRow.source == bindparam("source"), *_PARKED, InboxRow.problem == bindparam("problem"))
    .limit(1)
)


async def is_parked(connection: AsyncConnection, source: str, problem: str) -> bool:
    """Say whether a message of a source waits for a person because of this same problem already."""
    same = await connection.execute(_PARKED_FOR, {"source": source, "problem": problem})
    return same.first() is not None


_COUNT_DUE = select(func.count()).select_from(InboxRow).where(*_DUE)


async def count_due(connection: AsyncConnection, now: datetime) -> int:
    """Return how many messages are due now."""
    return await connection.scalar(_COUNT_DUE, {"now": now}) or 0


_FIRST_DUE = select(func.min(InboxRow.due_at)).where(InboxRow.due_at.is_not(None))


async def next_due(connection: AsyncConnection) -> datetime | None:
    """Return when the next message falls due, or None when nothing is waiting."""
    return await connection.scalar(_FIRST_DUE)


_CURSOR = select(ConnectorState.cursor).where(ConnectorState.connector == bindparam("connector"))


async def cursor(connection: AsyncConnection, connector: str) -> str | None:
    """Return where polling a source stopped."""
    return await connection.scalar(_CURSOR, {"connector": connector})


_MOVED = (
    update(ConnectorState)
    .where(ConnectorState.connector == bindparam("of"))
    .values(cursor=bindparam("to"), polled_at=bindparam("now"))
)


async def move_cursor(connection: AsyncConnection, connector: str, to: str, *, now: datetime) -> None:
    """Remember where polling a source stopped."""
    await add_new(connection, ConnectorState, [{"connector": connector, "cursor": to, "polled_at": now}])
    await connection.execute(_MOVED, {"of": connector, "to": to, "now": now})
