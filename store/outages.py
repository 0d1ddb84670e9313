"""Outages: which outside systems are down, who may ask whether one is back, and what goes on once it is.

A system that failed has a row; it is *down* from the moment at which the row has a time for the next probe. What waits
for it are the open effects that name it, that nobody holds, and that were last tried since the trouble began.

Every transaction here locks the outage first, then effects by id, then work by subject. Those who record effects touch
no outage in the same transaction, so nobody waits for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import subject_of
from store.effects import OPEN, EffectState
from store.sql import add_new, among, chunks
from store.tables import EffectRow, OutageRow, WorkRow


@dataclass(frozen=True, slots=True)
class Outage:
    """A system that fails: since when, why, with which orders in a row, and how many probes found it so.

    probe_at is when it is asked next; without it, it is not yet called down.
    """

    system: str
    since: datetime
    reason: str
    failed: tuple[int, ...]
    attempts: int
    probe_at: datetime | None


@dataclass(frozen=True, slots=True)
class Down:
    """A system that is down, as people are told: waiting counts the steps of orders that wait for it."""

    system: str
    since: datetime
    reason: str
    probe_at: datetime
    waiting: int


def _outage(row: Row[Any]) -> Outage:
    return Outage(row.system, row.since, row.reason, tuple(row.failed), row.attempts, row.probe_at)


_OF_SYSTEMS = select(*OutageRow.__table__.columns).where(among(OutageRow.system, "systems"))


async def of_systems(connection: AsyncConnection, systems: Iterable[str]) -> dict[str, Outage]:
    """Return what is known of those systems that fail."""
    if not (names := sorted(set(systems))):
        return {}
    rows = await connection.execute(_OF_SYSTEMS, {"systems": names})
    return {row.system: _outage(row) for row in rows.all()}


_LOCKED = select(*OutageRow.__table__.columns).where(OutageRow.system == bindparam("system")).with_for_update()


async def _locked(connection: AsyncConnection, system: str) -> Outage | None:
    row = (await connection.execute(_LOCKED, {"system": system})).one_or_none()
    return _outage(row) if row else None


_NOTED = (
    update(OutageRow)
    .where(OutageRow.system == bindparam("_system"))
    .values(
        since=bindparam("_since"),
        reason=bindparam("_reason"),
        failed=bindparam("_failed"),
        attempts=bindparam("_attempts"),
        probe_at=bindparam("_probe_at"),
    )
)


async def note(
    connection: AsyncConnection,
    system: str,
    order_ids: Iterable[int],
    *,
    since: datetime,
    reason: str,
    enough: int,
    wait: Callable[[int], timedelta],
    now: datetime,
    afresh: bool = False,
    probed: bool = False,
) -> Outage:
    """Note that a system failed with some orders; it is down once it failed with `enough` different ones in a row.

    wait says how long to wait for the probe after so many attempts in vain. afresh says that it answered in between,
    so that failures noted earlier don't count; probed that this was the probe.
    """
    first: dict[str, Any] = {"system": system, "since": since, "reason": reason, "failed": [], "probe_at": None}
    while (known := await _locked(connection, system)) is None:
        await add_new(connection, OutageRow, [first | {"attempts": 0}])
    began_now = afresh and known.probe_at is None
    failed = sorted({*order_ids, *(() if began_now else known.failed)})
    attempts, probe_at = known.attempts, known.probe_at
    if probed or (probe_at is None and len(failed) >= enough):
        attempts += 1
        probe_at = now + wait(attempts)
    noted = Outage(system, since if began_now else known.since, reason, tuple(failed[-enough:]), attempts, probe_at)
    await connection.execute(
        _NOTED,
        {
            "_system": system,
            "_since": noted.since,
            "_reason": reason,
            "_failed": [*noted.failed],
            "_attempts": noted.attempts,
            "_probe_at": noted.probe_at,
        },
    )
    return noted


_PROBE = (
    update(OutageRow)
    .where(
        OutageRow.system == bindparam("_system"),
        OutageRow.probe_at.is_not(None),
        OutageRow.probe_at <= bindparam("_now"),
    )
    .values(probe_at=bindparam("_until"))
)
_PROBE_HELD = (
    update(OutageRow)
    .where(
        OutageRow.system == bindparam("_system"),
        OutageRow.probe_at.is_not(None),
        OutageRow.probe_at == bindparam("_held"),
    )
    .values(probe_at=bindparam("_until"))
)


async def take_probe(
    connection: AsyncConnection, system: str, *, until: datetime, now: datetime, held: datetime | None = None
) -> bool:
    """Take the right to probe a system, for one worker among all; it lapses at `until`.

    It is there once the time for the probe has come, or for who has it already: held is the `until` of then.
    """
    if held is None:
        taken = await connection.execute(_PROBE, {"_system": system, "_now": now, "_until": until})
    else:
        taken = await connection.execute(_PROBE_HELD, {"_system": system, "_held": held, "_until": until})
    return taken.rowcount == 1


_GONE = delete(OutageRow).where(OutageRow.system == bindparam("system"))


async def is_up(connection: AsyncConnection, system: str, *, now: datetime) -> int:
    """Say that a system answered: what waits for it is due now. Return how many effects these are."""
    outage = await _locked(connection, system)
    if outage is None:
        return 0
    await connection.execute(_GONE, {"system": system})
    return await release(connection, system, since=outage.since, now=now) if outage.probe_at else 0


def _subjects(causes: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, set[int]] = {}
    for cause in causes:
        subject, id_ = subject_of(cause)
        found.setdefault(subject, set()).add(id_)
    return {subject: sorted(ids) for subject, ids in sorted(found.items())}


_WAITS = and_(
    EffectRow.system == bindparam("system"),
    EffectRow.state.in_(OPEN),
    EffectRow.due_at.is_not(None),
    EffectRow.lease_owner.is_(None),
    EffectRow.updated_at >= bindparam("since"),
)
_RELEASED = select(EffectRow.id, EffectRow.cause).where(_WAITS).order_by(EffectRow.id).with_for_update()
_DUE = update(EffectRow).where(among(EffectRow.id, "_ids")).values(due_at=bindparam("_due_at"))
_LATER_WORK = and_(
    WorkRow.subject == bindparam("_subject"),
    among(WorkRow.subject_id, "_subject_ids"),
    WorkRow.due_at > bindparam("_now"),
)
# In the order in which runs lock them when they end.
_IN_ORDER = select(WorkRow.id).order_by(WorkRow.scenario, WorkRow.subject, WorkRow.subject_id).with_for_update()
_LOCKED_LATER_WORK = _IN_ORDER.where(_LATER_WORK)
# A run that is under way may have looked already: what it carries on is due once more when it ends.
_DUE_WORK = (
    update(WorkRow)
    .where(_LATER_WORK)
    .values(due_at=bindparam("_now"), again=or_(WorkRow.again, WorkRow.lease_owner.is_not(None)))
)


async def release(connection: AsyncConnection, system: str, *, since: datetime, now: datetime) -> int:
    """Make due now what waits for a system, and the work that it belongs to; return how many effects these are."""
    rows = (await connection.execute(_RELEASED, {"system": system, "since": since})).all()
    for ids in chunks([row.id for row in rows]):
        await connection.execute(_DUE, {"_ids": ids, "_due_at": now})
    for subject, subject_ids in _subjects(row.cause for row in rows).items():
        for some in chunks(subject_ids):
            later = {"_subject": subject, "_subject_ids": some, "_now": now}
            await connection.execute(_LOCKED_LATER_WORK, later)
            await connection.execute(_DUE_WORK, later)
    return len(rows)


_WAITING = (
    select(
        EffectRow.id,
        EffectRow.cause,
        EffectRow.state,
        EffectRow.attempts,
        EffectRow.due_at,
        EffectRow.created_at,
    )
    .where(_WAITS)
    .order_by(EffectRow.id)
    .with_for_update()
)
_EXPLAINED = update(EffectRow).where(among(EffectRow.id, "_ids")).values(reason=bindparam("_reason"))


async def put_off(
    connection: AsyncConnection,
    system: str,
    *,
    reason: str,
    rest_after: timedelta,
    patience: timedelta,
    now: datetime,
) -> None:
    """Let what waits for a system that is down wait on: one effect until the next probe, the rest for a little longer.

    reason is what is told of those that can't have happened. The one is the least tried, so that an order which is
    itself the trouble is not the probe each time. Nothing sleeps past the moment at which it has been open for as long
    as `patience`: then it is due, and shown to a person.
    """
    outage = await _locked(connection, system)
    if outage is None or outage.probe_at is None:
        return
    rows = (await connection.execute(_WAITING, {"system": system, "since": outage.since})).all()
    if not rows:
        return
    probe = min(rows, key=lambda row: (row.attempts, row.id))
    moved: dict[datetime, list[int]] = {}
    for row in rows:
        due_at = outage.probe_at if row is probe else max(row.due_at, outage.probe_at + rest_after)
        if (shown_at := row.created_at + patience) > now:
            due_at = min(due_at, shown_at)
        if due_at != row.due_at:
            moved.setdefault(due_at, []).append(row.id)
    for due_at, ids in sorted(moved.items()):
        for some in chunks(ids):
            await connection.execute(_DUE, {"_ids": some, "_due_at": due_at})
    for some in chunks([row.id for row in rows if row.state == EffectState.INTENDED]):
        await connection.execute(_EXPLAINED, {"_ids": some, "_reason": reason})
    await _put_off_work(connection, [row.cause for row in rows], now=now)


_FIRST_DUE = (
    select(EffectRow.cause, func.min(EffectRow.due_at, type_=EffectRow.due_at.type).label("first"))
    .where(among(EffectRow.cause, "causes"), EffectRow.state.in_(OPEN), EffectRow.due_at.is_not(None))
    .group_by(EffectRow.cause)
)
_ASLEEP = and_(_LATER_WORK, WorkRow.lease_owner.is_(None))
_LOCKED_ASLEEP = _IN_ORDER.where(_ASLEEP)
_PUT_OFF_WORK = update(WorkRow).where(_ASLEEP).values(due_at=bindparam("_due_at"))


async def _put_off_work(connection: AsyncConnection, causes: Sequence[str], *, now: datetime) -> None:
    """Let work wait as long as the first of its open effects; a run that is under way sees to its own."""
    firsts: dict[datetime, list[str]] = {}
    for some in chunks(sorted(set(causes))):
        for row in (await connection.execute(_FIRST_DUE, {"causes": some})).all():
            firsts.setdefault(row.first, []).append(row.cause)
    for due_at, some_causes in sorted(firsts.items()):
        for subject, subject_ids in _subjects(some_causes).items():
            for some in chunks(subject_ids):
                asleep = {"_subject": subject, "_subject_ids": some, "_now": now}
                await connection.execute(_LOCKED_ASLEEP, asleep)
                await connection.execute(_PUT_OFF_WORK, {**asleep, "_due_at": due_at})


_OF_SYSTEM = and_(EffectRow.system == OutageRow.system, EffectRow.state.in_(OPEN), EffectRow.due_at.is_not(None))
_DOWN = (
    select(
        OutageRow.system,
        OutageRow.since,
        OutageRow.reason,
        OutageRow.probe_at,
        select(func.count())
        .select_from(EffectRow)
        .where(_OF_SYSTEM)
        .correlate(OutageRow)
        .scalar_subquery()
        .label("waiting"),
    )
    .where(OutageRow.probe_at.is_not(None), exists().where(_OF_SYSTEM))
    .order_by(OutageRow.system)
)


async def listing(connection: AsyncConnection) -> list[Down]:
    """Return the systems that are down and that something waits for, by name.

    Where nothing waits nobody asks, so whether such a system is still down is not known. What is left to a person waits
    for that person.
    """
    rows = await connection.execute(_DOWN)
    return [Down(row.system, row.since, row.reason, row.probe_at, row.waiting) for row in rows.all()]
