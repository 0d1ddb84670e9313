"""Orders that are paid from customers' balances: what waits, what a top-up lets go, and what a person does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from pypdf import PdfReader
from shop_builders import EMAIL, NAME, NOW, Clock, buy, carry_on, change_rules, due_now, order_of, pay, payment_row

from domain.by_hand import ByHandError
from store.audit import audit
from tasks import open_invoice
from tasks.balance import balance_of, change_by_hand, release_by_hand, statement_pdf
from tasks.installation import Installation

USE = {"balance": {"use": True, "release": "all"}}
PRICE = "378.00"


@pytest.fixture
async def opened(opened: Installation, clock: Clock) -> AsyncGenerator[Installation]:
    await change_rules(opened, USE)
    yield opened
    async with opened.store.read() as connection:
        assert await audit(connection, now=clock()) == []


async def works(opened: Installation) -> list[str]:
    """Carry on all that is due until nothing is, each scenario's together; return how the runs ended."""
    ended: list[str] = []
    while due := await due_now(opened):
        for scenario in dict.fromkeys(scenario for scenario, _ in due):
            state = await carry_on(scenario, *(id_ for name, id_ in due if name == scenario))
            ended.append(f"{scenario}: {state.name}")
    return ended


async def waits(opened: Installation, number: str, *, days_ago: int, **fields: Any) -> int:
    """Place an order so many days ago, of the customer C0900 unless another is given; return its id."""
    placed_at = (NOW - timedelta(days=days_ago)).isoformat()
    return await buy(opened, number, "bank_transfer", placed_at=placed_at, **fields)


async def three_and_an_older_one(opened: Installation, **fields: Any) -> list[int]:
    """Place three orders and one that is older than these; return their ids, the older one's last."""
    ids = [await waits(opened, f"CZ{5001 + days}", days_ago=days, **fields) for days in (1, 2, 3, 9)]
    await works(opened)
    return ids


async def statuses(opened: Installation, ids: list[int]) -> list[str]:
    return [(await order_of(opened, id_)).status for id_ in ids]


async def invoice_paid(opened: Installation, amount: str, **fields: Any) -> None:
    """Issue an invoice without an order to the customer, and let him pay it, by transfer unless told otherwise."""
    issued = await open_invoice.issue(
        opened, "C0900", amount, title="Top-up", channel=None, author="Eva", because="as agreed"
    )
    await pay(opened, issued.number, amount, **{"method": "bank_transfer", **fields})
    await works(opened)


async def test_three_orders_without_funds_go_to_work_when_an_unlinked_invoice_for_them_is_paid(
    opened: Installation,
) -> None:
    ids = await three_and_an_older_one(opened)
    assert await statuses(opened, ids) == ["awaiting_payment"] * 4
    await invoice_paid(opened, "1134.00")  # what the three cost
    in_work = (await order_of(opened, ids[0])).status
    assert await statuses(opened, ids) == [in_work, in_work, in_work, "awaiting_payment"]
    assert in_work != "awaiting_payment"
    stands = await balance_of(opened, "C0900", channel=None)
    assert (stands.balance.minor, stands.waiting) == (0, 1)


async def test_even_with_more_money_at_most_three_of_the_latest_go(opened: Installation) -> None:
    ids = await three_and_an_older_one(opened)
    await invoice_paid(opened, "2000.00")
    assert [status == "awaiting_payment" for status in await statuses(opened, ids)] == [False, False, False, True]
    assert str((await balance_of(opened, "C0900", channel=None)).balance) == "866.00 CZK"


@pytest.mark.parametrize(
    ("narrower", "release", "method", "gone"),
    [
        ("channel", "never", "card", 0),
        ("channel", "online", "bank_transfer", 0),
        ("channel", "online", "card", 3),
        ("group", "all", "bank_transfer", 3),
        ("group", "never", "card", 0),
        ("customer", "all", "bank_transfer", 3),
        ("customer", "online", "bank_transfer", 0),
    ],
)
async def test_each_value_of_the_setting_counts_where_it_is_set(
    opened: Installation, narrower: str, release: str, method: str, gone: int
) -> None:
    wanted = {"balance": {"use": True, "release": release}}
    # What is wider says the contrary, so that only the narrower one can have been obeyed.
    contrary = {"balance": {"use": True, "release": "never" if gone else "all"}}
    where: dict[str, Any] = {
        "channel": wanted,
        "group": contrary | {"groups": {"dealers": wanted}},
        "customer": contrary | {"groups": {"dealers": contrary}, "customers": {"C0900": wanted}},
    }
    await change_rules(opened, where[narrower])
    customer = {"number": "C0900", "name": NAME, "email": EMAIL, "group": "dealers"}
    ids = await three_and_an_older_one(opened, customer=customer)
    await invoice_paid(opened, "1134.00", method=method)
    assert (await statuses(opened, ids)).count("awaiting_payment") == 4 - gone


async def test_an_order_that_balance_and_limit_cover_goes_to_work_at_once(opened: Installation) -> None:
    await change_rules(opened, {"balance": {"credit_limit": "400.00"}})
    first, second = await waits(opened, "CZ5001", days_ago=1), await waits(opened, "CZ5002", days_ago=0)
    await works(opened)
    assert [status == "awaiting_payment" for status in await statuses(opened, [first, second])] == [False, True]
    assert str((await balance_of(opened, "C0900", channel=None)).balance) == "-378.00 CZK"


async def test_while_the_balance_is_below_zero_a_top_up_lets_nothing_go(opened: Installation) -> None:
    await change_rules(opened, {"balance": {"credit_limit": "400.00"}})
    await waits(opened, "CZ5001", days_ago=2)
    waiting = await waits(opened, "CZ5002", days_ago=1)
    await works(opened)
    await invoice_paid(opened, "377.00")
    assert (await order_of(opened, waiting)).status == "awaiting_payment"
    await invoice_paid(opened, "1.00")
    assert (await order_of(opened, waiting)).status != "awaiting_payment"


async def test_paying_an_invoice_twice_or_by_halves_tops_up_once(opened: Installation) -> None:
    order_id = await waits(opened, "CZ5001", days_ago=1)
    issued = await open_invoice.issue(
        opened, "C0900", "378.00", title="Top-up", channel=None, author="Eva", because="as agreed"
    )
    same = await open_invoice.issue(
        opened, "C0900", "378.00", title="Top-up", channel=None, author="Eva", because="as agreed"
    )
    assert (same.number, same.new) == (issued.number, False)
    await pay(opened, issued.number, "178.00", method="bank_transfer")
    await works(opened)
    assert (await order_of(opened, order_id)).status == "awaiting_payment"
    await pay(opened, issued.number, "200.00", method="bank_transfer")
    await works(opened)
    assert (await order_of(opened, order_id)).status != "awaiting_payment"
    again = await pay(opened, issued.number, "378.00", method="bank_transfer")
    await works(opened)
    assert (await payment_row(opened, again))["outcome"] == "duplicate"
    assert (await balance_of(opened, "C0900", channel=None)).balance.minor == 0


async def test_a_manager_confirms_an_invoice_once(opened: Installation) -> None:
    order_id = await waits(opened, "CZ5001", days_ago=1)
    await works(opened)
    issued = await open_invoice.issue(
        opened, "C0900", "400.00", title="Top-up", channel=None, author="Eva", because="as agreed"
    )
    told: dict[str, Any] = {"reference": "cash 17", "channel": None, "author": "Eva", "because": "paid at the till"}
    done = [await open_invoice.confirm(opened, issued.number, **told) for _ in range(2)]
    await works(opened)
    assert [changed for changed, _ in done] == [True, False]
    assert (await order_of(opened, order_id)).status != "awaiting_payment"
    assert str((await balance_of(opened, "C0900", channel=None)).balance) == "22.00 CZK"


async def test_money_that_came_by_hand_is_taken_once_and_no_more_is_taken_off_than_there_is(
    opened: Installation,
) -> None:
    await waits(opened, "CZ5001", days_ago=1)
    told: dict[str, Any] = {"reference": "R-1", "channel": None, "author": "Eva", "because": "cash"}
    assert [(await change_by_hand(opened, "C0900", "100.00", **told))[0] for _ in range(2)] == [True, False]
    with pytest.raises(ByHandError, match=r"reference R-1 is that of 100\.00 CZK, taken before"):
        await change_by_hand(opened, "C0900", "50.00", **told)
    with pytest.raises(ByHandError, match=r"only 100\.00 CZK can be taken off"):
        await change_by_hand(opened, "C0900", "-100.01", **told | {"reference": "R-2"})
    assert (await balance_of(opened, "C0900", channel=None)).balance.minor == 10_000


async def test_a_person_lets_go_what_is_covered_whatever_the_setting(opened: Installation) -> None:
    await change_rules(opened, {"balance": {"release": "never"}})
    ids = await three_and_an_older_one(opened)
    told: dict[str, Any] = {"channel": None, "author": "Eva", "because": "he is waiting"}
    await change_by_hand(opened, "C0900", "800.00", reference="R-1", **told)
    await works(opened)
    assert await statuses(opened, ids) == ["awaiting_payment"] * 4
    let_go = await release_by_hand(opened, "C0900", most=10, **told)
    assert [number for number, _ in let_go.orders] == ["CZ5002", "CZ5003"]
    await works(opened)
    assert (await statuses(opened, ids)).count("awaiting_payment") == 2


async def test_the_statement_says_what_came_what_it_paid_and_what_was_left(opened: Installation) -> None:
    await waits(opened, "CZ5001", days_ago=1)
    await works(opened)
    await invoice_paid(opened, "400.00")
    stands = await balance_of(opened, "C0900", channel=None)
    (invoice,) = await open_invoice.listing(opened)
    assert [(line.order, line.invoice, str(line.after)) for line in stands.entries] == [
        (None, invoice.number, "400.00 CZK"),
        ("CZ5001", None, "22.00 CZK"),
    ]
    (page,) = PdfReader(BytesIO(await statement_pdf(opened, stands))).pages
    said = " ".join(page.extract_text().split())
    assert f"Faktura {invoice.number} 400,00 400,00" in said
    assert "Objednávka CZ5001 -378,00 22,00" in said
    assert "Zůstatek: 22,00 CZK" in said


async def test_an_invoice_that_nobody_paid_can_be_cancelled_and_is_late_then(opened: Installation) -> None:
    await waits(opened, "CZ5001", days_ago=1)
    told: dict[str, Any] = {"channel": None, "author": "Eva", "because": "a mistake"}
    issued = await open_invoice.issue(opened, "C0900", "50.00", title="Top-up", **told)
    await open_invoice.cancel(opened, issued.number, **told)
    payment_id = await pay(opened, issued.number, "50.00", method="bank_transfer")
    await works(opened)
    assert (await payment_row(opened, payment_id))["outcome"] == "late"
    with pytest.raises(ByHandError, match="is cancelled"):
        await open_invoice.confirm(opened, issued.number, reference="R", **told)
