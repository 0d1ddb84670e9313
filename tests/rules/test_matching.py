"""Matching: a payment settles an order only on unique evidence; what can be read in two ways is left to a person."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matching_builders import (
    CZ,
    CZ_ACCOUNT,
    INVOICE,
    KNOWN,
    NOBODYS,
    ORDER,
    PAYER,
    PAYER_NAME,
    SHOPS,
    SK,
    SK_ACCOUNT,
    SYMBOL,
    channel,
    czk,
    item,
    match,
    paid,
    settled,
    shops,
    shown,
)
from rules_builders import rules

from domain.allocation import OpenItem
from domain.matching import Reference, channels_of, references_of
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import IncomingPayment, Kind, Method, Outcome
from domain.references import compact
from domain.rules import ChannelRules, EvidenceKind, Policy, RulesError

# One order is named


def test_the_exact_amount_settles_the_order_that_is_named() -> None:
    found = match(paid(text="obj. CZ-1001"), item(), item("CZ1002"))
    assert (found.outcome, found.policy) == (Outcome.EXACT, Policy.RELEASE)
    assert settled(found) == [("CZ1001", "450.00")]
    assert found.parts[0].completes
    assert found.reason == "CZ1001 is named by the order number CZ1001, and the amount is exact"
    assert shown(found) == {"CZ1001": ["the order number CZ1001"]}


@pytest.mark.parametrize(
    ("told", "reference"),
    [
        ({"provider_reference": "pi_123"}, (EvidenceKind.PROVIDER_REFERENCE, "pi_123")),
        ({"rf": "RF18 5390 0754 7034"}, (EvidenceKind.RF, "RF18539007547034")),
        ({"text": "za caj RF18 5390 0754 7034 dekuji"}, (EvidenceKind.RF, "RF18539007547034")),
        ({"end_to_end_id": "X-77"}, (EvidenceKind.END_TO_END_ID, "X77")),
        ({"tracking_number": "dr 123 456"}, (EvidenceKind.TRACKING_NUMBER, "DR123456")),
        ({"variable_symbol": "0000001042"}, (SYMBOL, "1042")),
        ({"text": "/VS/1042"}, (SYMBOL, "1042")),
        ({"end_to_end_id": "/VS1042/SS/KS0308"}, (SYMBOL, "1042")),
        ({"text": "faktura FV 2026-00017"}, (INVOICE, "FV202600017")),
        ({"order_reference": "CZ-1001"}, (ORDER, "CZ1001")),
        ({"text": "cz 1001"}, (ORDER, "CZ1001")),
        ({"end_to_end_id": "CZ1001"}, (ORDER, "CZ1001")),
    ],
)
def test_every_kind_of_reference_finds_its_order(told: dict[str, str], reference: tuple[EvidenceKind, str]) -> None:
    named = replace(item("Z-1"), references=frozenset({reference}))
    found = match(paid(**told), named, item("CZ1002"))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("Z-1", "450.00")])


@pytest.mark.parametrize(
    ("amount", "outcome", "allocated", "write_off", "surplus"),
    [
        ("449.00", Outcome.WITHIN_TOLERANCE, "449.00", "1.00", "0.00"),
        ("449.99", Outcome.WITHIN_TOLERANCE, "449.99", "0.01", "0.00"),
        ("451.00", Outcome.WITHIN_TOLERANCE, "451.00", "-1.00", "0.00"),
        ("448.99", Outcome.SHORT, "448.99", "0.00", "0.00"),
        ("451.01", Outcome.OVER, "450.00", "0.00", "1.01"),
        ("0.01", Outcome.SHORT, "0.01", "0.00", "0.00"),
    ],
    ids=["short at the limit", "short", "over at the limit", "just over the limit, short", "just over, over", "a cent"],
)
def test_tolerance_works_both_ways_and_ends_at_its_limit(
    amount: str, outcome: Outcome, allocated: str, write_off: str, surplus: str
) -> None:
    found = match(paid(amount, "CZ1001"), item())
    assert found.outcome is outcome
    (part,) = found.parts
    assert (part.amount, part.write_off, found.surplus) == (czk(allocated), czk(write_off), czk(surplus))
    assert part.completes == (outcome is not Outcome.SHORT)


def test_a_short_payment_waits_and_the_next_one_completes_it() -> None:
    order = item(of="450.00")
    first = match(paid("200.00", "CZ1001"), order)
    assert (first.outcome, first.policy) == (Outcome.SHORT, Policy.WAIT)
    assert first.reason.endswith("250.00 CZK is still missing")
    rest = replace(order, open=order.open - first.parts[0].amount)
    second = match(paid("250.00", "CZ1001"), rest)
    assert (second.outcome, settled(second)) == (Outcome.EXACT, [("CZ1001", "250.00")])


@pytest.mark.parametrize(
    ("outcome", "amount"),
    [(Outcome.SHORT, "200.00"), (Outcome.OVER, "500.00"), (Outcome.WITHIN_TOLERANCE, "449.50")],
)
def test_what_the_channel_leaves_to_the_operator_is_not_allocated(outcome: Outcome, amount: str) -> None:
    careful = channel(tolerance={"absolute": "1.00"}, outcomes={outcome.value: "operator"})
    found = match(paid(amount, "CZ1001"), item(), within=shops(careful))
    assert (found.outcome, found.policy) == (outcome, Policy.OPERATOR)
    assert (found.parts, found.surplus) == ((), czk("0.00"))
    assert shown(found) == {"CZ1001": ["the order number CZ1001"]}


@pytest.mark.parametrize(
    ("method", "policy", "parts"),
    [(Method.CASH_ON_DELIVERY, Policy.OPERATOR, 0), (Method.BANK_TRANSFER, Policy.WAIT, 1)],
)
def test_what_a_carrier_pays_out_too_little_of_can_be_left_to_a_person_alone(
    method: Method, policy: Policy, parts: int
) -> None:
    careful = channel(outcomes={"short_on_delivery": "operator"})
    found = match(replace(paid("200.00", "CZ1001"), method=method), item(), within=shops(careful))
    assert (found.outcome, found.policy, len(found.parts)) == (Outcome.SHORT, policy, parts)


def test_another_currency_never_settles_an_order() -> None:
    found = match(paid("450.00", "CZ1001", currency="EUR"), item())
    assert (found.outcome, found.policy, found.parts) == (Outcome.WRONG_CURRENCY, Policy.OPERATOR, ())
    assert found.reason == "CZ1001 is named by the order number CZ1001, but is to be paid in CZK"


@pytest.mark.parametrize("status", sorted(CLOSED))
@pytest.mark.parametrize("open_", ["450.00", "0.00"], ids=["unpaid", "paid"])
def test_money_for_a_closed_order_is_late_whether_it_was_paid_or_not(status: Status, open_: str) -> None:
    found = match(paid("450.00", "CZ1001"), item(open_=open_, of="450.00", status=status))
    assert (found.outcome, found.policy, found.parts) == (Outcome.LATE, Policy.OPERATOR, ())
    assert found.reason.endswith(f"but is {status}")


@pytest.mark.parametrize("open_", ["0.00", "-10.00"])
@pytest.mark.parametrize("amount", ["450.00", "1.00"])
def test_money_for_an_order_that_is_already_paid_is_a_duplicate(open_: str, amount: str) -> None:
    found = match(paid(amount, "CZ1001"), item(open_=open_, of="450.00", status=Status.DISPATCHED))
    assert (found.outcome, found.policy, found.parts) == (Outcome.DUPLICATE, Policy.OPERATOR, ())
    assert found.reason.endswith("but is already paid")


def test_an_order_that_was_sent_before_it_is_paid_still_waits_for_its_money() -> None:
    found = match(paid(order_reference="CZ1001"), item(status=Status.DELIVERED))
    assert found.outcome is Outcome.EXACT


# Nothing is named


def test_a_payment_that_names_nothing_known_is_unknown() -> None:
    found = match(paid(text="CZ1009"), item(), within=SHOPS)
    assert (found.outcome, found.policy, found.parts) == (Outcome.UNKNOWN, Policy.OPERATOR, ())
    assert found.reason == "no reference in the payment names an order that is known"


def test_amount_and_day_alone_prove_nothing() -> None:
    found = match(paid("450.00", "za caj"), item())
    assert (found.outcome, found.candidates) == (Outcome.UNKNOWN, ())


def test_money_that_went_out_and_names_an_order_is_a_refund_and_settles_nothing() -> None:
    found = match(paid("-450.00", "CZ1001 a CZ1002"), item(), item("CZ1002"))
    assert (found.outcome, found.policy, found.parts) == (Outcome.REFUND, Policy.OPERATOR, ())
    assert found.reason == "money went out that names CZ1001 and CZ1002"


@pytest.mark.parametrize("text", ["poplatek", None])
def test_money_that_went_out_and_names_no_order_is_nobodys_business(text: str | None) -> None:
    found = match(paid("-450.00", text), item(known=True))
    assert (found.outcome, found.policy, found.parts) == (Outcome.OUTGOING, Policy.IGNORE, ())


def test_nothing_is_settled_by_no_money() -> None:
    lenient = channel(tolerance={"absolute": "1.00"})
    found = match(paid("0.00", "CZ1001"), item(open_="0.50"), within=shops(lenient))
    assert (found.outcome, found.parts) == (Outcome.UNKNOWN, ())


# The payer's account


def test_a_known_account_settles_the_one_open_order_of_exactly_this_amount() -> None:
    found = match(paid("450.00", "za caj"), item(known=True), item("CZ1002", "300.00", known=True))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])
    assert "the payer's account is known" in found.reason
    assert shown(found)["CZ1001"] == ["the payer's known account"]


def test_two_open_orders_of_this_amount_are_a_question_with_both_shown() -> None:
    found = match(paid("450.00"), item(known=True), item("CZ1002", known=True))
    assert (found.outcome, found.policy, found.parts) == (Outcome.AMBIGUOUS, Policy.OPERATOR, ())
    assert set(shown(found)) == {"CZ1001", "CZ1002"}


@pytest.mark.parametrize("amount", ["449.99", "450.01", "449.00", "100.00", "749.00"])
def test_a_known_account_with_any_other_amount_settles_nothing(amount: str) -> None:
    found = match(paid(amount), item(known=True), item("CZ1002", "300.00", known=True))
    assert (found.outcome, found.parts) == (Outcome.UNKNOWN, ())
    assert set(shown(found)) == {"CZ1001", "CZ1002"}


@pytest.mark.parametrize(
    "other",
    [
        {"status": Status.CANCELLED},
        {"open_": "0.00", "of": "450.00"},
        {"currency": "EUR"},
    ],
    ids=["cancelled", "paid", "another currency"],
)
def test_a_known_account_counts_only_for_what_is_open(other: dict[str, Any]) -> None:
    assert match(paid(), item(known=True, **other)).outcome is Outcome.UNKNOWN
    assert settled(match(paid(), item("CZ1002", known=True, **other), item(known=True))) == [("CZ1001", "450.00")]


@pytest.mark.parametrize(
    "told",
    [
        {"text": "CZ1009"},
        {"text": "FV202600099"},
        {"text": "RF18539007547034"},
        {"variable_symbol": "1009"},
        {"variable_symbol": "1009", "account": NOBODYS},
        {"text": "VS 1009"},
        {"order_reference": "1009"},
        {"tracking_number": "DR1"},
    ],
    ids=lambda told: " ".join(map(str, told.values())),
)
def test_a_payment_that_names_something_else_is_not_settled_by_its_account(told: dict[str, str]) -> None:
    """The order that it names may only not have come yet."""
    found = match(paid(**told), item(known=True))
    assert (found.outcome, found.parts) == (Outcome.UNKNOWN, ())


def test_the_bank_s_own_ids_do_not_keep_an_account_from_counting() -> None:
    told = {"end_to_end_id": "NOTPROVIDED", "provider_reference": "FT26/1"}
    assert match(paid(**told), item(known=True)).outcome is Outcome.EXACT
    assert match(paid(end_to_end_id="2026050412345678"), item(known=True)).outcome is Outcome.EXACT


def test_an_account_confirms_a_reference_and_takes_nothing_from_it() -> None:
    found = match(paid("200.00", "CZ1002"), item("CZ1001", "200.00", known=True), item("CZ1002", known=True))
    assert (found.outcome, settled(found)) == (Outcome.SHORT, [("CZ1002", "200.00")])
    assert shown(found)["CZ1002"] == ["the order number CZ1002", "the payer's known account"]


# Variable symbols are scoped to the account


def test_a_variable_symbol_counts_only_in_the_channel_that_owns_the_account() -> None:
    own, others = item(symbol="1042"), item("SK1001", channel="sk", symbol="1042")
    assert settled(match(paid(variable_symbol="1042"), own, others)) == [("CZ1001", "450.00")]
    assert settled(match(paid(variable_symbol="1042", account=SK_ACCOUNT), own, others)) == [("SK1001", "450.00")]


@pytest.mark.parametrize("told", [{"variable_symbol": "1042"}, {"text": "/VS1042"}])
@pytest.mark.parametrize("account", [NOBODYS, None, ""])
def test_on_an_unknown_account_a_variable_symbol_is_no_evidence(told: dict[str, str], account: str | None) -> None:
    found = match(paid(**told, account=account), item(symbol="1042"))
    assert (found.outcome, found.candidates) == (Outcome.UNKNOWN, ())


def test_a_symbol_that_two_channels_use_on_one_account_is_a_question() -> None:
    shared = shops(CZ, channel("sk", CZ_ACCOUNT, "SK[0-9]{4}"))
    found = match(
        paid(variable_symbol="1042"), item(symbol="1042"), item("SK1001", channel="sk", symbol="1042"), within=shared
    )
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_the_receiving_account_may_be_written_with_spaces_and_padding() -> None:
    own = channel(account="000019-2000145399/0800")
    for account in ("19-2000145399/0800", "19-2000145399 / 0800", "000019-2000145399/0800"):
        assert channels_of(paid(account=account), shops(own, SK)) == (own,)
    assert channels_of(paid(account="cz50 9910 0000 1900 0026 0111"), SHOPS) == (CZ,)


def test_free_text_is_searched_by_the_patterns_of_the_account_s_channel_or_of_all_when_nobody_owns_it() -> None:
    czech, slovak = item(), item("SK1001", channel="sk")
    assert match(paid(text="SK1001"), czech, slovak).outcome is Outcome.UNKNOWN
    assert settled(match(paid(text="SK1001", account=NOBODYS), czech, slovak)) == [("SK1001", "450.00")]


def test_an_end_to_end_id_counts_only_in_the_channels_of_the_account() -> None:
    """The payer's own bookkeeping numbers its payments too."""
    slovak = item("77", channel="sk")
    assert match(paid(end_to_end_id="77"), slovak).outcome is Outcome.UNKNOWN
    assert match(paid(end_to_end_id="77", account=SK_ACCOUNT), slovak).outcome is Outcome.EXACT


# Conflicting evidence


def conflicting() -> list[OpenItem]:
    return [item("CZ1001", "450.00", symbol="1001"), item("CZ1002", "300.00", symbol="1002")]


def test_where_references_disagree_the_strongest_counts_if_the_amount_is_exactly_its() -> None:
    found = match(paid("450.00", "CZ1002", variable_symbol="1001"), *conflicting())
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])
    assert shown(found) == {"CZ1001": ["the variable symbol 1001"], "CZ1002": ["the order number CZ1002"]}
    assert found.reason.endswith("; CZ1002 is named too")


@pytest.mark.parametrize("amount", ["300.00", "449.50", "450.50", "200.00", "1000.00"])
def test_where_references_disagree_any_other_amount_is_a_question(amount: str) -> None:
    found = match(paid(amount, "CZ1002", variable_symbol="1001"), *conflicting())
    assert (found.outcome, found.policy, found.parts) == (Outcome.AMBIGUOUS, Policy.OPERATOR, ())
    assert found.reason == (
        "it could be for CZ1001 (450.00 CZK open) or CZ1002 (300.00 CZK open), and the amount does not decide"
    )


def test_the_priority_of_the_channel_decides_which_evidence_is_the_strongest() -> None:
    both = [item("CZ1001", symbol="1001"), item("CZ1002", symbol="1002")]
    payment = paid("450.00", "CZ1002", variable_symbol="1001")
    for first, number in ((SYMBOL, "CZ1001"), (ORDER, "CZ1002")):
        own = shops(channel(references={"priority": [first.value]}))
        assert settled(match(payment, *both, within=own)) == [(number, "450.00")]


def test_the_same_kind_of_evidence_for_two_orders_is_a_question_even_if_the_amount_fits_one() -> None:
    found = match(paid("450.00", "CZ1001 nebo CZ1002"), item(), item("CZ1002", "300.00"))
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_two_variable_symbols_that_disagree_are_a_question() -> None:
    found = match(paid("450.00", "VS 1002", variable_symbol="1001"), *conflicting())
    assert found.outcome is Outcome.AMBIGUOUS


def test_evidence_of_two_channels_has_no_common_priority() -> None:
    czech, slovak = item(symbol="1001"), item("SK1001", channel="sk")
    found = match(paid(variable_symbol="1001", order_reference="SK1001"), czech, slovak)
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_a_number_that_two_channels_have_is_a_question() -> None:
    same = [item("1042", "450.00"), item("1042", "300.00", channel="sk")]
    for amount in ("450.00", "300.00", "100.00"):
        found = match(paid(amount, order_reference="1042", account=NOBODYS), *same)
        assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ()), amount


def test_one_number_of_two_orders_means_either_and_never_both() -> None:
    same = [item("1042", "450.00"), item("1042", "300.00", channel="sk")]
    found = match(paid("750.00", order_reference="1042", account=NOBODYS), *same)
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


# Goods are paid before, and the delivery when it comes


@pytest.mark.parametrize(
    ("method", "amount", "left", "collected", "outcome", "given", "completes"),
    [
        (Method.CARD, "400.00", "450.00", None, Outcome.EXACT, "400.00", True),
        (Method.BANK_TRANSFER, "400.00", "450.00", None, Outcome.EXACT, "400.00", True),
        (Method.CARD, "450.00", "450.00", None, Outcome.EXACT, "450.00", True),
        (Method.CARD, "300.00", "450.00", None, Outcome.SHORT, "300.00", False),
        (Method.CARD, "420.00", "450.00", None, Outcome.OVER, "400.00", True),
        (Method.CARD, "400.00", "50.00", None, Outcome.DUPLICATE, None, None),
        (Method.CARD, "50.00", "50.00", None, Outcome.EXACT, "50.00", True),
        (Method.CASH_ON_DELIVERY, "50.00", "50.00", None, Outcome.EXACT, "50.00", True),
        (Method.CASH_ON_DELIVERY, "30.00", "50.00", None, Outcome.SHORT, "30.00", False),
        (Method.CASH_ON_DELIVERY, "50.00", "450.00", None, Outcome.EXACT, "50.00", False),
        (Method.CASH_ON_DELIVERY, "450.00", "450.00", None, Outcome.EXACT, "450.00", True),
        (Method.CASH_ON_DELIVERY, "50.00", "400.00", "50.00", Outcome.DUPLICATE, None, None),
        (Method.CARD, "300.00", "400.00", "50.00", Outcome.SHORT, "300.00", False),
        (Method.CASH_ON_DELIVERY, "50.00", "0.00", "50.00", Outcome.DUPLICATE, None, None),
    ],
)
def test_a_payment_settles_its_own_part_of_an_order(
    method: Method,
    amount: str,
    left: str,
    collected: str | None,
    outcome: Outcome,
    given: str | None,
    completes: bool | None,
) -> None:
    of = replace(
        item(open_=left, of="450.00"),
        on_delivery=czk("50.00"),
        collected=czk(collected) if collected else None,
    )
    found = match(replace(paid(amount, "CZ1001", payer_name=None, order_reference="CZ1001"), method=method), of)
    assert found.outcome is outcome
    assert [(part.amount.amount, part.completes) for part in found.parts] == ([(given, completes)] if given else [])


def test_the_reason_says_which_part_of_an_order_is_paid() -> None:
    of = replace(item(), on_delivery=czk("50.00"))
    goods = match(paid("400.00", "CZ1001"), of)
    assert goods.reason == "CZ1001 is named by the order number CZ1001, and the amount is exact for the goods"
    again = match(paid("400.00", "CZ1001"), of.relieved(40000, Method.CARD))
    assert again.reason.endswith(", but is already paid but for its delivery")
    remitted = replace(paid("50.00", "CZ1001"), method=Method.CASH_ON_DELIVERY)
    assert match(remitted, of).reason.endswith("and the amount is exact for the delivery")
    early = of.relieved(5000, Method.CASH_ON_DELIVERY)
    assert match(remitted, early).reason.endswith("but has its delivery paid already")


# Several orders are named


def test_several_named_orders_are_settled_when_the_sum_is_exact() -> None:
    found = match(paid("950.00", "CZ1001, CZ1002 a CZ1003"), item(), item("CZ1002", "300.00"), item("CZ1003", "200.00"))
    assert (found.outcome, found.policy) == (Outcome.EXACT, Policy.RELEASE)
    assert settled(found) == [("CZ1001", "450.00"), ("CZ1002", "300.00"), ("CZ1003", "200.00")]
    assert all(part.completes for part in found.parts)
    assert found.reason == "CZ1001, CZ1002 and CZ1003 are named, and what is open of them comes to exactly 950.00 CZK"


@pytest.mark.parametrize("amount", ["949.99", "950.01", "949.50", "750.00", "500.00"])
def test_several_named_orders_with_any_other_sum_are_a_question(amount: str) -> None:
    found = match(paid(amount, "CZ1001, CZ1002 a CZ1003"), item(), item("CZ1002", "300.00"), item("CZ1003", "200.00"))
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_of_several_named_orders_one_that_is_already_paid_takes_no_part_in_the_sum() -> None:
    items = [item(open_="0.00", of="450.00"), item("CZ1002", "300.00"), item("CZ1003", "200.00")]
    found = match(paid("500.00", "CZ1001, CZ1002, CZ1003"), *items)
    assert settled(found) == [("CZ1002", "300.00"), ("CZ1003", "200.00")]
    assert match(paid("950.00", "CZ1001, CZ1002, CZ1003"), *items).outcome is Outcome.AMBIGUOUS


def test_of_two_named_orders_the_one_still_open_is_settled_by_exactly_its_amount() -> None:
    items = [item(open_="0.00", of="450.00"), item("CZ1002", "300.00")]
    assert settled(match(paid("300.00", "CZ1001 CZ1002"), *items)) == [("CZ1002", "300.00")]
    for amount in ("450.00", "299.50", "100.00", "750.00"):
        assert match(paid(amount, "CZ1001 CZ1002"), *items).outcome is Outcome.AMBIGUOUS, amount


def test_an_order_paid_and_another_cancelled_are_a_question() -> None:
    items = [item(open_="0.00", of="450.00"), item("CZ1002", status=Status.CANCELLED)]
    found = match(paid("450.00", "CZ1001 CZ1002"), *items)
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())
    assert "CZ1001 (already paid) or CZ1002 (cancelled)" in found.reason


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({"open_": "0.00", "of": "450.00"}, Outcome.DUPLICATE),
        ({"status": Status.CANCELLED}, Outcome.LATE),
        ({"currency": "EUR"}, Outcome.WRONG_CURRENCY),
    ],
)
def test_several_orders_that_all_stand_alike_say_so(state: dict[str, Any], outcome: Outcome) -> None:
    found = match(paid("900.00", "CZ1001 CZ1002"), item(**state), item("CZ1002", **state))
    assert (found.outcome, found.policy, found.parts) == (outcome, Policy.OPERATOR, ())


def test_the_strongest_is_already_paid_and_the_other_fits_is_still_a_question() -> None:
    items = [item(open_="0.00", of="450.00", symbol="1001"), item("CZ1002", "300.00")]
    found = match(paid("300.00", "CZ1002", variable_symbol="1001"), *items)
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_sums_are_never_taken_over_two_currencies() -> None:
    found = match(paid("750.00", "CZ1001 CZ1002"), item(), item("CZ1002", "300.00", currency="EUR"))
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())


def test_a_known_account_settles_the_one_set_of_its_open_orders_that_comes_to_the_amount() -> None:
    found = match(paid("750.00"), item(known=True), item("CZ1002", "300.00", known=True), item("CZ1003", known=True))
    assert found.outcome is Outcome.AMBIGUOUS
    found = match(paid("750.00"), item(known=True), item("CZ1002", "300.00", known=True), item("CZ1003"))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00"), ("CZ1002", "300.00")])
    assert "only CZ1001 and CZ1002 together have exactly this amount open" in found.reason


def test_the_known_account_of_both_orders_does_not_keep_their_sum_from_being_exact() -> None:
    found = match(paid("750.00", "CZ1001 CZ1002"), item(known=True), item("CZ1002", "300.00", known=True))
    assert (found.outcome, len(found.parts)) == (Outcome.EXACT, 2)


# A text that can be read in two ways


def test_a_doubtful_reading_counts_with_the_right_amount_only() -> None:
    order = item(symbol="1042")
    assert settled(match(paid("450.00", "VS 1042 26"), order)) == [("CZ1001", "450.00")]
    assert match(paid("449.50", "VS 1042 26"), order).outcome is Outcome.WITHIN_TOLERANCE
    for amount in ("200.00", "500.00"):
        found = match(paid(amount, "VS 1042 26"), order)
        assert (found.outcome, found.policy, found.parts) == (Outcome.AMBIGUOUS, Policy.OPERATOR, ())
        assert "the variable symbol 1042, if the text is read so" in found.reason


def test_a_second_reference_or_a_known_account_makes_a_doubtful_reading_sure() -> None:
    for payment, order in (
        (paid("200.00", "VS 1042 26", variable_symbol="1042"), item(symbol="1042")),
        (paid("200.00", "VS 1042 26"), item(symbol="1042", known=True)),
    ):
        assert match(payment, order).outcome is Outcome.SHORT


def test_a_sure_reference_is_stronger_than_a_doubtful_one_of_a_stronger_kind() -> None:
    items = [item("CZ1001", "450.00", symbol="1042"), item("CZ1002", "300.00")]
    assert settled(match(paid("300.00", "VS 1042 26, CZ1002"), *items)) == [("CZ1002", "300.00")]
    assert match(paid("450.00", "VS 1042 26, CZ1002"), *items).outcome is Outcome.AMBIGUOUS


def test_a_field_for_the_number_is_sure_whatever_the_patterns_say_of_it() -> None:
    found = match(paid("200.00", order_reference="CZ42"), item("CZ0042"))
    assert (found.outcome, settled(found)) == (Outcome.SHORT, [("CZ0042", "200.00")])


def test_two_readings_that_both_exist_are_never_summed_up() -> None:
    items = [item(symbol="1042"), item("CZ1002", "300.00", symbol="104226")]
    for amount in ("750.00", "200.00", "450.00"):
        assert match(paid(amount, "VS 1042 26"), *items).outcome is Outcome.AMBIGUOUS


def test_a_number_that_a_line_break_cuts_pays_its_order_and_not_the_shorter_one() -> None:
    own = shops(channel(pattern="[0-9]{2,4}"))
    short, whole = item("10", "99.00"), item("1042", "450.00")
    line = "uhrada objednavky za caj, cislo: 10"
    assert len(line) == 35
    assert settled(match(paid("450.00", f"{line}\n42"), whole, within=own)) == [("1042", "450.00")]
    for amount in ("450.00", "99.00", "200.00", "549.00"):
        assert match(paid(amount, f"{line}\n42"), short, whole, within=own).outcome is Outcome.AMBIGUOUS, amount
    assert match(paid("450.00", f"{line}\n42"), short, within=own).outcome is Outcome.AMBIGUOUS


# Known failure modes


def test_mode_a_digit_hit_inside_a_longer_number_joins_no_order() -> None:
    own = shops(channel(pattern="[0-9]{2,4}"))
    for text in ("faktura 20121", "v roce 2012-05-04", "tel. 602 12 12 12", "12,50", "uctenka A12"):
        assert match(paid(text=text), item("12", symbol="12"), within=own).outcome is Outcome.UNKNOWN, text


def test_mode_an_empty_reference_matches_nothing() -> None:
    blank = replace(item(), references=frozenset({(kind, "") for kind in EvidenceKind}))
    empty = dict.fromkeys(("variable_symbol", "rf", "end_to_end_id", "order_reference", "tracking_number"), "")
    found = match(paid(**empty, provider_reference="", payer_account="", text=""), blank)
    assert (found.outcome, found.candidates) == (Outcome.UNKNOWN, ())


@pytest.mark.parametrize("word", ["NOTPROVIDED", "NOT PROVIDED", "notprovided.", "NONREF"])
def test_mode_the_bank_s_word_for_no_reference_is_none(word: str) -> None:
    same = replace(item(), references=frozenset({(EvidenceKind.END_TO_END_ID, compact(word))}))
    assert match(paid(end_to_end_id=word), same).outcome is Outcome.UNKNOWN


def test_mode_a_reference_hit_does_not_bypass_the_amount() -> None:
    found = match(paid("1.00", "CZ1001"), item())
    assert found.outcome is Outcome.SHORT
    assert not found.parts[0].completes


def test_mode_an_overpayment_does_not_skip_the_tolerance() -> None:
    found = match(paid("452.00", "CZ1001"), item())
    assert (found.outcome, found.surplus) == (Outcome.OVER, czk("2.00"))


def test_mode_of_two_orders_with_the_same_amount_and_day_the_first_is_not_taken() -> None:
    assert match(paid("450.00"), item(), item("CZ1002")).outcome is Outcome.UNKNOWN
    assert match(paid("450.00"), item(known=True), item("CZ1002", known=True)).outcome is Outcome.AMBIGUOUS


def test_mode_an_item_that_was_used_is_not_a_candidate_for_the_next_payment() -> None:
    order = item()
    first = match(paid("450.00", "CZ1001"), order)
    used = replace(order, open=order.open - first.parts[0].amount)
    second = match(paid("450.00", "CZ1001"), used)
    assert (second.outcome, second.parts) == (Outcome.DUPLICATE, ())


def test_mode_no_more_is_allocated_than_came_or_than_is_open() -> None:
    assert settled(match(paid("100.00", "CZ1001"), item())) == [("CZ1001", "100.00")]
    assert settled(match(paid("900.00", "CZ1001"), item())) == [("CZ1001", "450.00")]


def test_mode_the_same_item_given_twice_is_settled_once() -> None:
    order, other = item(), item("CZ1002", "300.00")
    assert settled(match(paid("750.00", "CZ1001 CZ1002"), order, other, order)) == [
        ("CZ1001", "450.00"),
        ("CZ1002", "300.00"),
    ]
    assert match(paid("900.00", "CZ1001"), order, order).outcome is Outcome.OVER


@pytest.mark.parametrize("written", ["0000001042", "1042", "000000000000001042"])
def test_mode_leading_zeros_added_or_cut_name_the_same_order(written: str) -> None:
    assert match(paid(variable_symbol=written), item(symbol="1042")).outcome is Outcome.EXACT
    assert match(paid(text=f"VS{written}"), item(symbol="1042")).outcome is Outcome.EXACT


@pytest.mark.parametrize("text", ["CZ0042", "CZ42", "CZ000042", "cz-42"])
def test_mode_zeros_of_an_order_number_added_or_cut_name_the_same_order(text: str) -> None:
    assert match(paid(text=text), item("CZ0042")).outcome is Outcome.EXACT


def test_mode_a_symbol_with_a_dash_is_the_number_without_it() -> None:
    for told in ({"variable_symbol": "10-42"}, {"text": "VS 10-42"}):
        assert match(paid(**told), item(symbol="1042")).outcome is Outcome.EXACT


def test_mode_an_iban_with_spaces_is_the_same_account() -> None:
    spaced = paid(payer_account="CZ65 0800 0000 1920 0014 5399")
    assert match(spaced, item(known=True)).outcome is Outcome.EXACT


def test_mode_an_account_without_its_bank_s_code_is_nobody_s() -> None:
    for account in ("2000145399", "19-2000145399"):
        known = replace(item(), references=frozenset({(KNOWN, account)}))
        assert match(paid(payer_account=account), known).outcome is Outcome.UNKNOWN
    known = replace(item(), references=frozenset({(KNOWN, "19-2000145399/0800")}))
    assert match(paid(payer_account="000019-2000145399/0800"), known).outcome is Outcome.EXACT


@pytest.mark.parametrize("text", ["/VS123", "/VS123/SS/KS0308", "/VS/123/SS//KS/0308"])
def test_mode_a_slovak_symbol_stands_only_in_the_message(text: str) -> None:
    assert match(paid(text=text), item(symbol="123")).outcome is Outcome.EXACT
    assert match(paid(end_to_end_id=text), item(symbol="123")).outcome is Outcome.EXACT


def test_mode_a_symbol_used_again_closes_neither_order_unless_one_is_left_open() -> None:
    first, second = item(symbol="77"), item("CZ1002", symbol="77")
    found = match(paid(variable_symbol="77"), first, second)
    assert (found.outcome, found.parts) == (Outcome.AMBIGUOUS, ())
    assert match(paid("900.00", variable_symbol="77"), first, second).outcome is Outcome.AMBIGUOUS
    done = replace(first, open=czk("0.00"))
    assert settled(match(paid(variable_symbol="77"), done, second)) == [("CZ1002", "450.00")]
    assert match(paid("200.00", variable_symbol="77"), done, second).outcome is Outcome.AMBIGUOUS


def test_mode_a_rounding_difference_is_not_a_part_payment() -> None:
    found = match(paid("450.00", "CZ1001"), item(open_="450.40"))
    assert (found.outcome, found.parts[0].completes) == (Outcome.WITHIN_TOLERANCE, True)


def test_mode_a_difference_of_conversion_is_let_pass_in_per_cent() -> None:
    own = shops(channel(tolerance={"percent": "1"}))
    assert match(paid("991.84", "CZ1001"), item(open_="1000.00"), within=own).outcome is Outcome.WITHIN_TOLERANCE
    assert match(paid("989.99", "CZ1001"), item(open_="1000.00"), within=own).outcome is Outcome.SHORT


def test_mode_currencies_are_never_mixed() -> None:
    found = match(paid("450.00", currency="EUR"), item(known=True))
    assert found.outcome is Outcome.UNKNOWN


def test_mode_two_equal_real_payments_are_both_kept() -> None:
    order = item(open_="900.00")
    half = match(paid("450.00", "CZ1001"), order)
    rest = replace(order, open=order.open - half.parts[0].amount)
    assert (half.outcome, match(paid("450.00", "CZ1001"), rest).outcome) == (Outcome.SHORT, Outcome.EXACT)


def test_mode_a_lump_payout_with_the_gateway_s_own_symbol_settles_nothing() -> None:
    payout = paid("98000.00", "payout 2026-05-04", variable_symbol="900000001", payer_account="CZ00/GATEWAY")
    assert match(payout, item(symbol="1001"), item("CZ1002", symbol="1002")).outcome is Outcome.UNKNOWN


def test_mode_one_odd_item_does_not_break_the_others() -> None:
    strange = item("CZ1002", channel="closed-down", known=True)
    assert match(paid(text="CZ1001"), strange, item()).outcome is Outcome.EXACT
    assert match(paid(order_reference="CZ1002"), strange).outcome is Outcome.UNKNOWN


# Every outcome


def test_every_outcome_that_reconciliation_can_reach_is_reached() -> None:
    order = item(known=True)
    reached = {
        match(paid("450.00", "CZ1001"), order),
        match(paid("449.50", "CZ1001"), order),
        match(paid("200.00", "CZ1001"), order),
        match(paid("900.00", "CZ1001"), order),
        match(paid("450.00", "CZ1001"), replace(order, open=czk("0.00"))),
        match(paid("450.00", "CZ1001"), replace(order, status=Status.EXPIRED)),
        match(paid("450.00", "CZ1001", currency="EUR"), order),
        match(paid("450.00"), order, item("CZ1002", known=True)),
        match(paid("450.00", "CZ1009"), order),
        match(paid("-450.00", "CZ1001"), order),
        match(paid("-450.00"), order),
        match(paid("450.00", "CZ1001", kind=Kind.RETURN), order),
    }
    # A chargeback is told by the gateway's event, a payout by its report, neither by a movement of money alone.
    assert {found.outcome for found in reached} == set(Outcome) - {
        Outcome.CHARGEBACK,
        Outcome.PAYOUT,
        Outcome.REINSTATED,
        Outcome.TAKEN_BACK,
    }


def test_references_are_listed_without_repeats_and_sure_if_one_place_is() -> None:
    told = paid(text="VS 1042 26, VS 1042", variable_symbol="1042", end_to_end_id="CZ1001", order_reference="CZ1001")
    found = references_of(told, SHOPS)
    assert len({(ref.kind, ref.value, ref.channel) for ref in found}) == len(found)
    assert Reference(SYMBOL, "1042", "cz", sure=True) in found
    assert Reference(SYMBOL, "104226", "cz", sure=False) in found
    assert Reference(ORDER, "CZ1001", None) in found


# Whatever comes

NUMBERS = [f"CZ{number}" for number in range(1001, 1007)]


@st.composite
def items_(draw: st.DrawFn, numbers: list[str] = NUMBERS) -> list[OpenItem]:
    found: list[OpenItem] = []
    for number in draw(st.lists(st.sampled_from(numbers), unique=True, max_size=6)):
        amount = draw(st.integers(1, 40))
        found.append(
            item(
                number,
                f"{draw(st.sampled_from([0, amount, amount, max(amount - 5, 0)]))}.00",
                of=f"{amount}.00",
                channel=draw(st.sampled_from(["cz", "cz", "cz", "sk"])),
                status=draw(st.sampled_from([Status.AWAITING_PAYMENT, Status.AWAITING_PAYMENT, Status.CANCELLED])),
                symbol=draw(st.sampled_from([number[2:], "1001", None])),
                known=draw(st.booleans()),
                currency=draw(st.sampled_from(["CZK", "CZK", "CZK", "EUR"])),
            )
        )
    return found


PAYMENTS = st.builds(
    paid,
    st.decimals(-5, 90, places=2).map(str),
    st.lists(st.sampled_from([*NUMBERS, "VS 1001", "VS 1002 3", "CZ10", "za caj"]), max_size=4).map(", ".join),
    variable_symbol=st.sampled_from([None, "1001", "1002"]),
    order_reference=st.sampled_from([None, None, "CZ1003"]),
    account=st.sampled_from([CZ_ACCOUNT, SK_ACCOUNT, NOBODYS, None]),
    currency=st.sampled_from(["CZK", "CZK", "EUR"]),
)
EXACT_PAYMENTS = st.builds(
    paid,
    st.integers(1, 120).map(lambda whole: f"{whole}.00"),
    st.lists(st.sampled_from(NUMBERS), max_size=4).map(" ".join),
    variable_symbol=st.sampled_from([None, "1001", "1002"]),
)
ANY_PAYMENT = PAYMENTS | EXACT_PAYMENTS


def lenient() -> dict[str, ChannelRules]:
    return shops(
        channel(tolerance={"absolute": "2.00", "percent": "5"}),
        channel("sk", SK_ACCOUNT, "[A-Z]{2}[0-9]{4}", outcomes={"short": "operator", "over": "operator"}),
    )


LENIENT = lenient()


@given(ANY_PAYMENT, items_())
def test_a_payment_is_split_whole_or_not_at_all(payment: IncomingPayment, items: list[OpenItem]) -> None:
    found = match(payment, *items, within=LENIENT)
    assert found.surplus.minor >= 0
    if found.parts:
        assert sum(part.amount.minor for part in found.parts) + found.surplus.minor == payment.amount.minor
    else:
        assert not found.surplus


@given(ANY_PAYMENT, items_())
def test_no_item_gets_more_than_is_open_and_its_tolerance(payment: IncomingPayment, items: list[OpenItem]) -> None:
    for part in match(payment, *items, within=LENIENT).parts:
        limit = LENIENT[part.item.channel].tolerance.limit(part.item.open)
        assert Money.zero(part.amount.currency) < part.amount
        assert part.amount <= part.item.open + limit
        assert abs(part.write_off) <= limit
        assert part.item.status not in CLOSED
        assert part.item in items
        assert part.completes == (part.amount + part.write_off == part.item.open)


@given(ANY_PAYMENT, items_())
def test_every_part_has_evidence_and_every_match_a_reason_without_personal_data(
    payment: IncomingPayment, items: list[OpenItem]
) -> None:
    found = match(payment, *items, within=LENIENT)
    evidence = {candidate.item.id: candidate.evidence for candidate in found.candidates}
    for part in found.parts:
        assert evidence[part.item.id]
        assert part.item.number in found.reason
    said = [found.reason, *(one.said for each in evidence.values() for one in each)]
    assert all(said)
    assert not any(personal in text for text in said for personal in (PAYER, PAYER_NAME, CZ_ACCOUNT))
    assert not found.reason.endswith(".")


@given(ANY_PAYMENT, items_())
def test_only_what_is_certain_is_settled_by_itself(payment: IncomingPayment, items: list[OpenItem]) -> None:
    found = match(payment, *items, within=LENIENT)
    assert bool(found.parts) == (found.policy in (Policy.RELEASE, Policy.WAIT))
    assert len({part.item.id for part in found.parts}) == len(found.parts)
    if found.policy is Policy.RELEASE:
        assert all(part.completes for part in found.parts)
    if len(found.parts) > 1:
        assert found.outcome is Outcome.EXACT


@given(ANY_PAYMENT, items_(), st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(
    payment: IncomingPayment, items: list[OpenItem], shuffle: random.Random
) -> None:
    shuffled = list(items)
    shuffle.shuffle(shuffled)
    assert match(payment, *shuffled, within=LENIENT) == match(payment, *items, within=LENIENT)


@given(ANY_PAYMENT, items_(), st.lists(st.integers(2001, 2099), unique=True, max_size=5))
def test_items_without_evidence_change_nothing(
    payment: IncomingPayment, items: list[OpenItem], others: list[int]
) -> None:
    irrelevant = [item(f"CZ{number}", payment.amount.amount.removeprefix("-"), symbol=str(number)) for number in others]
    assert match(payment, *items, *irrelevant, within=LENIENT) == match(payment, *items, within=LENIENT)


# Rules that would have no effect, or too much


def test_a_channel_has_no_account_without_a_number() -> None:
    with pytest.raises(RulesError, match="accounts: an account is empty"):
        rules(accounts=["CZ6508000000192000145399", " "])


@pytest.mark.parametrize("kind", ["groups", "customers"])
def test_references_can_not_differ_for_a_customer_whom_they_are_to_find(kind: str) -> None:
    with pytest.raises(RulesError, match=f"{kind}.x1: references can't differ within a channel"):
        rules(**{kind: {"x1": {"references": {"order_number": "X[0-9]{4}"}}}})


@pytest.mark.parametrize("wait", ["payment", "invoice"])
def test_cash_on_delivery_can_not_wait_for_what_comes_after_the_parcel(wait: str) -> None:
    with pytest.raises(RulesError) as refused:
        rules(scenarios={"cash_on_delivery": {"dispatch": {"waits_for": ["stock", wait]}}})
    assert str(refused.value) == (
        f"rules: scenarios.cash_on_delivery.dispatch.waits_for: with cash on delivery the {wait} comes after the "
        f"parcel, so it would never leave; take “{wait}” out"
    )
    assert rules(scenarios={"card": {"dispatch": {"waits_for": ["stock", wait]}}})
