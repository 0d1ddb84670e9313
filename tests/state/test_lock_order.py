"""The order of locks: on PostgreSQL no worker and no operator wait for each other, so neither has to be cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rules_builders import document
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import MINUTE, NOW, WORKER, place, receive

from connectors.roles import NoWebhooks
from connectors.templates import Templates
from domain.by_hand import ByHandError
from domain.order_document import OrderDocument, OrderError, parse_order
from store import bars, effects, inbox, orders, reverts, rules
from store.database import Store
from store.effects import Claim, EffectState, Ending, Wanted
from store.tables import AllocationRow, OpenItemRow
from tasks.by_hand import hold_out
from tasks.called_off import CALL
from tasks.installation import Installation
from tasks.intake import work_off_inbox
from tasks.order_intake import take_orders
from tasks.waiting import extend

pytestmark = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
NUMBER = "E1"


@pytest.fixture
async def shop(other: Store, tmp_path: Path) -> Installation:
    """Return an installation as the process has it in which an operator's command runs."""
    async with other.write() as connection:
        await rules.save(connection, document(), channel="shop", author="jana", reason="opening", now=NOW)
    return Installation(home=tmp_path, store=other, connectors={}, templates=Templates([]), clock=lambda: NOW)


def written(number: str) -> dict[str, Any]:
    """Write an order of a customer of its own."""
    return {
        "number": number,
        "channel": "shop",
        "method": "card",
        "placed_at": NOW.isoformat(),
        "currency": "EUR",
        "total": "10.00",
        "customer": {"number": number, "name": "Jan"},
        "lines": [{"title": "Tea", "quantity": 1, "unit_price": "10.00"}],
    }


def order_document(number: str) -> OrderDocument:
    """Make that order."""
    return parse_order(written(number), where="test")


class Letters(NoWebhooks):
    """A shop's connector whose letters are the orders themselves."""

    no_webhooks = "this shop sends none"

    async def truth(self, body: bytes) -> list[OrderDocument]:
        """Return the order in a letter."""
        return [parse_order(json.loads(body), where="letter")]


async def claimed(connection: AsyncConnection, order_id: int, step: str, cause: str, *, local: bool = False) -> Claim:
    """Claim a step of an order in a transaction that goes on."""
    (found,) = await effects.claim(
        connection,
        step,
        [Wanted(order_id, cause, 1)],
        owner="worker",
        lease_until=NOW + MINUTE,
        actor=WORKER,
        now=NOW,
        local=local,
    )
    return found


async def recorded(connection: AsyncConnection, claim: Claim, step: str, state: EffectState, **due: Any) -> None:
    """Record how an attempt at a step ended."""
    rows = await effects.lock(connection, [claim.effect_id])
    ending = Ending(effect_id=claim.effect_id, state=state, before={}, after={}, reason="so it was", **due)
    await effects.end(connection, step, [ending], rows, actor=WORKER, now=NOW)


async def begun(store: Store, order_id: int, step: str, cause: str, state: EffectState = EffectState.INTENDED) -> None:
    """Let an attempt at a step have ended, so that it is tried again, or waits for a person."""
    async with store.write() as connection:
        claim = await claimed(connection, order_id, step, cause)
        due_at = NOW - MINUTE if state is EffectState.INTENDED else None
        await recorded(connection, claim, step, state, due_at=due_at)


async def until_it_waits(store: Store, going: asyncio.Task[Any]) -> None:
    """Wait until what is going on waits for a lock, or is over."""
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(60):
        while not going.done():
            async with store.read() as connection:
                if await connection.scalar(waits):
                    return
            await asyncio.sleep(0.01)


async def as_local(connection: AsyncConnection, order_id: int, step: str, cause: str) -> None:
    """Go on as a step does that acts in our own database alone, when it has locked its order."""
    claim = await claimed(connection, order_id, step, cause, local=True)
    if claim.state is EffectState.INTENDED:
        await recorded(connection, claim, step, EffectState.INTENDED, due_at=NOW + MINUTE)


async def to_be_reverted(store: Store) -> tuple[int, str, reverts.Wish]:
    """Place an order that is paid and whose invoice is still tried; return it, the cause, and who wants it back."""
    order_id = await place(store, NUMBER)
    payment_id = await receive(store)
    async with store.write() as connection:
        item = await connection.scalar(select(OpenItemRow.id).where(OpenItemRow.order_id == order_id))
        amounts: dict[str, Any] = {
            "amount_minor": 45_000,
            "write_off_minor": 0,
            "completes": True,
            "evidence": [],
            "reversed": False,
        }
        whose = {"payment_id": payment_id, "open_item_id": item, "order_id": order_id, "at": NOW}
        await connection.execute(insert(AllocationRow).values(amounts | whose))
        wish_id = await reverts.begin(connection, order_id, author="jana", reason="a mistake", force=False, now=NOW)
        wish = (await reverts.wishes(connection, [wish_id]))[wish_id]
    cause = f"payment:{payment_id}"
    await begun(store, order_id, "invoice", cause)
    return order_id, cause, wish


async def test_who_takes_an_order_back_does_not_wait_for_a_step_that_is_being_claimed(
    store: Store, other: Store
) -> None:
    order_id, cause, wish = await to_be_reverted(store)

    async def release() -> str | None:
        async with other.write() as connection:
            return await reverts.release(connection, wish, actor=WORKER, now=NOW)

    async with store.write() as connection:
        claim = await claimed(connection, order_id, "invoice", cause)
        releasing = asyncio.create_task(release())
        await until_it_waits(store, releasing)
        facts = await bars.facts(connection, [(order_id, cause)])
    assert facts[order_id, cause].reverting
    assert await releasing == "step invoice is still going on"
    async with store.write() as connection:
        await recorded(connection, claim, "invoice", EffectState.SKIPPED)
    assert await release() is None


async def put_back(shop: Installation) -> bool:
    return (await hold_out(shop, NUMBER, channel=None, author="jana", because="they called", back=True)).changed


async def held(store: Store, shop: Installation, steps: Sequence[str]) -> int:
    """Place an order that is held out of automation while steps of it wait."""
    order_id = await place(store, NUMBER)
    for step in steps:
        await begun(store, order_id, step, "payment:1")
    assert (await hold_out(shop, NUMBER, channel=None, author="jana", because="they called")).changed
    return order_id


async def test_who_puts_an_order_back_does_not_wait_for_a_step_that_is_being_claimed(
    store: Store, shop: Installation
) -> None:
    order_id = await held(store, shop, ["invoice"])
    async with store.write() as connection:
        claim = await claimed(connection, order_id, "invoice", "payment:1")
        putting = asyncio.create_task(put_back(shop))
        await until_it_waits(store, putting)
        facts = await bars.facts(connection, [(order_id, "payment:1")])
    assert facts[order_id, "payment:1"].held_out
    with pytest.raises(ByHandError, match="a worker is at step invoice of order E1 right now"):
        await putting
    async with store.write() as connection:
        await recorded(connection, claim, "invoice", EffectState.INTENDED, due_at=NOW + MINUTE)
    assert await put_back(shop)


async def test_who_puts_an_order_back_waits_for_a_step_that_has_it_and_holds_nothing_that_this_wants(
    store: Store, shop: Installation
) -> None:
    order_id = await held(store, shop, ["status"])
    async with store.write() as connection:
        await bars.lock(connection, [order_id])
        putting = asyncio.create_task(put_back(shop))
        await until_it_waits(store, putting)
        await as_local(connection, order_id, "status", "payment:1")
    assert await putting


async def test_who_puts_a_last_day_off_waits_for_a_step_that_has_the_order_and_holds_nothing_that_this_wants(
    store: Store, shop: Installation
) -> None:
    order_id = await place(store, NUMBER)
    async with store.write() as connection:
        day = NOW + timedelta(days=1)
        await orders.set_term(connection, order_id, reserved_until=day, due_on=None, extended=0)
    await begun(store, order_id, CALL, f"order:{order_id}", EffectState.REJECTED)

    async def put_off() -> None:
        await extend(shop, NUMBER, 3, channel=None, author="jana", because="they called")

    async with store.write() as connection:
        await bars.lock(connection, [order_id])
        putting = asyncio.create_task(put_off())
        await until_it_waits(store, putting)
        await as_local(connection, order_id, CALL, f"order:{order_id}")
    await putting


async def test_sets_of_orders_that_overlap_in_another_order_do_not_wait_for_each_other(
    store: Store, shop: Installation
) -> None:
    async def take(connection: AsyncConnection, *numbers: str) -> list[int | OrderError | None]:
        return await take_orders(connection, shop, [order_document(number) for number in numbers], actor=WORKER)

    async def theirs() -> list[int | OrderError | None]:
        async with shop.store.write() as connection:
            return await take(connection, "C", "D") + await take(connection, "B", "A")

    async with store.write() as connection:
        ours = await take(connection, "A", "B")
        going = asyncio.create_task(theirs())
        await until_it_waits(store, going)
        ours += await take(connection, "D", "C")

    assert all(isinstance(one, int) for one in ours)
    assert await going == [None] * 4


async def test_orders_that_letters_tell_of_do_not_wait_for_a_set_that_overlaps_in_another_order(
    store: Store, shop: Installation
) -> None:
    told = [(number, json.dumps(written(number)).encode()) for number in ("C", "D", "B", "A")]
    async with store.write() as connection:
        await inbox.put_all(connection, inbox.due_in_order("letters", "order", told, now=NOW))

    async with store.write() as connection:
        ours = await take_orders(connection, shop, [order_document("A"), order_document("B")], actor=WORKER)
        going = asyncio.create_task(work_off_inbox(replace(shop, connectors={"letters": Letters()})))
        await until_it_waits(store, going)
        ours += await take_orders(connection, shop, [order_document("D"), order_document("C")], actor=WORKER)

    assert all(isinstance(one, int) for one in ours)
    assert await going == len(told)
    async with store.read() as connection:
        assert not await inbox.count_due(connection, NOW + timedelta(days=1))
