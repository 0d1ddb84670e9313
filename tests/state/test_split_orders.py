"""Goods paid online, the delivery when the parcel comes: what each part of the money does, taken back too.

The order is over 500.00 EUR, of which the carrier collects 50.00 EUR.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from rules_builders import document
from store_builders import LINE, NOW, column, line, load, place, receive

from connectors.templates import Templates
from domain.by_hand import ByHandError
from domain.matching import names_of
from domain.money import Money
from domain.orders import Order
from domain.payments import Kind, Method, Outcome
from domain.rules import Policy
from store import balances, payments, reverts, rules, spending
from store.audit import audit
from store.database import open_store
from store.journal import Actor
from tasks.balance import begin_on_balance
from tasks.decide import Decided, Decision, decide
from tasks.installation import Installation, working_on
from tasks.match import Matched, match_payments
from tasks.money_back import Returned, match_money_back
from tasks.revert import begin

WHO = Actor(name="jana")
GOODS, DELIVERY = 45_000, 5_000


@pytest.fixture
async def shop(sqlite_template: Path, tmp_path: Path) -> AsyncGenerator[Installation]:
    """Open an installation with the rules of one channel, whose customers' balances pay for orders."""
    shutil.copy(sqlite_template, tmp_path / "kvit.db")
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")
    async with store.write() as connection:
        own = document(balance={"use": True})
        await rules.save(connection, own, channel="shop", author="jana", reason="opening", now=NOW)
    opened = Installation(home=tmp_path, store=store, connectors={}, templates=Templates([]), clock=lambda: NOW)
    async with working_on(opened):
        yield opened
    async with store.read() as connection:
        assert await audit(connection, now=NOW) == []
    await store.close()


async def split(shop: Installation, number: str = "E1001", **fields: Any) -> int:
    values: dict[str, Any] = {
        "method": Method.CARD,
        "lines": (LINE, line(None, unit_price=DELIVERY)),
        "on_delivery": Money(DELIVERY, "EUR"),
        "references": names_of(number),
    }
    return await place(shop.store, number, **(values | fields))


async def paid(
    shop: Installation, minor: int = GOODS, number: str = "E1001", method: Method = Method.CARD, **told: Any
) -> int:
    """Let money come for an order, and match it; return its id."""
    id_ = f"{method}-{number}-{minor}"
    told = {"source": "gateway", "provider_reference": id_, "order_reference": number} | told
    payment_id = await receive(shop.store, id_, minor, method=method, **told)
    await match(payment_id)
    return payment_id


async def match(payment_id: int) -> Matched:
    return await match_payments.fn([payment_id])


async def back(shop: Installation, of: int, minor: int, kind: Kind = Kind.REFUND) -> Returned:
    """Let some of a payment go back."""
    [reference] = await column(shop.store, "SELECT provider_reference FROM payments WHERE id = :id", id=of)
    told: dict[str, Any] = {"source": "gateway", "provider_reference": reference, "kind": kind, "method": Method.CARD}
    payment_id = await receive(shop.store, f"back-{of}-{minor}", -minor, **told)
    return await match_money_back.fn([payment_id])


async def said(shop: Installation, payment_id: int, *to: str) -> Decided:
    return await decide(shop, payment_id, Decision.TO, to=to, author="jana", because="she phoned")


async def outcome(shop: Installation, payment_id: int) -> tuple[str, str]:
    async with shop.store.read() as connection:
        (row,) = await payments.listing(connection, payment_id=payment_id)
    return row["outcome"], row["policy"]


async def taken_back(shop: Installation, order_id: int) -> None:
    """Take an order back to before its payments, as `kvit revert` does when no step of it was done."""
    begun = await begin(shop, [order_id], author="jana", because="a mistake")
    async with shop.store.write() as connection:
        for wish in (await reverts.wishes(connection, begun)).values():
            assert await reverts.release(connection, wish, actor=WHO, now=NOW) is None


def stands(order: Order) -> tuple[int, int, int]:
    """Return what is missing in all, what of it before the parcel may go, and what the carrier is to collect."""
    return order.to_pay.minor, order.to_pay_now.minor, order.to_collect.minor


WHOLE = (GOODS + DELIVERY, GOODS, DELIVERY)
GOODS_PAID = (DELIVERY, 0, DELIVERY)
ALL_PAID = (0, 0, 0)


# Taken back.


async def test_the_payment_of_the_goods_that_is_taken_back_is_asked_for_again_and_the_delivery_stays(
    shop: Installation,
) -> None:
    order_id = await split(shop)
    assert stands(await load(shop.store, order_id)) == WHOLE
    payment_id = await paid(shop)
    assert stands(await load(shop.store, order_id)) == GOODS_PAID
    await taken_back(shop, order_id)
    assert stands(await load(shop.store, order_id)) == WHOLE
    assert await outcome(shop, payment_id) == ("taken_back", "operator")
    assert (await said(shop, payment_id, "E1001")).outcome is Outcome.EXACT
    assert stands(await load(shop.store, order_id)) == GOODS_PAID


async def test_taken_back_with_what_the_carrier_brought_all_of_it_is_asked_for_as_at_first(shop: Installation) -> None:
    order_id = await split(shop)
    goods = await paid(shop)
    delivery = await paid(shop, DELIVERY, method=Method.CASH_ON_DELIVERY)
    order = await load(shop.store, order_id)
    assert (stands(order), order.carried_on_as) == (ALL_PAID, Method.CASH_ON_DELIVERY)
    await taken_back(shop, order_id)
    order = await load(shop.store, order_id)
    assert (stands(order), order.carried_on_as) == (WHOLE, Method.CARD)
    for payment_id in (delivery, goods):
        await said(shop, payment_id, "E1001")
    assert stands(await load(shop.store, order_id)) == ALL_PAID


# Gone back.


async def test_a_refund_of_the_goods_is_owed_no_more_and_the_delivery_is_collected_still(shop: Installation) -> None:
    order_id = await split(shop)
    returned = await back(shop, await paid(shop), GOODS)
    assert [item.order_id for item in returned.gone.items] == [order_id]
    assert stands(await load(shop.store, order_id)) == GOODS_PAID


async def test_a_refund_of_the_goods_leaves_what_the_carrier_brought(shop: Installation) -> None:
    order_id = await split(shop)
    goods = await paid(shop)
    await paid(shop, DELIVERY, method=Method.CASH_ON_DELIVERY)
    returned = await back(shop, goods, GOODS)
    assert ([item.order_id for item in returned.part.items], returned.gone.items) == ([order_id], ())
    assert stands(await load(shop.store, order_id)) == ALL_PAID


@pytest.mark.parametrize("brought", [False, True], ids=["on its way", "delivered"])
async def test_a_chargeback_of_the_goods_is_owed_again_and_nothing_is_collected_twice(
    shop: Installation, *, brought: bool
) -> None:
    order_id = await split(shop)
    goods = await paid(shop)
    if brought:
        await paid(shop, DELIVERY, method=Method.CASH_ON_DELIVERY)
    await back(shop, goods, GOODS, Kind.CHARGEBACK)
    assert stands(await load(shop.store, order_id)) == ((GOODS, GOODS, 0) if brought else WHOLE)


# By hand.


async def test_money_given_by_hand_settles_the_goods_and_the_rest_is_the_delivery(shop: Installation) -> None:
    order_id = await split(shop)
    payment_id = await paid(shop, number="unknown")
    assert (await said(shop, payment_id, "E1001")).outcome is Outcome.EXACT
    assert stands(await load(shop.store, order_id)) == GOODS_PAID
    other = await paid(shop, DELIVERY, "unknown", Method.CASH_ON_DELIVERY)
    assert (await said(shop, other, "E1001")).outcome is Outcome.EXACT
    assert stands(await load(shop.store, order_id)) == ALL_PAID


async def test_a_transfer_for_all_of_it_leaves_the_carrier_nothing_to_collect(shop: Installation) -> None:
    order_id = await split(shop)
    payment_id = await paid(shop, GOODS + DELIVERY, "unknown", Method.BANK_TRANSFER)
    assert (await said(shop, payment_id, "E1001")).outcome is Outcome.EXACT
    assert stands(await load(shop.store, order_id)) == ALL_PAID


async def test_what_is_short_is_missing_of_the_goods(shop: Installation) -> None:
    order_id = await split(shop)
    payment_id = await paid(shop, 10_000, "unknown", Method.BANK_TRANSFER)
    result = await said(shop, payment_id, "E1001=100.00")
    assert (result.outcome, result.policy) == (Outcome.SHORT, Policy.WAIT)
    assert stands(await load(shop.store, order_id)) == (40_000, 35_000, DELIVERY)


@pytest.mark.parametrize("amount", ["460.00", "510.00"])
async def test_no_more_is_given_by_hand_than_the_goods_ask_for_unless_it_is_all(
    shop: Installation, amount: str
) -> None:
    order_id = await split(shop)
    payment_id = await paid(shop, GOODS + DELIVERY + 6_000, "unknown", Method.BANK_TRANSFER)
    with pytest.raises(ByHandError, match=rf"{amount} EUR is more than the 450\.00 EUR that is open of order E1001"):
        await said(shop, payment_id, f"E1001={amount}")
    assert (await said(shop, payment_id, "E1001=500.00")).outcome is Outcome.OVER
    assert stands(await load(shop.store, order_id)) == ALL_PAID


# The customer's balance.


async def test_the_balance_pays_for_the_goods_alone(shop: Installation) -> None:
    order_id = await split(shop)
    order = await load(shop.store, order_id)
    async with shop.store.write() as connection:
        await balances.add(
            connection, order.customer.id, Money(GOODS, "EUR"), payment_id=None, reason="gift", actor=WHO, now=NOW
        )
        version = (await rules.current(connection))["shop"]
        begun = await begin_on_balance(connection, order, version.rules, version.version, actor=WHO, now=NOW)
        assert begun
        assert (await balances.balance(connection, order.customer.id, "EUR")).minor == 0
        held = await spending.hold(connection, order.customer.id, "EUR")
        assert held.waiting == ()
    assert stands(await load(shop.store, order_id)) == GOODS_PAID
    await taken_back(shop, order_id)
    async with shop.store.read() as connection:
        assert (await balances.balance(connection, order.customer.id, "EUR")).minor == GOODS
    assert stands(await load(shop.store, order_id)) == WHOLE


async def test_what_comes_beyond_the_goods_online_is_a_surplus_and_not_the_delivery(shop: Installation) -> None:
    order_id = await split(shop)
    payment_id = await paid(shop, GOODS + 100)
    assert await outcome(shop, payment_id) == ("over", "release")
    assert stands(await load(shop.store, order_id)) == GOODS_PAID
