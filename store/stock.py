"""Stock: how much there is, how much is promised, and every move of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.orders import Order, OrderLine
from store.sql import add_new, among, chunks
from store.tables import StockItem, StockMove


class StockError(Exception):
    """Goods that aren't there; its text says which and how many."""


@dataclass(frozen=True, slots=True)
class Level:
    """An article's stock: on_hand is in the warehouse, reserved of those are promised."""

    sku: str
    title: str
    on_hand: int
    reserved: int


_LEVELS = select(StockItem.sku, StockItem.title, StockItem.on_hand, StockItem.reserved).order_by(StockItem.sku)
_LOCKED = _LEVELS.where(among(StockItem.sku, "skus")).with_for_update()


async def _lock(connection: AsyncConnection, skus: Sequence[str]) -> dict[str, Level]:
    rows = await connection.execute(_LOCKED, {"skus": skus})
    return {row.sku: Level(row.sku, row.title, row.on_hand, row.reserved) for row in rows.all()}


async def _live(connection: AsyncConnection, order_id: int) -> dict[tuple[int, str], Any]:
    return (await _live_of(connection, [order_id]))[order_id]


_LIVE = (
    select(
        StockMove.id,
        StockMove.order_id,
        StockMove.order_line_id,
        StockMove.kind,
        StockMove.quantity,
        StockMove.effect_id,
    )
    .where(among(StockMove.order_id, "orders"), StockMove.live.is_(True))
    .order_by(StockMove.id)
)


async def _live_of(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, dict[tuple[int, str], Any]]:
    found: dict[int, dict[tuple[int, str], Any]] = {id_: {} for id_ in order_ids}
    for ids in chunks(sorted(found)):
        rows = await connection.execute(_LIVE, {"orders": ids})
        for row in rows.all():
            if row.order_line_id is not None and row.order_id is not None:
                found[row.order_id][row.order_line_id, row.kind] = row
    return found


_NEW_MOVE = insert(StockMove)


async def _move(
    connection: AsyncConnection,
    kind: str,
    sku: str,
    quantity: int,
    *,
    order_id: int,
    line_id: int,
    effect_id: int,
    now: datetime,
    live: bool,
) -> None:
    await connection.execute(
        _NEW_MOVE,
        {
            "sku": sku,
            "kind": kind,
            "quantity": quantity,
            "order_id": order_id,
            "order_line_id": line_id,
            "effect_id": effect_id,
            "live": live,
            "at": now,
        },
    )


_CHANGED = (
    update(StockItem)
    .where(StockItem.sku == bindparam("article"))
    .values(
        on_hand=StockItem.on_hand + bindparam("more_on_hand"),
        reserved=StockItem.reserved + bindparam("more_reserved"),
    )
)


async def _change(connection: AsyncConnection, sku: str, *, on_hand: int = 0, reserved: int = 0) -> None:
    await connection.execute(_CHANGED, {"article": sku, "more_on_hand": on_hand, "more_reserved": reserved})


_ENDED = update(StockMove).where(among(StockMove.id, "moves")).values(live=False)


async def _end(connection: AsyncConnection, move_id: int) -> None:
    await connection.execute(_ENDED, {"moves": [move_id]})


def _refuse_missing(lines: Sequence[OrderLine], free: dict[str, int], live: dict[tuple[int, str], Any]) -> None:
    """Raise StockError unless all lines can be served; what a line has reserved counts as free for it."""
    left = dict(free)
    for line in lines:
        sku = line.sku or ""
        if sku not in left:
            raise StockError(f"article {sku} is not in stock's list; add it with `kvit stock import`")
        held = live.get((line.id, "reserve"))
        left[sku] += held.quantity if held else 0
        if left[sku] < line.quantity:
            raise StockError(f"article {sku}: {line.quantity} needed, {max(left[sku], 0)} free")
        left[sku] -= line.quantity


@dataclass(slots=True)
class _Changes:
    """What is to be written for some orders, all at once: per article, and per move."""

    on_hand: Counter[str] = field(default_factory=Counter[str])
    reserved: Counter[str] = field(default_factory=Counter[str])
    ended: list[int] = field(default_factory=list[int])
    moves: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def take(self, kind: str, line: OrderLine, held: Any, *, order_id: int, effect_id: int, now: datetime) -> None:
        """Reserve or deduct a line; held is the move by which it is reserved, if it is."""
        sku = line.sku or ""
        move: dict[str, Any] = {
            "sku": sku,
            "order_id": order_id,
            "order_line_id": line.id,
            "effect_id": effect_id,
            "at": now,
        }
        if kind == "reserve":
            self.reserved[sku] += line.quantity
        else:
            if held:
                self.ended.append(held.id)
                self.reserved[sku] -= held.quantity
                self.moves.append(move | {"kind": "release", "quantity": held.quantity, "live": False})
            self.on_hand[sku] -= line.quantity
        self.moves.append(move | {"kind": kind, "quantity": line.quantity, "live": True})

    async def write(self, connection: AsyncConnection) -> None:
        """Write it."""
        for ids in chunks(self.ended):
            await connection.execute(_ENDED, {"moves": ids})
        changed = sorted({*self.on_hand, *self.reserved})
        if changed:
            await connection.execute(
                _CHANGED,
                [
                    {"article": sku, "more_on_hand": self.on_hand[sku], "more_reserved": self.reserved[sku]}
                    for sku in changed
                ],
            )
        if self.moves:
            await connection.execute(_NEW_MOVE, self.moves)


async def take_all(
    connection: AsyncConnection, kind: str, wanted: Sequence[tuple[Order, int]], *, now: datetime
) -> list[dict[str, int] | StockError]:
    """Reserve (“reserve”) or deduct (“deduct”) the goods of orders, each by its effect, with few statements for all.

    Returns in their order what was newly taken of each article, or why nothing was taken for that order: each line that
    isn't taken yet is, or none of them when anything is missing. What one takes is not there for the next.
    """
    levels = await _lock(connection, sorted({line.sku for order, _ in wanted for line in order.lines if line.sku}))
    live_of = await _live_of(connection, [order.id for order, _ in wanted])
    free = {sku: level.on_hand - level.reserved for sku, level in levels.items()}
    changes = _Changes()
    results: list[dict[str, int] | StockError] = []
    taken_now: set[int] = set()
    for order, effect_id in wanted:
        live = live_of[order.id]
        done = {line_id for line_id, of_kind in live if of_kind in (kind, "deduct")} | taken_now
        lines = [line for line in order.lines if line.sku and line.id not in done]
        try:
            _refuse_missing(lines, free, live)
        except StockError as error:
            results.append(error)
            continue
        taken: dict[str, int] = {}
        for line in lines:
            sku = line.sku or ""
            held = live.get((line.id, "reserve"))
            taken[sku] = taken.get(sku, 0) + line.quantity
            free[sku] += (held.quantity if held else 0) - line.quantity
            taken_now.add(line.id)
            changes.take(kind, line, held, order_id=order.id, effect_id=effect_id, now=now)
        results.append(taken)
    await changes.write(connection)
    return results


async def _take(
    connection: AsyncConnection, order: Order, kind: str, *, effect_id: int, now: datetime
) -> dict[str, int]:
    (taken,) = await take_all(connection, kind, [(order, effect_id)], now=now)
    if isinstance(taken, StockError):
        raise taken
    return taken


async def reserve(connection: AsyncConnection, order: Order, *, effect_id: int, now: datetime) -> dict[str, int]:
    """Promise an order's goods to it; return what was newly reserved. Raises StockError, and then nothing is."""
    return await _take(connection, order, "reserve", effect_id=effect_id, now=now)


async def deduct(connection: AsyncConnection, order: Order, *, effect_id: int, now: datetime) -> dict[str, int]:
    """Take an order's goods out of stock, once per line; return what was taken. Raises StockError."""
    return await _take(connection, order, "deduct", effect_id=effect_id, now=now)


async def give_back(connection: AsyncConnection, order: Order, *, effect_id: int, now: datetime) -> dict[str, int]:
    """Put back what an order deducted and free what it reserved, exactly; return all that the order had of both."""
    await _lock(connection, sorted({line.sku for line in order.lines if line.sku}))
    live = await _live(connection, order.id)
    sku_of = {line.id: line.sku or "" for line in order.lines}
    returned: dict[str, int] = {}
    for (line_id, kind), move in live.items():
        sku = sku_of[line_id]
        where: dict[str, Any] = {"order_id": order.id, "line_id": line_id, "effect_id": effect_id, "now": now}
        await _end(connection, move.id)
        if kind == "deduct":
            await _change(connection, sku, on_hand=move.quantity)
            await _move(connection, "restock", sku, move.quantity, live=False, **where)
        elif kind == "reserve":
            await _change(connection, sku, reserved=-move.quantity)
            await _move(connection, "release", sku, move.quantity, live=False, **where)
        returned[sku] = returned.get(sku, 0) + move.quantity
    return returned


async def free(connection: AsyncConnection, order: Order, *, now: datetime) -> dict[str, int]:
    """Free what an order that won't be carried out has reserved, and return it; what was deducted stays so."""
    await _lock(connection, sorted({line.sku for line in order.lines if line.sku}))
    sku_of = {line.id: line.sku or "" for line in order.lines}
    freed: dict[str, int] = {}
    for (line_id, kind), move in (await _live(connection, order.id)).items():
        if kind != "reserve":
            continue
        sku = sku_of[line_id]
        where: dict[str, Any] = {"order_id": order.id, "line_id": line_id, "effect_id": move.effect_id, "now": now}
        await _end(connection, move.id)
        await _change(connection, sku, reserved=-move.quantity)
        await _move(connection, "release", sku, move.quantity, live=False, **where)
        freed[sku] = freed.get(sku, 0) + move.quantity
    return freed


async def reserve_anew(connection: AsyncConnection, before: Order, after: Order, *, now: datetime) -> None:
    """Reserve for an order that was changed what it needs now, where its goods were reserved before.

    Raises StockError when there is not enough, or when its goods have left stock already.
    """
    live = await _live(connection, before.id)
    if any(kind == "deduct" for _, kind in live):
        raise StockError("its goods were taken out of stock already")
    for move in live.values():
        await give_back(connection, before, effect_id=move.effect_id, now=now)
        await reserve(connection, after, effect_id=move.effect_id, now=now)
        return


_COUNTED = (
    update(StockItem)
    .where(StockItem.sku == bindparam("article"))
    .values(on_hand=bindparam("found"), title=bindparam("name"))
)


async def count(connection: AsyncConnection, sku: str, title: str, on_hand: int, *, now: datetime) -> None:
    """Set how much of an article there is, as counted."""
    await add_new(connection, StockItem, [{"sku": sku, "title": title, "on_hand": 0, "reserved": 0}])
    known = (await _lock(connection, [sku]))[sku]
    await connection.execute(_COUNTED, {"article": sku, "found": on_hand, "name": title or known.title})
    difference = on_hand - known.on_hand
    await connection.execute(_NEW_MOVE, {"sku": sku, "kind": "count", "quantity": difference, "live": False, "at": now})


async def levels(connection: AsyncConnection) -> list[Level]:
    """Return all stock, by article."""
    rows = await connection.execute(_LEVELS)
    return [Level(row.sku, row.title, row.on_hand, row.reserved) for row in rows.all()]


async def is_deducted(connection: AsyncConnection, order: Order) -> bool:
    """Say whether every line of an order that moves stock was deducted."""
    live = await _live(connection, order.id)
    return all((line.id, "deduct") in live for line in order.lines if line.sku)


_MOVES = (
    select(StockMove.at, StockMove.kind, StockMove.sku, StockMove.quantity)
    .where(StockMove.order_id == bindparam("order"))
    .order_by(StockMove.id)
)


async def moves(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return an order's moves of stock, oldest first."""
    rows = await connection.execute(_MOVES, {"order": order_id})
    return [dict(row) for row in rows.mappings().all()]
