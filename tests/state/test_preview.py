"""Preview: the past is read as it was, and tried on rules the answers are those that the steps themselves give."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_builders import document
from shop_builders import DEPLOYMENTS, SHOPKEEPER, Clock, buy, order_of, pay, shop
from store_builders import NOW, WORKER, place, receive, record_match

from connectors.templates import Templates
from domain.matching import Reader, decide
from domain.money import Money
from domain.orders import Status
from domain.payments import Method
from domain.preview import Preview
from domain.rules import ChannelRules, EvidenceKind, Moment, moments_of, parse_rules
from domain.scenarios import STEPS, message_step
from store import balances, orders, payments, rules, stock
from store.database import Store
from store.effects import EffectState
from tasks.decide import Decision
from tasks.decide import decide as decide_by_hand
from tasks.dispatch import start_dispatch
from tasks.installation import Installation
from tasks.invoice import issue_invoice, issue_proforma
from tasks.notify import notify_customer, notify_dispatch, notify_placed, notify_status
from tasks.preview import History, compare, preview_rules, read_history
from tasks.status import set_placed_status, set_status
from tasks.step import Batch, Item, Step
from tasks.stock import deduct_stock, reserve_stock

ACCOUNT = "CZ5099100000190000260111"
PAYER = "CZ6508000000192000145399"
_OWN: dict[str, Any] = {"accounts": [ACCOUNT], "references": {"order_number": "A[0-9]{4}"}}


@pytest.fixture
async def shop_(store: Store, tmp_path: Path) -> Installation:
    """Return an installation on each database in turn, with two channels."""
    async with store.write() as connection:
        await save(connection, document(**_OWN))
        await save(connection, document(channel="outlet", accounts=["CZ2199100000190000260222"]))
    return Installation(home=tmp_path, store=store, connectors={}, templates=Templates([]), clock=lambda: NOW)


async def save(connection: Any, rules_: dict[str, Any]) -> None:
    parsed = parse_rules(rules_).model_dump(mode="json", exclude_unset=True)
    await rules.save(connection, parsed, channel=parsed["channel"], author="jana", reason="opening", now=NOW)


def shop_rules(**fields: Any) -> ChannelRules:
    return parse_rules(document(**{**_OWN, **fields}))


async def take(opened: Installation, number: str, **fields: Any) -> int:
    """Store an order that is called by its number, and by its digits as variable symbol."""
    called = {(EvidenceKind.ORDER_NUMBER, number), (EvidenceKind.VARIABLE_SYMBOL, number[1:])}
    return await place(opened.store, number, references=frozenset(called), **fields)


async def matched(opened: Installation, payment_id: int, hours: int) -> None:
    """Match a payment as its flow does, so many hours after the orders were placed."""
    async with opened.store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        channels = {channel: one.rules for channel, one in (await rules.current(connection)).items()}
        reader = Reader(channels)
        named = reader.references(payment)
        items = await payments.candidates(connection, named)
        match = decide(payment, named, [items[id_] for id_ in sorted(items)], channels, reader)
        at = NOW + timedelta(hours=hours)
        await record_match(connection, payment, match, named, now=at)


async def close(opened: Installation, order_id: int, hours: int) -> None:
    async with opened.store.write() as connection:
        at = NOW + timedelta(hours=hours)
        told: dict[str, Any] = {"after": "cancelled", "standard": Status.CANCELLED, "reason": "by phone"}
        await orders.set_status(connection, order_id, actor=WORKER, now=at, **told)


def of_payments(preview: Preview) -> dict[str, tuple[str, str]]:
    return {one.name: (one.now, one.then) for one in preview.differences if one.decision == "match"}


BLIND = shop_rules(accounts=[], references={"order_number": "Q[0-9]{4}"})
"""Rules by which no payment of these tests names an order."""
NOBODY = "unknown, left to a person"


async def test_payments_are_tried_on_what_was_open_just_before_them(shop_: Installation) -> None:
    await take(shop_, "A1001")
    cancelled = await take(shop_, "A1002")
    told: dict[str, Any] = {"account": ACCOUNT, "variable_symbol": None}
    exact = await receive(shop_.store, "E1", text="A1001", **told)
    again = await receive(shop_.store, "E2", text="A1001", **told)
    in_time = await receive(shop_.store, "E3", text="A1002", **told)
    for hours, payment_id in enumerate((exact, again, in_time)):
        await matched(shop_, payment_id, hours)
    await close(shop_, cancelled, 3)
    late = await receive(shop_.store, "E4", text="A1002", **told)
    await matched(shop_, late, 4)

    found = of_payments(await preview_rules(shop_, BLIND))

    assert found == {
        str(exact): ("exact, carried on: A1001", NOBODY),
        str(again): ("duplicate, left to a person", NOBODY),
        str(in_time): ("exact, carried on: A1002", NOBODY),
        str(late): ("late, left to a person", NOBODY),
    }
    assert (await preview_rules(shop_, shop_rules())).differences == ()


async def test_a_payment_that_waits_is_tried_on_what_is_open_now(shop_: Installation) -> None:
    before = await receive(shop_.store, "E1", text="Q1001")
    await matched(shop_, before, 1)
    await place(shop_.store, "Q1001", references=frozenset({(EvidenceKind.ORDER_NUMBER, "Q1001")}))

    found = of_payments(await preview_rules(shop_, shop_rules(references={"order_number": "Q[0-9]{4}"})))

    assert found == {str(before): (NOBODY, "exact, carried on: Q1001")}


async def test_what_can_be_meant_is_what_matching_itself_gets(shop_: Installation) -> None:
    paying = {"order_number": "A[0-9]{4}", "paying_groups": ["holding"]}
    async with shop_.store.write() as connection:
        await save(connection, document(**{**_OWN, "references": paying}))
    await take(shop_, "A1001", customer_number="1", group="holding", accounts=(PAYER,))
    await take(shop_, "A1002", customer_number="2", group="holding")
    await take(shop_, "A1003", customer_number="3", customer_name="Eva Malá")
    await take(shop_, "A1004", customer_number="3", customer_name="Eva Malá")
    await place(shop_.store, "A1005", channel="outlet", customer_number="2", group="holding")
    some: tuple[dict[str, Any], ...] = (
        {"text": "A1003"},
        {"payer_account": PAYER},
        {"payer_account": PAYER, "text": "A1003"},
        {"payer_name": "Malá Eva"},
        {"variable_symbol": "1004"},
        {"text": "nothing"},
    )
    for place_, more in enumerate(some):
        await receive(shop_.store, f"E{place_}", account=ACCOUNT, **more)

    history = await read_history(shop_, shop_rules(references=paying))

    assert len(history.payments) == 6
    reader = Reader(history.channels)
    for past in history.payments:
        named = reader.references(past.payment)
        async with shop_.store.write() as connection:
            real = await payments.candidates(connection, named, {("shop", "holding")})
        ours = history.items.candidates(past, named, history.channels)
        answers = [
            decide(past.payment, named, items, history.channels, reader)
            for items in (ours, [real[id_] for id_ in sorted(real)])
        ]
        assert answers[0].reason == answers[1].reason
        assert [each.item.number for each in answers[0].candidates] == [
            each.item.number for each in answers[1].candidates
        ]


async def test_only_what_concerns_the_channel_is_looked_at_the_newest_first(shop_: Installation) -> None:
    for number, days in (("A1001", 3), ("A1002", 2), ("A1003", 1)):
        await take(shop_, number, placed_at=NOW - timedelta(days=days))
    await place(shop_.store, "B1", channel="outlet")
    ours = await receive(shop_.store, "E1", account=ACCOUNT, booked_on=date(2026, 5, 1))
    nobodys = await receive(shop_.store, "E2", account=None)
    await receive(shop_.store, "E3", account="CZ2199100000190000260222")

    def looked(history: History) -> tuple[list[str], list[int]]:
        return [one.order.number for one in history.orders], [one.payment.id for one in history.payments]

    assert looked(await read_history(shop_, shop_rules())) == (["A1003", "A1002", "A1001"], [nobodys, ours])
    assert looked(await read_history(shop_, shop_rules(), limit=1)) == (["A1003"], [nobodys])
    assert looked(await read_history(shop_, shop_rules(), since=date(2026, 5, 2))) == (["A1003", "A1002"], [nobodys])
    fresh = await preview_rules(shop_, parse_rules(document(channel="fresh")))
    assert (fresh.version, fresh.differences) == (None, ())


async def test_what_happened_to_orders_is_read_with_them(shop_: Installation) -> None:
    short, paid = await take(shop_, "A1001"), await take(shop_, "A1002", customer_number="8")
    gone = await take(shop_, "A1003")
    for hours, number, minor in ((1, "A1001", 40_000), (2, "A1002", 45_000)):
        told: dict[str, Any] = {"account": ACCOUNT, "text": number, "payer_name": "Jan Novák"}
        await matched(shop_, await receive(shop_.store, number, minor, **told), hours)
    await close(shop_, gone, 30)
    async with shop_.store.write() as connection:
        customer = await orders.customer_of(connection, paid)
        credit: dict[str, Any] = {"reason": "a present", "actor": WORKER, "now": NOW}
        await balances.add(connection, customer, Money(1_000, "EUR"), **credit)

    history = await read_history(shop_, shop_rules())

    of = {one.order.id: one for one in history.orders}
    assert (of[short].short, of[short].paid_at, of[short].taken_in) == (True, None, "awaiting_payment")
    assert (of[paid].short, of[paid].paid_at) == (False, NOW + timedelta(hours=2))
    assert of[paid].elsewhere_at == of[paid].paid_at
    assert of[gone].cancelled_at == NOW + timedelta(hours=30)
    assert [(move.amount.amount, move.tops_up, move.method) for move in history.moves[customer]] == [
        ("10.00", True, None)
    ]


# The steps' own answers

_STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        reserve_stock,
        issue_proforma,
        set_placed_status,
        set_status,
        issue_invoice,
        deduct_stock,
        start_dispatch,
        *(message.steps[0] for message in (notify_placed, notify_customer, notify_status, notify_dispatch)),
    )
}
_METHODS = {method.value: method for method in Method}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an installation that has goods for every order of these tests."""
    return tmp_path_factory.mktemp("stocked") / "shop"


@pytest.fixture
async def opened(stocked: Path) -> AsyncGenerator[Installation]:
    """Open that installation."""
    async with shop(stocked, clock=Clock()) as working:
        async with working.store.write() as connection:
            await stock.count(connection, "TEA-SEN-100", "Sencha", 100_000, now=working.clock())
        yield working


_SHOP = yaml.safe_load((DEPLOYMENTS / "rules" / "cz.yaml").read_text(encoding="utf-8"))


def _messages(*moments: Moment) -> st.SearchStrategy[list[dict[str, Any]]]:
    each = [st.sampled_from([None, "payment_received", "proforma"]) for _ in moments]
    return st.tuples(*each).map(
        lambda chosen: [
            {"template": template, "moment": moment.value}
            for moment, template in zip(moments, chosen, strict=True)
            if template
        ]
    )


_MOMENTS = (Moment.PLACED, Moment.PAID, Moment.STATUS, Moment.DISPATCH)


def _scenario(method: str) -> st.SearchStrategy[dict[str, Any]]:
    waits = [[], ["stock"]] if method == "cash_on_delivery" else [["payment"], ["invoice", "stock"]]
    return st.fixed_dictionaries(
        {
            "change_status": st.booleans(),
            "status": st.sampled_from(["paid", "k_expedici", "completed"]),
            "invoice": st.fixed_dictionaries(
                {"action": st.sampled_from(["issue", "ignore"]), "kind": st.sampled_from(["invoice", "proforma"])}
            ),
            "messages": _messages(*(moment for moment in _MOMENTS if moment in moments_of(Method(method)))),
            "stock": st.sampled_from(["deduct", "ignore"]),
            "dispatch": st.fixed_dictionaries({"start": st.booleans(), "waits_for": st.sampled_from(waits)}),
        }
    )


_placed = st.fixed_dictionaries(
    {
        "reserve_stock": st.booleans(),
        "proforma": st.booleans(),
        "status": st.sampled_from([None, "awaiting_payment", "processing"]),
        "deferral_days": st.sampled_from([0, 14]),
    }
)


def _document(method: str) -> st.SearchStrategy[dict[str, Any]]:
    def made(scenario: dict[str, Any], placed: dict[str, Any]) -> dict[str, Any]:
        return {**_SHOP, "groups": {}, "scenarios": {method: scenario}, "placed": {method: placed}}

    return st.builds(made, _scenario(method), _placed)


_pairs = st.sampled_from(sorted(_METHODS)).flatmap(
    lambda method: st.tuples(st.just(method), _document(method), _document(method))
)


async def _went(opened: Installation, number: str, method: str, rules_: dict[str, Any]) -> dict[str, object]:
    """Let an order go its whole way by some rules, and return what came of each decision."""
    async with opened.store.write() as connection:
        parsed = parse_rules(rules_).model_dump(mode="json", exclude_unset=True)
        await rules.save(connection, parsed, channel="cz", author="jana", reason="test", now=opened.clock())
    order_id = await buy(opened, number, method, variable_symbol=None)
    order = await order_of(opened, order_id)
    begins = {"card": "order_placed", "bank_transfer": "deferred" if order.due_on else "order_placed"}
    came = await _carry_on(opened, begins.get(method, "dispatch_unpaid"), Item(order_id, number, f"order:{order_id}"))
    found: dict[str, object] = {"status when placed": (await order_of(opened, order_id)).status}
    payment_id = await pay(opened, None, "378.00", method=method)
    told: dict[str, Any] = {"author": SHOPKEEPER.name, "because": "test", "customer": None, "channel": "cz"}
    await decide_by_hand(opened, payment_id, Decision.TO, to=[number], **told)
    paid = await _carry_on(opened, method, Item(order_id, number, f"payment:{payment_id}"))
    found["status after payment"] = (await order_of(opened, order_id)).status
    return found | {name: came.get(name) or paid.get(name) for name in (*came, *paid)}


async def _carry_on(opened: Installation, scenario: str, item: Item) -> dict[str, object]:
    found: dict[str, object] = {}
    names = {message_step(moment, "email"): f"e-mail {moment}" for moment in Moment}
    for name in STEPS[scenario]:
        if name not in _STEPS:
            continue
        (attempt,) = await _STEPS[name].carry_out(opened, Batch((item,)), owner="test")
        done = attempt.state is EffectState.DONE
        assert done or attempt.state is EffectState.SKIPPED, attempt.reason
        receipt = attempt.receipt
        came = receipt.reference if receipt and name in names else sorted(receipt.after) if receipt else None
        if name == "dispatch" and not done:
            came = "left" if "leave dispatch" in (attempt.reason or "") else "held up"
        found[names.get(name, name)] = came
    return found


@given(pair=_pairs)
@settings(max_examples=15)
async def test_a_difference_is_shown_exactly_where_the_steps_do_something_else(
    opened: Installation, pair: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    method, old, new = pair
    async with opened.store.read() as connection:
        count = len(await orders.listing(connection, channel="cz"))
    before = await _went(opened, f"CZ{1000 + count}", method, new)
    number = f"CZ{1001 + count}"
    after = await _went(opened, number, method, old)

    history = await read_history(opened, parse_rules(new), limit=20)
    history = replace(history, orders=[one for one in history.orders if one.order.number == number])
    found = compare(history, parse_rules(new))

    shown = {
        one.decision
        for one in found.differences
        if one.decision != "dispatch" or one.now.partition(" (")[0] != one.then.partition(" (")[0]
    }
    decisions = {*before, *after} - {"status", "placed status"}
    assert shown & decisions == {one for one in decisions if before.get(one) != after.get(one)}
