"""Bulk matching: over any world it answers as one payment at a time would, whatever the chunks."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_builders import rules

from domain.allocation import OpenItem
from domain.bulk_matching import ACCOUNT_COLUMNS, ITEM_COLUMNS, REFERENCE_COLUMNS, OpenItems, payment_frame
from domain.matching import Match, reconcile
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Kind, Method
from domain.references import compact, normal_number, payer_reference
from domain.rules import ChannelRules, EvidenceKind

ACCOUNTS = {"cz": "CZ5099100000190000260111", "sk": "CZ2199100000190000260222"}
CHANNELS = {
    "cz": rules(
        channel="cz",
        currency="CZK",
        accounts=[ACCOUNTS["cz"]],
        references={"order_number": "CZ[0-9]{4}", "invoice_number": "FV[0-9]{4}"},
        tolerance={"absolute": "1.00"},
        conversion={"rates": {"EUR": "25"}},
        groups={"g": {"outcomes": {"over": "operator"}}},
        customers={"3": {"tolerance": {"absolute": "100.00"}}},
    ),
    "sk": rules(
        channel="sk",
        currency="CZK",
        accounts=[ACCOUNTS["sk"], ACCOUNTS["cz"]],
        references={"order_number": "[0-9]{4}"},
        outcomes={"short": "operator", "duplicate": "balance"},
    ),
}
ONLY_CZ = {"cz": CHANNELS["cz"]}
NAMES = ["Jana Nováková", "Jan Novák", "Petr Dvořák", "Alfa s.r.o.", ""]
PAYERS = ["CZ6508000000192000145399", "CZ6508000000192000145400", "CZ6508000000192000145401", None]
CUSTOMERS = [None, "1", "2", "3"]
GROUPS = {"1": "g", "2": "g"}
AMOUNTS = [10000, 10050, 20000, 30000, 50000]

World = tuple[list[OpenItem], dict[str, set[tuple[str, str]]]]


def order(place: int, told: dict[str, Any]) -> OpenItem:
    channel, customer, name = told["channel"], told["customer"], told["name"]
    number = f"{'CZ' if channel == 'cz' else ''}{1000 + told['number']}"
    money = Money(told["amount"], told["currency"])
    called = {
        (EvidenceKind.ORDER_NUMBER, normal_number(number)),
        (EvidenceKind.END_TO_END_ID, compact(number)),
        (EvidenceKind.VARIABLE_SYMBOL, str(told["symbol"])),
    }
    if reference := payer_reference(name, money):
        called.add((EvidenceKind.PAYER_NAME, reference))
    return OpenItem(
        id=place * 3 + 7,
        order_id=place * 3 + 7,
        channel=channel,
        number=number,
        status=told["status"],
        amount=money,
        open=Money(told["amount"] * told["left"] // 2, told["currency"]),
        on_delivery=Money(told["on_delivery"], told["currency"]) if told.get("on_delivery") else None,
        references=frozenset(called),
        customer=customer,
        customer_name=name,
        group=GROUPS.get(customer),
        customer_number=customer,
    )


def by_who_paid(items: list[OpenItem], owners: dict[str, set[tuple[str, str]]]) -> list[OpenItem]:
    """Add to items the accounts that are known of their customers and of the companies of their groups."""
    found: list[OpenItem] = []
    for item in items:
        called = set(item.references)
        for account, whose in owners.items():
            (channel, customer), *more = whose
            groups = {each.group for each in items if (each.channel, each.customer) == (channel, customer)} - {None}
            if (
                more
                or channel != item.channel
                or not any((i.channel, i.customer) == (channel, customer) for i in items)
            ):
                continue
            if customer == item.customer:
                called.add((EvidenceKind.PAYER_ACCOUNT, account))
            elif item.group in groups:
                called.add((EvidenceKind.GROUP_ACCOUNT, account))
        found.append(replace(item, references=frozenset(called)))
    return found


def one_by_one(
    items: list[OpenItem], payments: list[IncomingPayment], channels: dict[str, ChannelRules] = CHANNELS
) -> list[Match]:
    """Answer as the flows do: what one payment settles is no longer open for the next."""
    left = {item.id: item for item in items}
    answers: list[Match] = []
    for payment in payments:
        answers.append(match := reconcile(payment, left.values(), channels))
        for part in match.parts:
            item = left[part.item.id]
            left[item.id] = item.relieved(part.amount.minor + part.write_off.minor, payment.method)
    return answers


def in_columns(
    items: list[OpenItem],
    owners: dict[str, set[tuple[str, str]]],
    channels: dict[str, ChannelRules] = CHANNELS,
) -> OpenItems:
    frame = pd.DataFrame(
        [
            (
                *(i.id, i.channel, i.number, i.status.value, i.amount.currency, i.amount.minor, i.open.minor),
                *(i.customer, i.customer_name, i.group),
                i.on_delivery.minor if i.on_delivery else 0,
            )
            for i in items
        ],
        columns=[*ITEM_COLUMNS, "on_delivery"],
        dtype=object,
    )
    called = [(item.id, kind.value, value) for item in items for kind, value in item.references]
    told = [(*whose, account) for account, customers in owners.items() for whose in customers]
    return OpenItems(
        frame,
        pd.DataFrame(called, columns=list(REFERENCE_COLUMNS), dtype=object),
        pd.DataFrame(told, columns=list(ACCOUNT_COLUMNS), dtype=object),
        channels,
    )


def in_bulk(
    items: list[OpenItem],
    owners: dict[str, set[tuple[str, str]]],
    payments: list[IncomingPayment],
    chunk: int,
    channels: dict[str, ChannelRules] = CHANNELS,
) -> list[Match]:
    open_items = in_columns(items, owners, channels)
    frame = payment_frame(payments)
    decided = [open_items.match(frame.iloc[begin : begin + chunk]) for begin in range(0, len(payments), chunk)]
    answers: list[Match] = []
    # An answer is of its time, however late it is asked for.
    for matched in decided:
        some = list(matched.answers())
        # The columns say the same as the answers.
        assert list(matched.outcomes) == [answer.outcome for answer in some]
        assert list(matched.allocations().itertuples(index=False, name=None)) == [
            (place, *part)
            for place, answer in enumerate(some)
            for part in sorted((part.item.id, part.amount.minor) for part in answer.parts)
        ]
        answers += some
    return answers


orders = st.fixed_dictionaries(
    {
        "channel": st.sampled_from(["cz", "cz", "sk", "closed-down"]),
        "customer": st.sampled_from(CUSTOMERS),
        "name": st.sampled_from(NAMES),
        "number": st.integers(1, 12),
        "symbol": st.integers(1, 12),
        "amount": st.sampled_from(AMOUNTS),
        "currency": st.sampled_from(["CZK", "CZK", "CZK", "EUR"]),
        "status": st.sampled_from([Status.AWAITING_PAYMENT] * 5 + [Status.CANCELLED, Status.PAID]),
        "left": st.sampled_from([0, 1, 2, 2, 2]),
        "on_delivery": st.sampled_from([0, 0, 0, 400, 5000]),
    }
)
known_accounts = st.dictionaries(
    st.sampled_from([account for account in PAYERS if account]),
    st.sets(st.tuples(st.sampled_from(["cz", "sk"]), st.sampled_from(["1", "2", "3"])), min_size=1, max_size=2),
)
texts = st.lists(
    st.sampled_from(
        [
            "CZ1001",
            "CZ 1002",
            "1003",
            "VS 4",
            "VS:5",
            "/VS6",
            "dekuji",
            "za caj 10.11.2026",
            "CZ1007 26",
            "c. 1001",
            "1004, 1005",
            "CZ1001, 1002",
        ]
    ),
    max_size=3,
).map(" ".join)


def payment(**told: Any) -> IncomingPayment:
    amount = Money(told.pop("amount"), told.pop("currency"))
    return IncomingPayment(
        source="bank",
        external_id="1",
        method=told.pop("method", Method.BANK_TRANSFER),
        amount=amount,
        booked_on=date(2026, 5, 4),
        **told,
    )


payments_made = st.lists(
    st.builds(
        payment,
        amount=st.sampled_from([*AMOUNTS, 5000, 15000, 40000, 60000, 0, -10000, 400, 410, 9600, 45000]),
        method=st.sampled_from([Method.BANK_TRANSFER] * 3 + [Method.CASH_ON_DELIVERY]),
        currency=st.sampled_from(["CZK", "CZK", "CZK", "EUR"]),
        account=st.sampled_from([*ACCOUNTS.values(), None, "CZ00NOBODYS"]),
        variable_symbol=st.one_of(
            st.sampled_from([None, "", "0", "x", " 0 1", "1-1", "１"]),
            *[st.integers(1, 12).map(lambda symbol: f"{symbol:010}")] * 3,
        ),
        end_to_end_id=st.sampled_from([None, None, "NOTPROVIDED", "CZ1001", "/VS3"]),
        # In most there is no number, and the columns alone must do.
        text=st.one_of(st.sampled_from([None, "", "dekuji"]), texts),
        payer_name=st.sampled_from([*NAMES, "NOVAKOVA JANA"]),
        payer_account=st.sampled_from([*PAYERS, None, None]),
        kind=st.sampled_from([Kind.PAYMENT] * 9 + [Kind.RETURN]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(orders, max_size=14),
    known_accounts,
    payments_made,
    st.sampled_from([1, 3, 100]),
    st.sampled_from([CHANNELS, ONLY_CZ]),
)
def test_in_bulk_the_answers_are_those_of_one_payment_at_a_time(
    told: list[dict[str, Any]],
    owners: dict[str, set[tuple[str, str]]],
    payments: list[IncomingPayment],
    chunk: int,
    channels: dict[str, ChannelRules],
) -> None:
    plain = [order(place, each) for place, each in enumerate(told)]
    expected = one_by_one(by_who_paid(plain, owners), payments, channels)
    found = in_bulk(plain, owners, payments, chunk, channels)
    assert [_said(each) for each in found] == [_said(each) for each in expected]


def _said(match: Match) -> tuple[Any, ...]:
    parts = [(part.item.id, part.amount, part.write_off, part.completes, part.taken) for part in match.parts]
    evidence = {candidate.item.id: candidate.evidence for candidate in match.candidates}
    return match.outcome, match.policy, match.reason, parts, match.surplus, evidence


def test_the_world_of_these_tests_reaches_the_columns_and_the_single_form() -> None:
    items = [order(place, told) for place, told in enumerate([PLAIN, {**PLAIN, "number": 2, "symbol": 2}])]
    out = Money(-10000, "CZK")
    by_columns = [
        replace(PAYMENT, variable_symbol="1", text="dekuji"),
        replace(PAYMENT, variable_symbol="1"),
        replace(PAYMENT, variable_symbol="7", end_to_end_id="NOTPROVIDED"),
        replace(PAYMENT, variable_symbol="1", amount=out),
        replace(PAYMENT, amount=out),
        replace(PAYMENT, kind=Kind.RETURN),
    ]
    short = replace(PAYMENT, variable_symbol="2", amount=Money(5000, "CZK"))
    matched = in_columns(items, {}).match(payment_frame([*by_columns, short]))
    said = [outcome.value for outcome in matched.outcomes]
    assert said == ["exact", "duplicate", "unknown", "refund", "outgoing", "returned", "short"]
    assert list(matched.matches) == [len(by_columns)]


def test_a_payment_that_may_take_of_the_same_customer_is_decided_before_those_that_come_after_it() -> None:
    of_one = {**PLAIN, "customer": "1"}
    items = [order(0, of_one), order(1, {**of_one, "number": 2, "symbol": 2, "amount": 30000})]
    for_both = replace(PAYMENT, variable_symbol="1", amount=Money(40000, "CZK"))
    for_second = replace(PAYMENT, variable_symbol="2", amount=Money(30000, "CZK"))
    for payments in ([for_both, for_second], [for_second, for_both]):
        found = in_bulk(items, {}, payments, 10)
        assert [_said(each) for each in found] == [_said(each) for each in one_by_one(items, payments)]
    assert [match.outcome.value for match in in_bulk(items, {}, [for_both, for_second], 10)] == ["exact", "duplicate"]
    assert [match.outcome.value for match in in_bulk(items, {}, [for_second, for_both], 10)] == ["exact", "over"]


def test_what_is_paid_in_two_ways_is_left_to_the_single_form_as_far_as_each_way_has_come() -> None:
    of_one = {**PLAIN, "customer": "1"}
    items = [order(0, of_one | {"on_delivery": 400}), order(1, {**of_one, "number": 2, "symbol": 2, "amount": 300})]

    def paid(minor: int, method: Method = Method.BANK_TRANSFER) -> IncomingPayment:
        return replace(PAYMENT, variable_symbol="1", amount=Money(minor, "CZK"), method=method)

    remitted = paid(400, Method.CASH_ON_DELIVERY)
    for payments, outcomes in (
        ([paid(9600), remitted, remitted], ["exact", "exact", "duplicate"]),
        ([paid(9600), paid(9600), remitted], ["exact", "duplicate", "exact"]),
        ([remitted, paid(9000), paid(600)], ["exact", "short", "exact"]),
        ([paid(10000), remitted, paid(10000)], ["exact", "duplicate", "duplicate"]),
        # With the customer's other order it comes to this sum.
        ([paid(9900), remitted], ["exact", "exact"]),
    ):
        for chunk in (1, 10):
            found = in_bulk(items, {}, payments, chunk)
            assert [match.outcome.value for match in found] == outcomes
            assert [_said(each) for each in found] == [_said(each) for each in one_by_one(items, payments)]


PLAIN: dict[str, Any] = {
    "channel": "cz",
    "customer": None,
    "name": "",
    "number": 1,
    "symbol": 1,
    "amount": 10000,
    "currency": "CZK",
    "status": Status.AWAITING_PAYMENT,
    "left": 2,
}
PAYMENT = IncomingPayment(
    source="bank",
    external_id="1",
    method=Method.BANK_TRANSFER,
    amount=Money(10000, "CZK"),
    booked_on=date(2026, 5, 4),
    account=ACCOUNTS["cz"],
)


@pytest.mark.parametrize("rules_", [CHANNELS, dict[str, ChannelRules]()])
def test_with_no_open_item_everything_is_unknown(rules_: dict[str, ChannelRules]) -> None:
    items, references, accounts = (
        pd.DataFrame(columns=list(columns)) for columns in (ITEM_COLUMNS, REFERENCE_COLUMNS, ACCOUNT_COLUMNS)
    )
    nothing = OpenItems(items, references, accounts, rules_)
    assert [answer.outcome.value for answer in nothing.match(payment_frame([PAYMENT])).answers()] == ["unknown"]


@pytest.mark.parametrize("text", ["zak. 1001", "1001", "FV-1001", "CZ1001", "CZ 1001, 1002", "2026-1001"])
@pytest.mark.parametrize("payer", ["Jana Nováková", "Petr Dvořák", None])
@pytest.mark.parametrize("channel", ["cz", "sk"])
def test_what_only_just_looks_like_a_number_counts_in_the_columns_as_it_does_alone(
    text: str, payer: str | None, channel: str
) -> None:
    items = [order(place, {**PLAIN, "channel": channel, "name": NAMES[0], "number": place + 1}) for place in range(2)]
    told = replace(PAYMENT, text=text, payer_name=payer, account=ACCOUNTS[channel])
    (alone,) = one_by_one(by_who_paid(items, {}), [told])
    (in_columns,) = in_bulk(items, {}, [told], 10)
    assert _said(in_columns) == _said(alone)


@pytest.mark.parametrize("text", ["CZ1001", "CZ1001, zak. 1002", "CZ1001 c. 1002 a 1002"])
def test_what_only_just_looks_like_a_number_keeps_no_order_of_the_named_one_s_customer_away(text: str) -> None:
    items = [
        order(0, {**PLAIN, "customer": "1", "name": NAMES[0]}),
        order(1, {**PLAIN, "customer": "2", "name": NAMES[2], "number": 2, "symbol": 2}),
        order(2, {**PLAIN, "customer": "1", "name": NAMES[0], "number": 3, "symbol": 3, "amount": 20000}),
    ]
    told = replace(PAYMENT, text=text, amount=Money(30000, "CZK"))
    (alone,) = one_by_one(by_who_paid(items, {}), [told], ONLY_CZ)
    (in_columns,) = in_bulk(items, {}, [told], 10, ONLY_CZ)
    assert _said(in_columns) == _said(alone)
    assert [part.item.number for part in alone.parts] == ["CZ1001", "CZ1003"]


def test_the_evidence_of_what_the_columns_decide_is_all_that_the_single_form_finds() -> None:
    of_one = {**PLAIN, "customer": "1"}
    items = [order(0, of_one), order(1, {**of_one, "number": 2, "symbol": 2, "amount": 30000})]
    owners = {"CZ6508000000192000145399": {("cz", "1")}}
    told = replace(PAYMENT, variable_symbol="1", payer_account="CZ6508000000192000145399")
    (alone,) = one_by_one(by_who_paid(items, owners), [told])
    (in_columns,) = in_bulk(items, owners, [told], 10)
    assert len(alone.candidates) == 2
    assert _said(in_columns) == _said(alone)
