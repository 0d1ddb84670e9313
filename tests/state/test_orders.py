"""Orders: stored once with all that belongs to them, read back as they were, every status remembered."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from store_builders import MINUTE, NOW, WORKER, column, line, load, new_order, place

from domain.money import Money
from domain.orders import Address, Status
from domain.payments import Method
from domain.rules import EvidenceKind
from store import orders
from store.database import Store
from store.tables import CustomerRow, OpenItemRow, OrderLineRow, OrderRow, StatusHistory

ORDER_NUMBER = EvidenceKind.ORDER_NUMBER


async def add(store: Store, order: orders.NewOrder) -> int | None:
    async with store.write() as connection:
        return await orders.add(connection, order, now=NOW, actor=WORKER)


async def set_status(store: Store, order_id: int, after: str, standard: Status) -> None:
    async with store.write() as connection:
        await orders.set_status(
            connection, order_id, after=after, standard=standard, reason="asked", actor=WORKER, now=NOW
        )


async def test_an_order_is_read_back_as_it_was_given(store: Store) -> None:
    lines = (
        orders.NewLine(
            sku="MUG", title="Hrnek žlutý", quantity=2, unit_price=Money(10**14, "EUR"), vat_rate=Decimal("21.00")
        ),
        orders.NewLine(sku=None, title="Doprava", quantity=1, unit_price=Money(0, "EUR"), vat_rate=Decimal(0)),
    )
    given = new_order(
        "2026/№-17",
        lines=lines,
        variable_symbol="1017",
        rf="RF18539007547034",
        group="wholesale",
        tax_id="CZ12345678",
        phone="+420777123456",
    )

    order_id = await add(store, given)

    assert order_id is not None
    order = await load(store, order_id)
    assert (order.channel, order.number, order.method) == ("shop", "2026/№-17", Method.BANK_TRANSFER)
    assert (order.status, order.standard_status) == ("awaiting_payment", Status.AWAITING_PAYMENT)
    assert (order.total, order.settled, order.placed_at) == (Money(2 * 10**14, "EUR"), Money(0, "EUR"), NOW)
    assert (order.variable_symbol, order.rf, order.delivery_method) == ("1017", "RF18539007547034", "parcel")
    assert order.delivery_address == given.delivery_address
    assert (order.customer.number, order.customer.name, order.customer.group) == ("7", "Jan Novák", "wholesale")
    assert (order.customer.email, order.customer.phone) == ("jan@example.com", "+420777123456")
    assert (order.customer.language, order.customer.tax_id) == ("cs", "CZ12345678")
    assert order.customer.address == Address(name="Jan Novák", country="CZ")
    assert [(row.sku, row.title, row.quantity, row.unit_price, row.vat_rate) for row in order.lines] == [
        (row.sku, row.title, row.quantity, row.unit_price, row.vat_rate) for row in lines
    ]


async def test_an_order_is_stored_once_per_channel_and_number(store: Store) -> None:
    first = await add(store, new_order("1042"))

    assert first is not None
    assert await add(store, new_order("1042", lines=(line("CUP"),))) is None
    assert await add(store, new_order("1042", channel="market")) is not None
    assert [row.sku for row in (await load(store, first)).lines] == ["MUG"]
    async with store.read() as connection:
        assert len(await orders.ids_of(connection, "1042")) == 2
        assert await orders.ids_of(connection, "1042", "shop") == [(first, "shop")]


async def test_an_order_that_comes_many_times_at_once_is_stored_once(store: Store, other: Store) -> None:
    for number in range(5):
        order = new_order(f"A{number}", customer_number=f"{number}", references=frozenset({(ORDER_NUMBER, "A")}))
        added = await asyncio.gather(*(add(through, order) for _ in range(5) for through in (store, other)))
        assert len([order_id for order_id in added if order_id is not None]) == 1

    for table in (OrderRow, OrderLineRow, OpenItemRow, CustomerRow, StatusHistory):
        assert await column(store, str(select(func.count()).select_from(table))) == [5], table
    assert await column(store, "SELECT count(*) FROM item_references GROUP BY kind") == [5, 5]


async def test_a_known_customer_is_brought_up_to_date(store: Store) -> None:
    first = await place(store, customer_name="Jan", email="old@example.com", accounts=("CZ65",))
    second = await place(store, customer_name="Jan Novák", email="new@example.com", accounts=("CZ65", "CZ66"))

    one, two = await load(store, first), await load(store, second)

    assert one.customer == two.customer
    assert (one.customer.name, one.customer.email) == ("Jan Novák", "new@example.com")
    assert await column(store, "SELECT account FROM payer_accounts ORDER BY account") == ["CZ65", "CZ66"]


async def test_an_order_is_an_open_item_that_its_references_name(store: Store) -> None:
    references = frozenset({(ORDER_NUMBER, "1042"), (EvidenceKind.VARIABLE_SYMBOL, "1042")})
    order = await place(store, references=references)
    async with store.write() as connection:
        for _ in range(2):
            await orders.add_order_reference(connection, order, EvidenceKind.TRACKING_NUMBER, "RR1")

    assert await column(store, "SELECT amount_minor FROM open_items") == [45_000]
    assert await column(store, "SELECT kind FROM item_references ORDER BY kind") == [
        "order_number",
        "payer_name",
        "tracking_number",
        "variable_symbol",
    ]


async def test_every_status_an_order_had_is_remembered(store: Store) -> None:
    order = await place(store)
    await set_status(store, order, "paid", Status.PAID)
    await set_status(store, order, "in the kitchen", Status.IN_PRODUCTION)

    async with store.read() as connection:
        history = await orders.status_history(connection, order)

    assert [(row["before"], row["after"]) for row in history] == [
        (None, "awaiting_payment"),
        ("awaiting_payment", "paid"),
        ("paid", "in the kitchen"),
    ]
    found = await load(store, order)
    assert (found.status, found.standard_status) == ("in the kitchen", Status.IN_PRODUCTION)


async def test_the_history_of_changes_made_at_once_is_one_chain(store: Store, other: Store) -> None:
    order = await place(store)
    changes = [set_status((store, other)[n % 2], order, f"status {n}", Status.PAID) for n in range(16)]
    await asyncio.gather(*changes)

    async with store.read() as connection:
        history = await orders.status_history(connection, order)

    assert [row["before"] for row in history[1:]] == [row["after"] for row in history[:-1]]
    assert (await load(store, order)).status == history[-1]["after"]


async def test_orders_are_chosen_by_their_properties(store: Store) -> None:
    await place(store, "1", placed_at=NOW)
    await place(store, "2", placed_at=NOW + MINUTE, method=Method.CARD)
    await place(store, "3", placed_at=NOW + 2 * MINUTE, channel="market", status="new", standard_status=Status.NEW)

    async def numbers(**chosen: object) -> list[str]:
        async with store.read() as connection:
            return [row["number"] for row in await orders.listing(connection, **chosen)]  # pyright: ignore[reportArgumentType] - each test names its own

    assert await numbers() == ["1", "2", "3"]
    assert await numbers(limit=2) == ["1", "2"]
    assert await numbers(channel="market") == ["3"]
    assert await numbers(method="card") == ["2"]
    assert await numbers(status="awaiting_payment") == ["1", "2"]
    assert await numbers(placed_from=NOW + MINUTE, placed_to=NOW + 2 * MINUTE) == ["2"]


async def test_many_orders_are_loaded_at_once(store: Store) -> None:
    ids = [await place(store) for _ in range(3)]

    async with store.read() as connection:
        found = await orders.load(connection, [*ids, 999_999])

    assert sorted(found) == ids


async def test_an_order_has_one_consignment_until_it_is_cancelled(store: Store) -> None:
    order = await place(store)

    async def ship(tracking_number: str) -> None:
        async with store.write() as connection:
            values = {"order_id": order, "carrier": "labels", "tracking_number": tracking_number, "currency": "EUR"}
            await orders.add_shipment(connection, {**values, "collect_minor": 45_000, "live": True, "created_at": NOW})

    await ship("RR1")
    with pytest.raises(IntegrityError):
        await ship("RR2")
    async with store.write() as connection:
        live = await orders.live_shipment(connection, order)
        assert live is not None
        await orders.cancel_shipment(connection, live["id"])
        assert await orders.live_shipment(connection, order) is None
    await ship("RR2")

    assert (live["tracking_number"], live["collect_minor"]) == ("RR1", 45_000)
    assert await column(store, "SELECT tracking_number FROM shipments WHERE live = true") == ["RR2"]
