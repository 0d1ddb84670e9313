"""What the bench reports of the chain is of the payment's own calls, and the bare script sends just these again."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from bench.bare_chain import measure
from bench.chain import bare_document, check, figures
from bench.outside_chain import AMOUNT, PLANFIX, WAYFORPAY, ChainOutside, number_of, serving
from bench.tables import tables

from connectors import load, own_rates
from connectors.roles import Income
from deployments.chain_wayforpay_planfix import IN_PRODUCTION
from domain.money import Money
from domain.orders import Customer, Method, Order, Status

PAID = Money.parse(AMOUNT, "UAH")


def _order(place: int) -> Order:
    return Order(
        id=place,
        channel="planfix",
        number=number_of(place),
        status="in_production",
        standard_status=Status.IN_PRODUCTION,
        method=Method.CARD,
        total=PAID,
        settled=PAID,
        placed_at=datetime(2026, 3, 1, tzinfo=UTC),
        customer=Customer(id=1, number="C1", name="Олена Зразкова"),
        lines=(),
    )


async def _carried_on(gateway: Any, planfix: Any, place: int) -> None:
    """Make a payment's calls, and beside them those that are none of it: a poll, and what another order is told."""
    await gateway.truth(gateway.question(number_of(place)))
    await planfix.tell(_order(place), str(IN_PRODUCTION), "status")
    await planfix.tell(_order(place + 1), None, "another")
    await planfix.fetch(None, now=datetime.now(UTC))
    await gateway.fetch(None, now=datetime.now(UTC))
    income = Income(
        reference=f"payment:{place}",
        amount=PAID,
        booked_on=date(2026, 3, 1),
        method=Method.CARD,
        provider_reference=number_of(place),
    )
    await planfix.add_income(_order(place), income, "income")


async def test_the_bare_script_sends_a_payments_own_calls_again_and_no_others(tmp_path: Path) -> None:
    outside = ChainOutside()
    async with serving(outside):
        kvit = outside.settings(as_shipped=False)
        outside.make_tasks(1, 2)
        stanzas = {one["name"]: one for one in kvit["connectors"]}
        gateway, planfix = (load(stanzas[name], home=tmp_path, where="bench") for name in (WAYFORPAY, PLANFIX))
        outside.pay(1)
        began = datetime.now(UTC).timestamp()
        await _carried_on(gateway, planfix, 1)
        asked = outside.asked(1)
        check(1, asked)
        outside.calls.clear()
        alone = await measure(bare_document(kvit, own_rates(kvit["connectors"], home=tmp_path), [asked]))
        again = [(call.system, call.method, call.target, call.body) for call in outside.calls]
        await gateway.aclose()
        await planfix.aclose()
    assert not [call for call in asked["calls"] if number_of(2) in call["body"] or "dateFrom" in call["body"]]
    assert not [call for call in asked["calls"] if call["target"].startswith(f"/rest/task/{outside.tasks[2]}?")]
    assert again == [(call["system"], call["method"], call["target"], call["body"]) for call in asked["calls"]]
    found = figures([(began, began)], [asked], alone)
    assert found["calls_to_production"] == [3, 3]  # what was paid, where the task is, and its new status
    assert found["calls_of_wayforpay"] == [1, 1]
    assert found["callback_sent_to_last_call_s"]["p50"] >= found["callback_sent_to_production_s"]["p50"] > 0
    found["others_on_the_machine_cores"] = 0.0
    (table,) = tables({"chain": {"sqlite": {"lifted": found}}})
    assert [len(row) for row in table.rows] == [len(table.headers)] * 2


def test_planfix_limit_is_as_shipped_or_none(tmp_path: Path) -> None:
    outside = ChainOutside()
    rates = [
        own_rates(outside.settings(as_shipped=shipped)["connectors"], home=tmp_path)[PLANFIX]
        for shipped in (True, False)
    ]
    assert rates == [1.0, None]


@pytest.mark.parametrize("wrong", [{"status": 101}, {"paid": "8399"}, {"comments": 2}, {"incomes": 0}])
def test_an_order_that_is_not_in_production_once_and_whole_gives_no_figure(wrong: dict[str, Any]) -> None:
    whole = {"status": 102, "paid": AMOUNT, "difference": "0", "comments": 1, "incomes": 1, "in_production": 1.0}
    check(1, whole)
    with pytest.raises(SystemExit, match="did not come into production"):
        check(1, whole | wrong)
