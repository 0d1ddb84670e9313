"""Stock: taken once per line of an order, given back exactly, never below nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import NOW, column, line, load, place

from domain.orders import Order
from store import stock
from store.database import Store
from store.stock import StockError
from store.tables import EffectRow

_run = itertools.count(1)


async def count(store: Store, **on_hand: int) -> None:
    async with store.write() as connection:
        for sku, quantity in on_hand.items():
            await stock.count(connection, sku, f"Title of {sku}", quantity, now=NOW)


async def an_order(store: Store, *lines: tuple[str | None, int]) -> Order:
    return await load(store, await place(store, lines=tuple(line(sku, quantity) for sku, quantity in lines)))


async def _effect(connection: AsyncConnection, order: Order) -> int:
    row = {"order_id": order.id, "step": "stock", "cause": f"run:{next(_run)}", "state": "done", "key": "key"}
    row |= {"before": {}, "after": {}, "attempts": 1, "created_at": NOW, "updated_at": NOW}
    found = await connection.scalar(insert(EffectRow).values(row).returning(EffectRow.id))
    assert found is not None
    return found


Act = Callable[..., Awaitable[dict[str, int]]]


async def act(store: Store, action: Act, order: Order) -> dict[str, int]:
    """Reserve, deduct or give back for an order, in a transaction of its own."""
    async with store.write() as connection:
        return await action(connection, order, effect_id=await _effect(connection, order), now=NOW)


async def levels(store: Store) -> dict[str, tuple[int, int]]:
    async with store.read() as connection:
        return {level.sku: (level.on_hand, level.reserved) for level in await stock.levels(connection)}


async def kinds(store: Store, order: Order) -> list[str]:
    async with store.read() as connection:
        return [move["kind"] for move in await stock.moves(connection, order.id)]


async def test_reserved_goods_are_promised_and_stay_in_the_warehouse(store: Store) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2))

    assert await act(store, stock.reserve, order) == {"MUG": 2}
    assert await levels(store) == {"MUG": (5, 2)}


async def test_deducted_goods_leave_and_what_was_promised_of_them_is_free(store: Store) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2))
    await act(store, stock.reserve, order)

    assert await act(store, stock.deduct, order) == {"MUG": 2}
    assert await levels(store) == {"MUG": (3, 0)}
    assert await kinds(store, order) == ["reserve", "release", "deduct"]
    async with store.read() as connection:
        assert await stock.is_deducted(connection, order)


@pytest.mark.parametrize("action", [stock.reserve, stock.deduct])
async def test_what_was_done_for_a_line_is_not_done_again(store: Store, action: Act) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2))
    await act(store, action, order)
    before = await levels(store)

    assert await act(store, action, order) == {}
    assert await levels(store) == before


async def test_deducted_goods_are_not_reserved_afterwards(store: Store) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2))
    await act(store, stock.deduct, order)

    assert await act(store, stock.reserve, order) == {}
    assert await levels(store) == {"MUG": (3, 0)}


async def test_two_lines_of_one_article_are_two_deductions(store: Store) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2), ("MUG", 1), (None, 9))

    assert await act(store, stock.deduct, order) == {"MUG": 3}
    assert await levels(store) == {"MUG": (2, 0)}


async def test_what_an_order_has_reserved_is_free_for_it_alone(store: Store) -> None:
    await count(store, MUG=2)
    first, second = await an_order(store, ("MUG", 2)), await an_order(store, ("MUG", 1))
    await act(store, stock.reserve, first)

    with pytest.raises(StockError, match="article MUG: 1 needed, 0 free"):
        await act(store, stock.deduct, second)
    assert await act(store, stock.deduct, first) == {"MUG": 2}


@pytest.mark.parametrize("action", [stock.reserve, stock.deduct])
@pytest.mark.parametrize("missing", ["CUP", "NOT-LISTED"])
async def test_an_order_gets_all_its_goods_or_none(store: Store, action: Act, missing: str) -> None:
    await count(store, MUG=5, CUP=1)
    order = await an_order(store, ("MUG", 2), (missing, 3))

    async with store.write() as connection:
        effect = await _effect(connection, order)
        with pytest.raises(StockError, match=missing):
            await action(connection, order, effect_id=effect, now=NOW)

    assert await levels(store) == {"CUP": (1, 0), "MUG": (5, 0)}
    assert await kinds(store, order) == []


async def test_giving_back_restores_exactly_what_was_taken(store: Store) -> None:
    await count(store, MUG=5, CUP=5)
    order = await an_order(store, ("MUG", 2), ("CUP", 1), (None, 1))
    await act(store, stock.deduct, order)

    assert await act(store, stock.give_back, order) == {"MUG": 2, "CUP": 1}
    assert await act(store, stock.give_back, order) == {}
    assert await levels(store) == {"CUP": (5, 0), "MUG": (5, 0)}


async def test_giving_back_frees_what_was_reserved_and_says_so(store: Store) -> None:
    await count(store, MUG=5)
    order = await an_order(store, ("MUG", 2))
    await act(store, stock.reserve, order)

    assert await act(store, stock.give_back, order) == {"MUG": 2}
    assert await act(store, stock.give_back, order) == {}
    assert await levels(store) == {"MUG": (5, 0)}


async def test_goods_given_back_can_be_taken_again(store: Store) -> None:
    await count(store, MUG=2)
    order = await an_order(store, ("MUG", 2))
    for _ in range(2):
        await act(store, stock.reserve, order)
        await act(store, stock.deduct, order)
        await act(store, stock.give_back, order)

    assert await levels(store) == {"MUG": (2, 0)}
    assert await kinds(store, order) == ["reserve", "release", "deduct", "restock"] * 2


async def test_a_count_sets_what_there_is_and_keeps_what_is_promised(store: Store) -> None:
    await count(store, MUG=5)
    await act(store, stock.reserve, await an_order(store, ("MUG", 2)))

    await count(store, MUG=8)

    assert await levels(store) == {"MUG": (8, 2)}
    assert await column(store, "SELECT quantity FROM stock_moves WHERE kind = 'count' ORDER BY id") == [5, 3]


async def test_an_article_is_counted_for_the_first_time_by_two_at_once(store: Store, other: Store) -> None:
    for number in range(10):
        await asyncio.gather(*(count(through, **{f"SKU{number}": 4}) for through in (store, other, store)))

    assert set((await levels(store)).values()) == {(4, 0)}
    assert Counter(await column(store, "SELECT quantity FROM stock_moves")) == {4: 10, 0: 20}


async def test_of_two_orders_that_race_for_the_last_piece_one_gets_it(store: Store, other: Store) -> None:
    for number in range(10):
        sku = f"LAST{number}"
        await count(store, **{sku: 1})
        racing = [await an_order(store, (sku, 1)) for _ in range(2)]

        ended = await asyncio.gather(
            act(store, stock.deduct, racing[0]), act(other, stock.deduct, racing[1]), return_exceptions=True
        )

        assert Counter(str(end) for end in ended) == {
            str({sku: 1}): 1,
            f"article {sku}: 1 needed, 0 free": 1,
        }
        assert (await levels(store))[sku] == (0, 0)


async def test_two_workers_that_deduct_for_one_order_at_once_deduct_once(store: Store, other: Store) -> None:
    await count(store, MUG=100)
    for _ in range(10):
        order = await an_order(store, ("MUG", 2))
        ended = await asyncio.gather(*(act(through, stock.deduct, order) for through in (store, other, store)))
        assert sorted(ended, key=len) == [{}, {}, {"MUG": 2}]

    assert await levels(store) == {"MUG": (80, 0)}


async def test_orders_that_name_articles_in_different_order_do_not_wait_for_each_other_for_ever(
    store: Store, other: Store
) -> None:
    await count(store, CUP=100, MUG=100)
    forth = [await an_order(store, ("CUP", 1), ("MUG", 1)) for _ in range(15)]
    back = [await an_order(store, ("MUG", 1), ("CUP", 1)) for _ in range(15)]

    async with asyncio.timeout(20):
        await asyncio.gather(
            *(act(store, stock.deduct, order) for order in forth), *(act(other, stock.deduct, order) for order in back)
        )

    assert await levels(store) == {"CUP": (70, 0), "MUG": (70, 0)}


_LINES = st.lists(st.tuples(st.sampled_from(["MUG", "CUP", None]), st.integers(1, 3)), min_size=1, max_size=3)
_ACTS = st.lists(
    st.tuples(st.sampled_from([stock.reserve, stock.deduct, stock.give_back]), st.integers(0, 2)), max_size=10
)


_SUMS = """
SELECT sku, on_hand, reserved,
       (SELECT coalesce(sum(quantity), 0) FROM stock_moves m WHERE m.sku = i.sku AND live = true AND kind = 'deduct'),
       (SELECT coalesce(sum(quantity), 0) FROM stock_moves m WHERE m.sku = i.sku AND live = true AND kind = 'reserve')
FROM stock_items i
"""


@given(lines=st.tuples(_LINES, _LINES, _LINES), acts=_ACTS)
async def test_whatever_is_called_in_whatever_order_the_sums_agree(
    store: Store, lines: Sequence[list[tuple[str | None, int]]], acts: list[tuple[Act, int]]
) -> None:
    mark = next(_run)  # examples share a database, so each has articles of its own
    start = {f"MUG-{mark}": 6, f"CUP-{mark}": 4}
    await count(store, **start)
    orders = [
        await an_order(store, *((f"{sku}-{mark}" if sku else None, quantity) for sku, quantity in some))
        for some in lines
    ]
    deducted: set[int] = set()
    held: set[int] = set()
    for action, which in acts:
        try:
            changed = await act(store, action, orders[which])
        except StockError:
            changed = {}
        if action is stock.deduct and changed:
            assert which not in deducted
            deducted.add(which)
        if action is stock.give_back:
            assert bool(changed) == (which in held)
            deducted.discard(which)
            held.discard(which)
        elif changed:
            held.add(which)
        async with store.read() as connection:
            sums = (await connection.execute(text(_SUMS))).all()
        for sku, on_hand, reserved, of_deducted, of_reserved in sums:
            if sku in start:
                assert (on_hand, reserved) == (start[sku] - of_deducted, of_reserved)
                assert min(on_hand, reserved) >= 0

    for order in orders:
        await act(store, stock.give_back, order)
    assert {sku: level for sku, level in (await levels(store)).items() if sku in start} == {
        sku: (on_hand, 0) for sku, on_hand in start.items()
    }
