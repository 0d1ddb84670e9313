"""Documents: numbered without gaps or repeats, and at most one of a kind in force per order."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest
from sqlalchemy.exc import IntegrityError
from store_builders import NOW, WORKER, column, place

from domain.rules import DocumentKind
from store import documents, effects
from store.database import Store
from store.effects import Wanted

INVOICE, PROFORMA, CREDIT_NOTE = DocumentKind.INVOICE, DocumentKind.PROFORMA, DocumentKind.CREDIT_NOTE


async def number(
    store: Store, channel: str = "shop", kind: DocumentKind = INVOICE, year: int = 2026, *, commit: bool = True
) -> int | None:
    async with store.write() as connection:
        taken = await documents.next_number(connection, channel, kind, year)
        await asyncio.sleep(0)  # others may run while the number is taken and not yet used
        if commit:
            return taken
        await connection.rollback()
    return None


async def an_effect(store: Store, order: int, cause: str = "payment:17") -> int:
    async with store.write() as connection:
        wanted = [Wanted(order, cause, 3)]
        [claim] = await effects.claim(
            connection, "invoice", wanted, owner="one", lease_until=NOW, actor=WORKER, now=NOW
        )
    return claim.effect_id


async def issue(
    store: Store, order: int, counter: int, kind: DocumentKind = INVOICE, *, corrects: int | None = None
) -> None:
    effect = await an_effect(store, order)
    async with store.write() as connection:
        await documents.add(
            connection,
            order_id=order,
            channel="shop",
            kind=kind,
            number=f"{kind}-2026-{counter}",
            year=2026,
            counter=counter,
            currency="EUR",
            total_minor=45_000,
            issued_on=date(2026, 5, 4),
            content={"total": "450.00"},
            effect_id=effect,
            corrects_id=corrects,
        )


async def test_numbers_begin_at_one_for_each_channel_kind_and_year(store: Store) -> None:
    assert [await number(store) for _ in range(3)] == [1, 2, 3]
    assert await number(store, channel="cz") == 1
    assert await number(store, kind=CREDIT_NOTE) == 1
    assert await number(store, year=2027) == 1
    assert await number(store) == 4


async def test_a_transaction_that_rolls_back_leaves_its_number_for_the_next(store: Store) -> None:
    assert await number(store, commit=False) is None
    assert await number(store) == 1
    assert await number(store, commit=False) is None
    assert await number(store) == 2


async def test_numbers_taken_at_once_have_no_gaps_and_no_repeats(store: Store, other: Store) -> None:
    taken = await asyncio.gather(
        *(number(through, commit=turn % 3 != 0) for turn in range(20) for through in (store, other))
    )

    kept = sorted(found for found in taken if found is not None)
    assert kept == list(range(1, 27))
    assert await number(store) == 27


async def test_an_order_has_one_document_of_a_kind_in_force(store: Store) -> None:
    order = await place(store)
    await issue(store, order, 1)
    await issue(store, order, 1, PROFORMA)

    with pytest.raises(IntegrityError):
        await issue(store, order, 2)

    assert await column(store, "SELECT number FROM documents ORDER BY id") == ["invoice-2026-1", "proforma-2026-1"]


async def test_a_document_that_was_taken_back_makes_room_for_another(store: Store) -> None:
    order = await place(store)
    await issue(store, order, 1)
    async with store.read() as connection:
        first = await documents.live(connection, order, INVOICE)
    assert first is not None
    async with store.write() as connection:
        await documents.end(connection, first["id"])
    await issue(store, order, 1, CREDIT_NOTE, corrects=first["id"])
    await issue(store, order, 2)

    async with store.read() as connection:
        now_live = await documents.live(connection, order, INVOICE)
        credit_note = await documents.live(connection, order, CREDIT_NOTE)
        listed = await documents.of_order(connection, order)

    assert now_live is not None
    assert (now_live["number"], now_live["content"]) == ("invoice-2026-2", {"total": "450.00"})
    assert credit_note is None
    assert [(row["number"], row["live"]) for row in listed] == [
        ("invoice-2026-1", False),
        ("credit_note-2026-1", False),
        ("invoice-2026-2", True),
    ]


@pytest.mark.parametrize("counter", [1, 2])
async def test_no_number_is_given_twice(store: Store, counter: int) -> None:
    await issue(store, await place(store), 1)
    again = "UPDATE documents SET number = 'invoice-2026-1', counter = :counter WHERE counter = 3"
    await issue(store, await place(store), 3)

    with pytest.raises(IntegrityError):
        await column(store, again + " RETURNING id", counter=counter)


async def test_what_was_not_printed_yet_is_found(store: Store) -> None:
    orders = [await place(store), await place(store)]
    for counter, order in enumerate(orders, start=1):
        await issue(store, order, counter)
    async with store.read() as connection:
        of_one = await documents.without_file(connection, orders[:1])
        of_all = await documents.without_file(connection)

    async with store.write() as connection:
        await documents.set_files(connection, {of_one[0]["id"]: "documents/shop/1.pdf"})

    async with store.read() as connection:
        left = await documents.without_file(connection)
    assert ([row["number"] for row in of_one], len(of_all)) == (["invoice-2026-1"], 2)
    assert [row["number"] for row in left] == ["invoice-2026-2"]


async def test_a_message_recorded_again_is_kept_once(store: Store) -> None:
    order = await place(store)
    effect = await an_effect(store, order)
    sent = documents.SentMessage(
        order_id=order,
        by="email",
        template="payment_received",
        language="cs",
        message_id="<kvit-1@shop>",
        subject="Děkujeme",
        reference="new/1",
        effect_id=effect,
    )
    for _ in range(2):
        async with store.write() as connection:
            await documents.add_messages(connection, [sent], now=NOW)

    async with store.read() as connection:
        [message] = await documents.messages(connection, order)
    assert (message["subject"], message["sent_at"]) == ("Děkujeme", NOW)
