"""Effects: the guard that makes a step happen once. One row per order, step and cause; its state only moves forward.

    intended ──► done | skipped | rejected
        │
        └─► in_doubt ──► done | skipped | rejected

A person alone can say of one that is in doubt or rejected that it did not happen and is to be tried again (`settle`).

A row is *leased* while a worker acts on it. A worker that ends an attempt gives the lease back, whatever came of it;
so a lease that ran out with an owner still on it means that the owner died in the middle: its effect is in doubt.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import round_of, subject_of
from store import journal
from store.sql import add_new_returning, among, chunks
from store.tables import EffectRow, OrderRow


class EffectState(StrEnum):
    """Where an effect stands."""

    INTENDED = "intended"
    IN_DOUBT = "in_doubt"
    DONE = "done"
    SKIPPED = "skipped"
    REJECTED = "rejected"


OPEN = (EffectState.INTENDED, EffectState.IN_DOUBT)
_IS_OPEN = or_(*(EffectRow.state == state.value for state in OPEN))  # IN can't be used where many rows are updated
_MAY_BE_HAPPENING = or_(
    EffectRow.state == EffectState.IN_DOUBT.value,
    and_(EffectRow.state == EffectState.INTENDED.value, EffectRow.lease_owner.is_not(None)),
)
"""A worker that died leaves its name in the lease, so one that has run out counts as well, until somebody has asked."""
_CAUSES_MAX = 20_000


class Verdict(StrEnum):
    """What a worker may do with an effect that it asked for."""

    ACT = "act"
    ASK = "ask"
    """It may have happened already: look before acting."""
    PASS = "pass"  # noqa: S105 - a verdict, no password
    """It is done or skipped: go on."""
    STOP = "stop"
    """Parked, not due yet, or held by another worker: leave it alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An effect that a worker asks for, by the version of the rules that it acts on now.

    reverses is the effect that this one takes back, if it does; system is the outside system that it acts on.
    """

    order_id: int
    cause: str
    rule_version: int | None
    reverses: int | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What was found: the effect, its stored idempotency key, and what may be done with it.

    same_rules says that whoever may have acted on it went by the version of the rules that it is claimed with. Of one
    that was in doubt before that isn't known.
    """

    effect_id: int
    order_id: int
    cause: str
    verdict: Verdict
    state: EffectState
    key: str
    attempts: int
    reference: str | None
    reason: str | None
    system: str | None = None
    doubt_since: datetime | None = None
    same_rules: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one attempt ended. due_at is set when it is to be tried again; begun is False if it was not even begun."""

    effect_id: int
    state: EffectState
    reference: str | None = None
    reason: str | None = None
    before: dict[str, Any]
    after: dict[str, Any]
    due_at: datetime | None = None
    begun: bool = True


def _new_key() -> str:
    return f"kvit-{secrets.token_hex(16)}"


def _verdict(row: Row[Any], *, now: datetime) -> Verdict:
    if row.state in (EffectState.DONE, EffectState.SKIPPED):
        return Verdict.PASS
    if row.state == EffectState.REJECTED:
        return Verdict.STOP
    if row.lease_owner is not None and row.lease_until > now:
        return Verdict.STOP
    if row.due_at is not None and row.due_at > now:
        return Verdict.STOP
    if row.lease_owner is None and row.state == EffectState.INTENDED:
        return Verdict.ACT
    return Verdict.ASK


_LOCKED_OF_CAUSES = (
    select(*EffectRow.__table__.columns)
    .where(among(EffectRow.cause, "causes"), EffectRow.step == bindparam("step"))
    .order_by(EffectRow.id)
    .with_for_update()
)


async def _rows(connection: AsyncConnection, step: str, wanted: Sequence[Wanted]) -> dict[tuple[int, str], Row[Any]]:
    found: dict[tuple[int, str], Row[Any]] = {}
    # In one statement, because rows are locked in one order only within it.
    for causes in chunks(sorted({effect.cause for effect in wanted}), _CAUSES_MAX):
        rows = await connection.execute(_LOCKED_OF_CAUSES, {"causes": causes, "step": step})
        for row in rows.all():
            found[row.order_id, row.cause] = row
    return found


@cache
def _versions(changed_for: str) -> Select[Any]:
    anew = (
        (EffectRow.step == bindparam("step"))
        & _IS_OPEN
        & (EffectRow.rule_version.is_(None) | EffectRow.reason.startswith(changed_for, autoescape=True))
    )
    return (
        select(
            EffectRow.order_id,
            EffectRow.cause,
            func.max(EffectRow.rule_version).label("version"),
            func.max(case((anew, 1), else_=0)).label("anew"),
        )
        .where(~among(EffectRow.step, "apart"), among(EffectRow.cause, "causes"))
        .group_by(EffectRow.order_id, EffectRow.cause)
    )


async def versions_begun(
    connection: AsyncConnection, step: str, causes: Iterable[str], *, apart: Sequence[str], changed_for: str
) -> dict[tuple[int, str], int]:
    """Return by order and cause the version of the rules that it goes by, where something was begun for it.

    apart are steps that nothing else goes by. What is not in the answer goes by the newest rules: also where the step
    itself is open and only other rules help it, as its reason says by beginning with changed_for, or where a person
    had it tried again.
    """
    query = _versions(changed_for)
    found: dict[tuple[int, str], int] = {}
    for some in chunks(sorted(set(causes)), _CAUSES_MAX):
        rows = await connection.execute(query, {"step": step, "apart": list(apart), "causes": some})
        found |= {
            (row.order_id, row.cause): row.version for row in rows.all() if row.version is not None and not row.anew
        }
    return found


_LEASED = (
    update(EffectRow)
    .where(EffectRow.id == bindparam("_id"), _IS_OPEN)
    .values(
        state=bindparam("_state"),
        reason=bindparam("_reason"),
        rule_version=bindparam("_rule_version"),
        system=bindparam("_system"),
        doubt_since=bindparam("_doubt_since"),
        lease_owner=bindparam("_owner"),
        lease_until=bindparam("_until"),
        attempts=EffectRow.attempts + 1,
        updated_at=bindparam("_now"),
    )
)


async def claim(
    connection: AsyncConnection,
    step: str,
    wanted: Sequence[Wanted],
    *,
    owner: str,
    lease_until: datetime,
    actor: journal.Actor,
    now: datetime,
    local: bool = False,
    later: list[dict[str, Any]] | None = None,
) -> list[Claim]:
    """Claim the effects of one step for a worker, in one transaction for the whole batch.

    Creates those that don't exist yet, each with an idempotency key that never changes afterwards, and leases those
    that may be acted on. Returns one Claim per wanted effect, in their order. local says that the step acts in this
    database alone, in the transaction that records it: then nothing can have happened unseen.
    """
    keys = {(effect.order_id, effect.cause): _new_key() for effect in wanted}
    # Rows are added in one order everywhere, so that two workers can't wait for each other.
    added = await add_new_returning(
        connection,
        EffectRow,
        [
            {
                "order_id": effect.order_id,
                "step": step,
                "cause": effect.cause,
                "state": EffectState.INTENDED.value,
                "key": keys[effect.order_id, effect.cause],
                "rule_version": effect.rule_version,
                "before": {},
                "after": {},
                "reverses_id": effect.reverses,
                "system": effect.system,
                "attempts": 1,
                "lease_owner": owner,
                "lease_until": lease_until,
                "created_at": now,
                "updated_at": now,
            }
            for effect in sorted(
                {(one.order_id, one.cause): one for one in wanted}.values(),
                key=lambda effect: (effect.order_id, effect.cause),
            )
        ],
        EffectRow.id,
        EffectRow.order_id,
        EffectRow.cause,
    )
    fresh = {(row.order_id, row.cause): row.id for row in added}
    known = [effect for effect in wanted if (effect.order_id, effect.cause) not in fresh]
    rows = await _rows(connection, step, known) if known else {}
    claims: list[Claim] = []
    leased: list[dict[str, Any]] = []
    moves: list[dict[str, Any]] = []
    seen: set[tuple[int, str]] = set()
    for effect in wanted:
        key = (effect.order_id, effect.cause)
        if key in fresh:
            # Whoever names an effect twice in one batch is to act on it once.
            verdict = Verdict.STOP if key in seen else Verdict.ACT
            found = Claim(
                effect_id=fresh[key],
                order_id=effect.order_id,
                cause=effect.cause,
                verdict=verdict,
                state=EffectState.INTENDED,
                key=keys[key],
                attempts=1,
                reference=None,
                reason=None,
                system=effect.system,
            )
            begins = verdict is Verdict.ACT
        else:
            row = rows[key]
            found = _claimed(row, effect, seen=key in seen, local=local, now=now)
            begins = found.state != row.state
            if found.verdict in (Verdict.ACT, Verdict.ASK):
                leased.append(
                    {
                        "_id": row.id,
                        "_state": found.state.value,
                        "_reason": found.reason,
                        "_rule_version": effect.rule_version,
                        "_system": effect.system,
                        "_doubt_since": found.doubt_since,
                        "_owner": owner,
                        "_until": lease_until,
                        "_now": now,
                    }
                )
        seen.add(key)
        claims.append(found)
        if begins:
            moves.append(
                journal.entry(
                    actor,
                    at=now,
                    step=step,
                    move=found.state.value,
                    order_id=found.order_id,
                    effect_id=found.effect_id,
                    cause=found.cause,
                    reason=found.reason,
                    rule_version=effect.rule_version,
                )
            )
    if leased:
        await connection.execute(_LEASED, leased)
    if later is None:
        await journal.append(connection, moves)
    else:
        later.extend(moves)
    return claims


def _claimed(row: Row[Any], effect: Wanted, *, seen: bool, local: bool, now: datetime) -> Claim:
    """Say what a worker may do with an effect that was there before."""
    verdict = Verdict.STOP if seen else _verdict(row, now=now)
    state = EffectState(row.state)
    reason = row.reason
    if verdict is Verdict.ASK and local:
        verdict = Verdict.ACT
    if verdict is Verdict.ASK and state is EffectState.INTENDED:
        state, reason = EffectState.IN_DOUBT, "the worker that had begun it is gone"
    return Claim(
        effect_id=row.id,
        order_id=row.order_id,
        cause=row.cause,
        verdict=verdict,
        state=state,
        key=row.key,
        attempts=row.attempts + (verdict in (Verdict.ACT, Verdict.ASK)),
        reference=row.reference,
        reason=reason,
        system=effect.system,
        doubt_since=_since(row, state, now),
        same_rules=row.state == EffectState.INTENDED and row.rule_version == effect.rule_version,
    )


_RENEWED = (
    update(EffectRow)
    .where(among(EffectRow.id, "_ids"), EffectRow.lease_owner == bindparam("_owner"), EffectRow.state.in_(OPEN))
    .values(lease_until=bindparam("_until"))
)


async def renew(connection: AsyncConnection, owner: str, effect_ids: Iterable[int], until: datetime) -> None:
    """Put off the end of a worker's leases while it is still at work."""
    for ids in chunks(list(effect_ids)):
        await connection.execute(_RENEWED, {"_ids": ids, "_owner": owner, "_until": until})


_OF_IDS = select(*EffectRow.__table__.columns).where(among(EffectRow.id, "ids")).order_by(EffectRow.id)
_LOCKED = _OF_IDS.with_for_update()
_LOCKED_IF_FREE = _OF_IDS.with_for_update(skip_locked=True)


async def lock(connection: AsyncConnection, effect_ids: Sequence[int], *, wait: bool = True) -> dict[int, Row[Any]]:
    """Lock effects for recording, and return them by id as they stand now.

    Who has locked their orders does not wait, for the order of locks (see store/database.py): one that is being claimed
    or recorded is then left out.
    """
    found: dict[int, Row[Any]] = {}
    for ids in chunks(sorted(effect_ids)):
        rows = await connection.execute(_LOCKED if wait else _LOCKED_IF_FREE, {"ids": ids})
        found.update({row.id: row for row in rows.all()})
    return found


def _since(row: Row[Any], state: EffectState, now: datetime) -> datetime | None:
    """Return since when an effect is in doubt that is in a state from now on; it stays in its row when that ends."""
    if state is not EffectState.IN_DOUBT:
        return row.doubt_since
    return row.doubt_since if row.state == EffectState.IN_DOUBT else now


def _is_forward(now: str, to: EffectState) -> bool:
    return now == EffectState.INTENDED or (now == EffectState.IN_DOUBT and to is not EffectState.INTENDED)


_ENDED = (
    update(EffectRow)
    .where(EffectRow.id == bindparam("_id"), _IS_OPEN)
    .values(
        state=bindparam("_state"),
        reference=bindparam("_reference"),
        reason=bindparam("_reason"),
        before=bindparam("_before"),
        after=bindparam("_after"),
        due_at=bindparam("_due_at"),
        doubt_since=bindparam("_doubt_since"),
        attempts=EffectRow.attempts - bindparam("_not_begun"),
        lease_owner=None,
        lease_until=None,
        updated_at=bindparam("_now"),
    )
)


async def end(
    connection: AsyncConnection,
    step: str,
    endings: Sequence[Ending],
    rows: dict[int, Row[Any]],
    *,
    actor: journal.Actor,
    now: datetime,
    earlier: Sequence[dict[str, Any]] = (),
) -> None:
    """Record how attempts ended and give their leases back; rows are those that `lock` returned.

    earlier is what `claim` left for the journal.

    Raises ValueError, and records nothing, when one of them would go back to a state that it has left.
    """
    if not endings:
        await journal.append(connection, list(earlier))
        return
    for ending in endings:
        if not _is_forward(rows[ending.effect_id].state, ending.state):
            raise ValueError(
                f"effect {ending.effect_id} is {rows[ending.effect_id].state} and can't become {ending.state}"
            )
    await connection.execute(
        _ENDED,
        [
            {
                "_id": ending.effect_id,
                "_state": ending.state.value,
                "_reference": ending.reference,
                "_reason": ending.reason,
                "_before": ending.before,
                "_after": ending.after,
                "_due_at": ending.due_at,
                "_doubt_since": _since(rows[ending.effect_id], ending.state, now),
                "_not_begun": 0 if ending.begun else 1,
                "_now": now,
            }
            for ending in endings
        ],
    )
    await journal.append(
        connection,
        [
            *earlier,
            *(
                journal.entry(
                    actor,
                    at=now,
                    step=step,
                    move="to retry" if ending.state is EffectState.INTENDED else ending.state.value,
                    order_id=rows[ending.effect_id].order_id,
                    effect_id=ending.effect_id,
                    cause=rows[ending.effect_id].cause,
                    reference=ending.reference,
                    reason=ending.reason,
                    before=ending.before,
                    after=ending.after,
                    rule_version=rows[ending.effect_id].rule_version,
                )
                for ending in endings
            ),
        ],
    )


_SETTLED = (
    update(EffectRow)
    .where(EffectRow.id == bindparam("_id"))
    .values(
        state=bindparam("_state"),
        key=bindparam("_key"),
        rule_version=bindparam("_rule_version"),
        reference=bindparam("_reference"),
        reason=bindparam("_reason"),
        before=bindparam("_before"),
        after=bindparam("_after"),
        due_at=None,
        lease_owner=None,
        lease_until=None,
        updated_at=bindparam("_now"),
    )
)


async def settle(
    connection: AsyncConnection,
    row: Row[Any],
    state: EffectState,
    *,
    actor: journal.Actor,
    because: str,
    reference: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    now: datetime,
) -> None:
    """Record what a person says of an effect that `lock` returned: done, skipped, or intended, to be tried again.

    One that an outside system refused gets a new idempotency key for that: to the old one it may answer the same for
    ever. One that was in doubt keeps its key, so that a system which did carry it out recognises it. Raises ValueError
    for a state that a person can't give, or an effect that has ended well.
    """
    again = state is EffectState.INTENDED
    if row.state in (EffectState.DONE, EffectState.SKIPPED) or state in (EffectState.IN_DOUBT, EffectState.REJECTED):
        raise ValueError(f"effect {row.id} is {row.state} and can't be made {state} by hand")
    refused = row.state == EffectState.REJECTED
    await connection.execute(
        _SETTLED,
        {
            "_id": row.id,
            "_state": state.value,
            "_key": _new_key() if again and refused else row.key,
            # Whoever has it tried again may have changed the rules for that: it goes by the newest.
            "_rule_version": None if again else row.rule_version,
            "_reference": reference or row.reference,
            "_reason": because,
            "_before": before or {},
            "_after": after or {},
            "_now": now,
        },
    )
    await journal.append(
        connection,
        [
            journal.entry(
                actor,
                at=now,
                step=row.step,
                move="to retry" if again else state.value,
                order_id=row.order_id,
                effect_id=row.id,
                cause=row.cause,
                reference=reference or row.reference,
                reason=because,
                before=before,
                after=after,
                rule_version=row.rule_version,
            )
        ],
    )


_GOING = (
    select(EffectRow.order_id, EffectRow.step)
    .where(
        among(EffectRow.order_id, "orders"),
        _MAY_BE_HAPPENING,
        among(EffectRow.step, "steps"),
        EffectRow.reverses_id.is_(None),
    )
    .order_by(EffectRow.id)
)


async def going(connection: AsyncConnection, order_ids: Sequence[int], steps: Sequence[str]) -> dict[int, str]:
    """Return, for each order that has one, which of the steps may be happening to it right now, or may have happened.

    Those that take others back are not counted.
    """
    found: dict[int, str] = {}
    for ids in chunks(list(order_ids)):
        rows = await connection.execute(_GOING, {"orders": ids, "steps": list(steps)})
        for row in rows.all():
            found.setdefault(row.order_id, row.step)
    return found


_HAPPENING = select(EffectRow.id, EffectRow.order_id, EffectRow.cause, EffectRow.state).where(
    among(EffectRow.order_id, "orders"), EffectRow.step == bindparam("step"), _MAY_BE_HAPPENING
)


async def behind(connection: AsyncConnection, step: str, claims: Sequence[Claim]) -> dict[int, str]:
    """Return, for those of a step's claimed effects that have to wait, the cause that they wait for.

    One waits while the same step of its order may be happening, or may have happened, for another cause. Of two that
    were claimed together or that are both in doubt, the later one waits. Lock the orders first.
    """
    mine = {claim.effect_id: claim for claim in claims if claim.verdict in (Verdict.ACT, Verdict.ASK)}
    found: dict[int, str] = {}
    others: dict[int, list[Row[Any]]] = {}
    for ids in chunks(sorted({claim.order_id for claim in mine.values()})):
        rows = await connection.execute(_HAPPENING, {"orders": ids, "step": step})
        for row in rows.all():
            others.setdefault(row.order_id, []).append(row)
    for claim in mine.values():
        for row in others.get(claim.order_id, []):
            equals = row.id in mine or row.state == claim.state == EffectState.IN_DOUBT
            if row.id < claim.effect_id or not equals:
                found[claim.effect_id] = row.cause
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How one effect stands, for whoever watches a run."""

    order_id: int
    number: str
    step: str
    cause: str
    state: EffectState
    reference: str | None
    reason: str | None
    due_at: datetime | None
    lease_until: datetime | None
    attempts: int
    created_at: datetime
    key: str
    system: str | None
    doubt_since: datetime | None

    @property
    def doubt(self) -> str | None:
        """What was asked, and since when nobody knows what came of it, in words; None for what is not in doubt."""
        if self.state is not EffectState.IN_DOUBT:
            return None
        return doubt_said(key=self.key, system=self.system, since=self.doubt_since)


def doubt_said(*, key: str, system: str | None, since: datetime | None) -> str:
    """Say of an effect that is in doubt what was asked of whom, and since when nobody knows what came of it."""
    asked = f"{system} was asked with key {key}" if system else f"begun with key {key}"
    return f"{asked}, unknown since {since:%Y-%m-%d %H:%M} UTC" if since else asked


_OF_CAUSES = (
    select(
        EffectRow.order_id,
        OrderRow.number,
        EffectRow.step,
        EffectRow.cause,
        EffectRow.state,
        EffectRow.reference,
        EffectRow.reason,
        EffectRow.due_at,
        EffectRow.lease_until,
        EffectRow.attempts,
        EffectRow.created_at,
        EffectRow.key,
        EffectRow.system,
        EffectRow.doubt_since,
    )
    .join(OrderRow, OrderRow.id == EffectRow.order_id)
    .where(among(EffectRow.cause, "causes"))
    .order_by(EffectRow.id)
)


async def of_causes(connection: AsyncConnection, causes: Sequence[str]) -> list[Standing]:
    """Return every effect of some causes, in the order in which they were begun."""
    found: list[Standing] = []
    for some in chunks(list(causes)):
        rows = await connection.execute(_OF_CAUSES, {"causes": some})
        for row in rows.mappings().all():
            values: dict[str, Any] = {**row, "state": EffectState(row["state"])}
            found.append(Standing(**values))
    return found


@cache
def _caused_by(subject: str) -> Select[Any]:
    return select(EffectRow.cause, EffectRow.state).where(
        EffectRow.cause.startswith(f"{subject}:", autoescape=True), among(EffectRow.order_id, "orders")
    )


async def rounds(connection: AsyncConnection, subject: str, order_ids: Sequence[int]) -> dict[int, tuple[int, bool]]:
    """Return by subject the last round in which it caused something, and whether all of that has ended."""
    found: dict[int, tuple[int, bool]] = {}
    query = _caused_by(subject)
    for some in chunks(sorted(set(order_ids))):
        for cause, state in (await connection.execute(query, {"orders": some})).all():
            (_, id_), round_ = subject_of(cause), round_of(cause)
            last, ended = found.get(id_, (0, True))
            if round_ >= last:
                found[id_] = round_, (ended or round_ > last) and state not in OPEN
    return found


_BEGAN = select(EffectRow.created_at).where(EffectRow.order_id == bindparam("order"), EffectRow.key == bindparam("key"))


async def began(connection: AsyncConnection, order_id: int, key: str) -> datetime | None:
    """Return when an order's effect with an idempotency key was first claimed: it was not acted on before."""
    return await connection.scalar(_BEGAN, {"order": order_id, "key": key})


_MINE = select(EffectRow.id).where(
    EffectRow.order_id == bindparam("order"),
    EffectRow.step == bindparam("step"),
    EffectRow.cause == bindparam("cause"),
)


async def prepare(connection: AsyncConnection, order_id: int, step: str, cause: str, *, now: datetime) -> int:
    """Return the effect of an order's step for a cause; one that nobody has begun is put there, for no worker."""
    row: dict[str, Any] = {
        "order_id": order_id,
        "step": step,
        "cause": cause,
        "state": EffectState.INTENDED.value,
        "key": _new_key(),
        "before": {},
        "after": {},
        "attempts": 0,
        "created_at": now,
        "updated_at": now,
    }
    added = await add_new_returning(connection, EffectRow, [row], EffectRow.id)
    if added:
        return int(added[0].id)
    mine = {"order": order_id, "step": step, "cause": cause}
    return int((await connection.execute(_MINE, mine)).scalar_one())


_CAUSE = select(EffectRow.cause).where(EffectRow.order_id == bindparam("order"), EffectRow.key == bindparam("key"))


async def is_repeat(connection: AsyncConnection, order_id: int, key: str) -> bool:
    """Say whether a person had an order's step with an idempotency key repeated."""
    cause = await connection.scalar(_CAUSE, {"order": order_id, "key": key})
    return cause is not None and subject_of(cause)[0] == "hand"


async def done_after(connection: AsyncConnection, order_id: int, step: str) -> list[dict[str, Any]]:
    """Return what was there after each time that a step was done for an order."""
    return (await done_after_all(connection, [order_id], step))[order_id]


_DONE_AFTER = select(EffectRow.order_id, EffectRow.after).where(
    among(EffectRow.order_id, "orders"),
    EffectRow.step == bindparam("step"),
    EffectRow.state == EffectState.DONE.value,
)


async def done_after_all(
    connection: AsyncConnection, order_ids: Sequence[int], step: str
) -> dict[int, list[dict[str, Any]]]:
    """Return what was there after each time that a step was done, for each of some orders."""
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in order_ids}
    for ids in chunks(sorted(found)):
        rows = await connection.execute(_DONE_AFTER, {"orders": ids, "step": step})
        for row in rows.all():
            found[row.order_id].append(row.after or {})
    return found


_TO_SETTLE = (
    select(*EffectRow.__table__.columns)
    .where(
        EffectRow.order_id == bindparam("order"),
        EffectRow.step == bindparam("step"),
        EffectRow.state.not_in([EffectState.DONE.value, EffectState.SKIPPED.value]),
    )
    .order_by(EffectRow.id)
)
_TO_SETTLE_OF_CAUSE = _TO_SETTLE.where(EffectRow.cause == bindparam("cause"))


async def to_settle(
    connection: AsyncConnection, order_id: int, step: str, *, cause: str | None = None
) -> list[Row[Any]]:
    """Return the effects of an order's step that have not ended well, the oldest first."""
    of = {"order": order_id, "step": step}
    if cause is None:
        return list((await connection.execute(_TO_SETTLE, of)).all())
    return list((await connection.execute(_TO_SETTLE_OF_CAUSE, {**of, "cause": cause})).all())


_OF_ORDER = (
    select(
        EffectRow.id,
        EffectRow.step,
        EffectRow.cause,
        EffectRow.state,
        EffectRow.reference,
        EffectRow.reason,
        EffectRow.attempts,
        EffectRow.due_at,
        EffectRow.rule_version,
        EffectRow.updated_at,
        EffectRow.key,
        EffectRow.system,
        EffectRow.doubt_since,
    )
    .where(EffectRow.order_id == bindparam("order"))
    .order_by(EffectRow.id)
)


async def of_order(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return an order's effects in the order in which they were begun."""
    rows = await connection.execute(_OF_ORDER, {"order": order_id})
    return [dict(row) for row in rows.mappings().all()]
