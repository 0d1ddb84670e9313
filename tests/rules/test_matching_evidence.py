"""Evidence weighed: who paid, what was typed, amounts that are off, lists, sets of one customer, other currencies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matching_builders import (
    CZ_ACCOUNT,
    INVOICE,
    NOBODYS,
    PAYER,
    SK_ACCOUNT,
    channel,
    czk,
    item,
    match,
    paid,
    settled,
    shops,
    shown,
)

from domain.allocation import OpenItem
from domain.matching import Match
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import IncomingPayment, Kind, Outcome
from domain.references import payer_reference
from domain.rules import ChannelRules, EvidenceKind, Policy

JANA, PETR, KAREL = "Jana Nováková", "Petr Dvořák", "Karel Malý"
NAMELESS: dict[str, Any] = {"payer_name": None, "payer_account": None}
OF_PETR: dict[str, Any] = {"payer_name": PETR, "payer_account": None}
PAID: dict[str, Any] = {"of": "450.00", "open_": "0.00"}
RF = "RF18539007547034"


def question(found: Match) -> bool:
    """Say whether a payment is left to a person because it can be for more than one order, or for none."""
    assert not (found.outcome is Outcome.AMBIGUOUS and (found.parts or found.policy is not Policy.OPERATOR))
    return found.outcome is Outcome.AMBIGUOUS


# Tolerance: either way, the larger of the two limits


TOLERANT = shops(channel(tolerance={"absolute": "2.00", "percent": "3"}))


@pytest.mark.parametrize(
    ("open_", "amount", "outcome"),
    [
        ("450.00", "436.50", Outcome.WITHIN_TOLERANCE),
        ("450.00", "463.50", Outcome.WITHIN_TOLERANCE),
        ("450.00", "436.49", Outcome.SHORT),
        ("450.00", "463.51", Outcome.OVER),
        ("50.00", "48.00", Outcome.WITHIN_TOLERANCE),
        ("50.00", "52.00", Outcome.WITHIN_TOLERANCE),
        ("50.00", "47.99", Outcome.SHORT),
        ("50.00", "52.01", Outcome.OVER),
    ],
)
def test_tolerance_is_absolute_or_in_per_cent_whichever_is_more(open_: str, amount: str, outcome: Outcome) -> None:
    assert match(paid(amount, "CZ1001"), item(open_=open_), within=TOLERANT).outcome is outcome


@pytest.mark.parametrize(
    ("amount", "write_off", "said"),
    [
        ("440.00", "10.00", "; 10.00 CZK is still missing, within tolerance"),
        ("460.00", "-10.00", "; 10.00 CZK is too much, within tolerance"),
    ],
)
def test_a_difference_that_is_let_pass_is_written_off_and_shown(amount: str, write_off: str, said: str) -> None:
    found = match(paid(amount, "CZ1001"), item(), within=TOLERANT)
    (part,) = found.parts
    assert (part.amount, part.write_off, part.completes) == (czk(amount), czk(write_off), True)
    assert found.reason.endswith(said)
    assert not found.surplus


def test_per_cent_are_of_what_is_still_open() -> None:
    partly = item(open_="100.00", of="450.00")
    assert match(paid("103.00", "CZ1001"), partly, within=TOLERANT).outcome is Outcome.WITHIN_TOLERANCE
    assert match(paid("103.01", "CZ1001"), partly, within=TOLERANT).outcome is Outcome.OVER


def test_the_absolute_limit_is_in_the_channel_s_currency_and_counts_in_no_other() -> None:
    own = shops(channel(tolerance={"absolute": "20.00", "percent": "1"}))
    order = item(currency="EUR")
    for amount, outcome in (
        ("435.00", Outcome.SHORT),
        ("465.00", Outcome.OVER),
        ("445.50", Outcome.WITHIN_TOLERANCE),
        ("454.50", Outcome.WITHIN_TOLERANCE),
    ):
        assert match(paid(amount, "CZ1001", currency="EUR"), order, within=own).outcome is outcome, amount


def test_an_order_in_a_currency_without_decimals_is_matched_where_the_limit_has_decimals() -> None:
    own = shops(channel(tolerance={"absolute": "0.50"}))
    order = item(open_="450", currency="JPY")
    assert match(paid("450", "CZ1001", currency="JPY"), order, within=own).outcome is Outcome.EXACT
    assert match(paid("449", "CZ1001", currency="JPY"), order, within=own).outcome is Outcome.SHORT


# Another currency, at the channel's rates


def converting(**fields: Any) -> dict[str, ChannelRules]:
    return shops(channel(conversion={"rates": {"EUR": "25", "JPY": "0.15"}, "percent": "4"}, **fields))


def euros(amount: str, text: str = "CZ1001", **told: Any) -> IncomingPayment:
    return paid(amount, text, currency="EUR", **told)


@pytest.mark.parametrize(
    ("amount", "worth", "write_off"),
    [("18.00", "450.00", "0.00"), ("17.28", "432.00", "18.00"), ("18.72", "468.00", "-18.00")],
    ids=["exactly", "four per cent less", "four per cent more"],
)
def test_another_currency_settles_at_the_channel_s_rate(amount: str, worth: str, write_off: str) -> None:
    found = match(euros(amount), item(), within=converting())
    (part,) = found.parts
    assert found.outcome is (Outcome.WITHIN_TOLERANCE if write_off != "0.00" else Outcome.EXACT)
    assert (part.amount, part.write_off, part.completes) == (czk(worth), czk(write_off), True)
    assert (part.taken, found.surplus) == (Money.parse(amount, "EUR"), Money.zero("EUR"))
    assert found.reason.endswith(f"{amount} EUR is worth {worth} CZK, and 450.00 CZK is open")


@pytest.mark.parametrize("amount", ["17.27", "18.73", "450.00", "0.01"])
def test_another_currency_that_is_worth_too_little_or_too_much_is_the_wrong_one(amount: str) -> None:
    found = match(euros(amount), item(), within=converting())
    assert (found.outcome, found.policy, found.parts) == (Outcome.WRONG_CURRENCY, Policy.OPERATOR, ())
    assert "is too far from 450.00 CZK" in found.reason


def test_a_currency_without_a_rate_is_the_wrong_one() -> None:
    found = match(paid("18.00", "CZ1001", currency="USD"), item(), within=converting())
    assert (found.outcome, found.parts) == (Outcome.WRONG_CURRENCY, ())
    assert found.reason == "CZ1001 is named by the order number CZ1001, but is to be paid in CZK"


@pytest.mark.parametrize(("currency", "amount"), [("USD", "450.00"), ("JPY", "450")])
def test_a_rate_is_to_the_channel_s_currency_and_to_no_other(currency: str, amount: str) -> None:
    """18 EUR are worth 450 CZK there, and nothing is said of dollars."""
    found = match(euros("18.00"), item(open_=amount, currency=currency), within=converting())
    assert (found.outcome, found.parts) == (Outcome.WRONG_CURRENCY, ())


def test_a_currency_without_decimals_is_converted_too() -> None:
    found = match(paid("3000", "CZ1001", currency="JPY"), item(), within=converting())
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])


def test_of_an_order_that_is_partly_paid_only_what_is_open_is_converted() -> None:
    partly = item(open_="250.00", of="450.00")
    assert match(euros("10.00"), partly, within=converting()).outcome is Outcome.EXACT
    assert match(euros("18.00"), partly, within=converting()).outcome is Outcome.WRONG_CURRENCY


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (PAID, Outcome.DUPLICATE),
        ({"status": Status.CANCELLED}, Outcome.LATE),
        ({"status": Status.EXPIRED}, Outcome.LATE),
    ],
)
def test_a_rate_opens_no_order_that_is_paid_or_closed(state: dict[str, Any], outcome: Outcome) -> None:
    found = match(euros("18.00"), item(**state), within=converting())
    assert (found.outcome, found.parts) == (outcome, ())


def test_a_rate_without_a_reference_settles_nothing() -> None:
    assert match(euros("18.00", "za caj"), item(known=True), within=converting()).outcome is Outcome.UNKNOWN


def test_what_was_typed_in_another_currency_yields_to_who_paid_as_well() -> None:
    other = item("CZ1002", "18.00", currency="EUR", customer=2, name=PETR)
    found = match(euros("18.00", **OF_PETR), item(customer=1, name=JANA), other, within=converting())
    assert question(found)
    assert set(shown(found)) == {"CZ1001", "CZ1002"}


def test_what_the_channel_leaves_to_the_operator_is_not_converted() -> None:
    careful = converting(outcomes={"within_tolerance": "operator"})
    found = match(euros("17.50"), item(), within=careful)
    assert (found.outcome, found.policy, found.parts) == (Outcome.WITHIN_TOLERANCE, Policy.OPERATOR, ())


# Who paid against what was typed


TYPED: list[dict[str, str]] = [
    {"variable_symbol": "1001"},
    {"text": "VS 1001"},
    {"text": "CZ1001"},
    {"text": "FV202600001"},
    {"order_reference": "CZ1001"},
    {"end_to_end_id": "CZ1001"},
    {"end_to_end_id": "/VS1001"},
]
typed = pytest.mark.parametrize("told", TYPED, ids=lambda told: " ".join(map(str, told.items())))


def petrs(*references: tuple[EvidenceKind, str], **more: Any) -> OpenItem:
    """Make Petr's order, which is named in these tests, though Jana pays."""
    told: dict[str, Any] = {"symbol": "1001", "customer": 1, "name": PETR}
    return item("CZ1001", more=[(INVOICE, "FV202600001"), *references], **{**told, **more})


def janas(**more: Any) -> OpenItem:
    told: dict[str, Any] = {"customer": 2, "name": JANA}
    return item("CZ1002", **{**told, **more})


@typed
@pytest.mark.parametrize(
    "whose", [{"known": False}, {"name": "", "known": True}, {"name": "", "group_known": True}], ids=str
)
def test_what_was_typed_is_a_question_when_who_paid_speaks_for_another_s_order_of_this_amount(
    told: dict[str, str], whose: dict[str, Any]
) -> None:
    found = match(paid(**told), petrs(), janas(**whose))
    assert question(found)
    assert set(shown(found)) == {"CZ1001", "CZ1002"}
    assert found.reason.startswith("CZ1001 is named by ")
    assert found.reason.endswith(", but who paid speaks for CZ1002")


@typed
def test_what_was_typed_counts_when_the_payer_s_name_is_that_of_the_order_s_customer(told: dict[str, str]) -> None:
    """The account is Jana's, but Petr is who pays with it."""
    found = match(paid(**told, payer_name="DVORAK PETR"), petrs(), janas(name="", known=True))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])


@typed
def test_what_was_typed_counts_when_who_paid_speaks_for_it_too(told: dict[str, str]) -> None:
    found = match(paid(**told), petrs(known=True), janas())
    assert settled(found) == [("CZ1001", "450.00")]


@typed
@pytest.mark.parametrize(
    "state",
    [
        {"open_": "0.00", "of": "450.00"},
        {"status": Status.CANCELLED},
        {"open_": "300.00", "known": True},
        {"open_": "200.00", "of": "450.00"},
        {"currency": "EUR", "known": True},
        {"customer": 1},
    ],
    ids=["paid", "cancelled", "another amount", "another amount left", "another currency", "the same customer"],
)
def test_what_was_typed_counts_when_the_order_that_who_paid_speaks_for_can_not_be_meant(
    told: dict[str, str], state: dict[str, Any]
) -> None:
    found = match(paid(**told), petrs(), janas(**state))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])


@pytest.mark.parametrize(
    ("told", "reference"),
    [
        ({"provider_reference": "pi_1"}, (EvidenceKind.PROVIDER_REFERENCE, "pi_1")),
        ({"rf": RF}, (EvidenceKind.RF, RF)),
        ({"text": RF}, (EvidenceKind.RF, RF)),
        ({"tracking_number": "DR1"}, (EvidenceKind.TRACKING_NUMBER, "DR1")),
    ],
)
def test_a_reference_that_a_machine_gives_or_checks_is_not_doubted(
    told: dict[str, str], reference: tuple[EvidenceKind, str]
) -> None:
    order = petrs(reference)
    assert settled(match(paid(**told), order, janas())) == [("CZ1001", "450.00")]
    assert match(paid("200.00", **told), order, janas()).outcome is Outcome.SHORT
    # Beside what was typed it counts as well.
    assert settled(match(paid(**told, variable_symbol="1001"), order, janas())) == [("CZ1001", "450.00")]


def test_who_paid_speaks_against_what_fits_only_within_tolerance_too() -> None:
    found = match(paid("449.50", "CZ1001"), petrs(), janas(open_="449.50"))
    assert question(found)


@pytest.mark.parametrize("state", [PAID, {"status": Status.CANCELLED}], ids=["paid", "cancelled"])
@pytest.mark.parametrize("policy", ["balance", "refund", "ignore", "operator"])
def test_who_paid_speaks_against_an_order_that_takes_no_more_money(state: dict[str, Any], policy: str) -> None:
    """The symbol was mistyped: this money must not land on the balance of whose order it names."""
    own = shops(channel(outcomes={"duplicate": policy, "late": policy}))
    found = match(paid(variable_symbol="1001"), petrs(**state), janas(), within=own)
    assert question(found)
    assert "but who paid speaks for CZ1002" in found.reason


def test_of_two_named_orders_of_this_amount_none_is_taken_when_who_paid_speaks_for_a_third() -> None:
    second = item("CZ1003", customer=3, name=KAREL)
    assert settled(match(paid(text="CZ1003", variable_symbol="1001"), petrs(), second)) == [("CZ1001", "450.00")]
    assert question(match(paid(text="CZ1003", variable_symbol="1001"), petrs(), second, janas()))


def test_of_two_named_orders_the_one_of_this_amount_is_not_taken_when_who_paid_speaks_for_a_third() -> None:
    second = item("CZ1003", "300.00", customer=3, name=KAREL)
    assert settled(match(paid(text="CZ1003", variable_symbol="1001"), petrs(), second)) == [("CZ1001", "450.00")]
    assert question(match(paid(text="CZ1003", variable_symbol="1001"), petrs(), second, janas()))


def test_several_orders_that_take_no_more_money_are_doubted_like_one() -> None:
    own = shops(channel(outcomes={"duplicate": "refund"}))
    paid_long_since = [petrs(**PAID), item("CZ1003", customer=1, **PAID)]
    told = paid(text="CZ1001 a CZ1003")
    assert match(told, *paid_long_since, within=own).outcome is Outcome.DUPLICATE
    assert question(match(told, *paid_long_since, janas(), within=own))
    bare = [item("CZ1042", known=True, **PAID), item("CZ1043", known=True, **PAID)]
    assert question(match(paid("777.00", "1042 1043"), *bare, within=own))


# The amount is off, and who paid is plainly somebody else


off = pytest.mark.parametrize("amount", ["200.00", "900.00"], ids=["short", "over"])


def of_jana(**more: Any) -> OpenItem:
    told: dict[str, Any] = {"customer": 1, "name": JANA, "symbol": "7001"}
    return item("CZ1001", **{**told, **more})


@off
@pytest.mark.parametrize(
    "told",
    [{"text": "CZ1001"}, {"variable_symbol": "7001"}, {"end_to_end_id": "CZ1001"}, {"order_reference": "CZ1001"}],
    ids=lambda told: " ".join(map(str, told.items())),
)
def test_an_amount_that_is_off_and_another_s_name_are_a_question(amount: str, told: dict[str, str]) -> None:
    found = match(paid(amount, **told, **OF_PETR), of_jana())
    assert question(found)
    assert "but neither the amount nor the payer's name confirms it: " in found.reason
    assert set(shown(found)) == {"CZ1001"}


@off
@pytest.mark.parametrize(
    "name",
    [
        JANA,
        "NOVAKOVA JANA",
        "Ing. Jana Nováková, Ph.D.",
        "Яна Новакова",
        "Novakova J.",
        "Jana Marie Novakova",
        "Jana Novakova a Petr Dvorak",
        None,
        "",
        "Ing.",
    ],
)
def test_an_amount_that_is_off_is_taken_from_the_same_name_in_any_writing_and_from_no_name(
    amount: str, name: str | None
) -> None:
    found = match(paid(amount, "CZ1001", payer_name=name, payer_account=None), of_jana())
    assert found.outcome is (Outcome.SHORT if amount == "200.00" else Outcome.OVER)
    assert found.parts


@off
def test_an_amount_that_is_off_is_taken_where_the_order_s_customer_has_no_name(amount: str) -> None:
    assert match(paid(amount, "CZ1001", **OF_PETR), of_jana(name="")).outcome in (Outcome.SHORT, Outcome.OVER)


@off
@pytest.mark.parametrize(
    "told",
    [
        {"text": "CZ1001", "variable_symbol": "7001"},
        {"text": "CZ1001, VS 7001"},
        {"end_to_end_id": "/VS7001", "text": "CZ1001"},
        {"text": "CZ1001", "payer_account": PAYER},
    ],
    ids=["two kinds", "two kinds in a text", "two kinds in two texts", "the known account"],
)
def test_an_amount_that_is_off_is_taken_from_anybody_who_gives_two_kinds_of_references_or_pays_from_the_known_account(
    amount: str, told: dict[str, str]
) -> None:
    order = of_jana(known="payer_account" in told)
    found = match(paid(amount, **{**OF_PETR, **told}), order)
    assert found.outcome is (Outcome.SHORT if amount == "200.00" else Outcome.OVER)


@off
def test_an_end_to_end_id_that_is_read_as_a_number_too_is_one_reference_and_not_two(amount: str) -> None:
    found = match(paid(amount, end_to_end_id="CZ1001", **OF_PETR), of_jana())
    assert shown(found) == {"CZ1001": ["the end-to-end id CZ1001", "the order number CZ1001"]}
    assert question(found)
    other_id = of_jana(more=[(EvidenceKind.END_TO_END_ID, "X77")])
    assert not question(match(paid(amount, "CZ1001", end_to_end_id="X-77", **OF_PETR), other_id))


def test_with_the_exact_amount_or_within_tolerance_anybody_may_pay() -> None:
    assert match(paid("450.00", "CZ1001", **OF_PETR), of_jana()).outcome is Outcome.EXACT
    assert match(paid("449.50", "CZ1001", **OF_PETR), of_jana()).outcome is Outcome.WITHIN_TOLERANCE


# The amount is off, and something is named that nobody knows


@off
@pytest.mark.parametrize(
    ("told", "unknown"),
    [
        ({"text": "CZ1001, CZ1009"}, "the order number CZ1009"),
        ({"text": "CZ1001, FV202600099"}, "the invoice number FV202600099"),
        ({"text": "CZ1001", "variable_symbol": "555"}, "the variable symbol 555"),
        ({"text": "CZ1001, VS 555"}, "the variable symbol 555"),
        ({"text": "CZ1001", "order_reference": "X-9"}, "the order number X9"),
    ],
)
def test_an_amount_that_is_off_is_a_question_when_something_is_named_that_nobody_knows(
    amount: str, told: dict[str, str], unknown: str
) -> None:
    found = match(paid(amount, **told), of_jana())
    assert question(found)
    assert f", but {unknown} is named too and nobody knows it, and the amount does not confirm it: " in found.reason


def test_with_the_exact_amount_something_that_nobody_knows_changes_nothing() -> None:
    assert match(paid(text="CZ1001, CZ1009", variable_symbol="555"), of_jana()).outcome is Outcome.EXACT


@off
@pytest.mark.parametrize(
    ("number", "text", "symbol"),
    [("CZ1001", "CZ1001", "1001"), ("CZ1001", "CZ1001", "0001001"), ("CZ0042", "CZ0042", "42")],
)
def test_a_symbol_that_is_only_the_digits_of_the_order_s_number_is_nothing_unknown(
    amount: str, number: str, text: str, symbol: str
) -> None:
    found = match(
        paid(amount, text, variable_symbol=symbol), replace(of_jana(), number=number, references=named(number))
    )
    assert found.outcome is (Outcome.SHORT if amount == "200.00" else Outcome.OVER)


def named(number: str) -> frozenset[tuple[EvidenceKind, str]]:
    return item(number).references


@off
def test_what_machines_give_and_what_is_only_read_so_is_nothing_unknown(amount: str) -> None:
    for told in (
        {"provider_reference": "FT26/1"},
        {"end_to_end_id": "20260504ABC"},
        {"tracking_number": "DR1"},
        {"rf": RF},
    ):
        assert not question(match(paid(amount, "CZ1001", **told), of_jana())), told
    assert not question(match(paid(amount, "CZ1001, VS 99 26"), of_jana()))


@off
def test_one_number_that_two_patterns_describe_is_not_a_second_one_that_nobody_knows(amount: str) -> None:
    own = shops(channel(pattern="[0-9]{4}", references={"invoice_number": "[0-9]{4,9}"}))
    order = item("1042", customer=1, name=JANA)
    assert not question(match(paid(amount, "1042"), order, within=own))
    assert question(match(paid(amount, "1042, 20267"), order, within=own))


# The amount is off, and only digits say what it is for


DIGITS_ALONE = shops(channel(pattern="[0-9]{4}"))


@off
@pytest.mark.parametrize("told", [{"text": "1042"}, {"end_to_end_id": "1042"}], ids=["text", "end-to-end id"])
@pytest.mark.parametrize(
    ("payer", "customer"), [(PETR, JANA), (None, JANA), (JANA, ""), (None, "")], ids=["other", "none", "nobody", "both"]
)
def test_a_number_of_digits_alone_with_an_amount_that_is_off_needs_the_payer_s_name(
    amount: str, told: dict[str, str], payer: str | None, customer: str
) -> None:
    order = item("1042", customer=1, name=customer)
    found = match(paid(amount, **told, payer_name=payer, payer_account=None), order, within=DIGITS_ALONE)
    assert question(found)


@off
def test_a_number_of_digits_alone_is_taken_from_its_customer_or_from_a_field_that_is_for_it(amount: str) -> None:
    order = item("1042", customer=1, name=JANA)
    outcome = Outcome.SHORT if amount == "200.00" else Outcome.OVER
    assert match(paid(amount, "1042"), order, within=DIGITS_ALONE).outcome is outcome
    assert match(paid(amount, order_reference="1042", **NAMELESS), order, within=DIGITS_ALONE).outcome is outcome
    assert (
        match(
            paid(amount, "1042", payer_name=None),
            replace(order, references=named("1042") | KNOWN_TO_JANA),
            within=DIGITS_ALONE,
        ).outcome
        is outcome
    )


KNOWN_TO_JANA = frozenset({(EvidenceKind.PAYER_ACCOUNT, PAYER)})


# Lists whose letters are said once


def three() -> list[OpenItem]:
    return [item("CZ1042"), item("CZ1043", "300.00"), item("CZ1044", "200.00")]


@pytest.mark.parametrize(
    "text",
    [
        "CZ1042, 1043 a 1044",
        "CZ1042,1043,1044",
        "obj. CZ-1042; 1043; 1044, dekuji",
        "CZ 1042 + 1043 + 1044",
        "CZ1042 & 1043 & 1044",
        "CZ1042/1043/1044",
        "CZ1042 a 1043 a 1044",
        "CZ1042 i 1043 i 1044",
        "CZ1042, 1043 und 1044",
        "CZ1042, 1043 și 1044",
        "CZ1042, 1043 та 1044",
        "CZ1042 и 1043 и 1044",
        "CZ1042, 1043, CZ1044",
    ],
)
def test_a_list_that_says_its_letters_once_is_settled_together_when_the_sum_is_exact(text: str) -> None:
    found = match(paid("950.00", text, **NAMELESS), *three())
    assert (found.outcome, found.policy) == (Outcome.EXACT, Policy.RELEASE)
    assert settled(found) == [("CZ1042", "450.00"), ("CZ1043", "300.00"), ("CZ1044", "200.00")]


@pytest.mark.parametrize("amount", ["949.99", "949.50", "950.01", "750.00", "450.00", "2000.00"])
def test_a_list_with_any_other_amount_is_a_question(amount: str) -> None:
    assert question(match(paid(amount, "CZ1042, 1043 a 1044", **NAMELESS), *three()))


@pytest.mark.parametrize(
    "text",
    ["CZ1042, 10430", "CZ1042, 43", "CZ1042 1043", "CZ1042 za 1043", "CZ1042: 1043", "CZ1042, ks 1043", "CZ1042-1043"],
)
def test_a_number_of_another_length_or_behind_anything_else_is_not_on_the_list(text: str) -> None:
    order, other = item("CZ1042"), item("CZ1043", "300.00")
    assert match(paid("750.00", text, **NAMELESS), order, other).outcome is not Outcome.EXACT
    assert "CZ1043" not in [
        number
        for number, said in shown(match(paid(text=text), order, other)).items()
        if "the order number CZ1043" in said
    ]


def test_a_list_ends_at_the_first_word_that_is_no_number_of_it() -> None:
    found = match(paid("750.00", "CZ1042, 1043 za caj, 1044", **NAMELESS), *three())
    assert settled(found) == [("CZ1042", "450.00"), ("CZ1043", "300.00")]


# Numbers of a year


YEARLY = shops(channel(pattern="[0-9]{9}"))


@pytest.mark.parametrize(
    "text", ["2026-00123", "2026/00123", "202600123", "obj. č. 2026-00123, dekuji", "(2026/00123)"]
)
def test_a_number_of_digits_alone_may_be_parted_behind_its_year(text: str) -> None:
    found = match(paid(text=text, **NAMELESS), item("2026-00123"), within=YEARLY)
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("2026-00123", "450.00")])


@pytest.mark.parametrize(
    "text",
    [
        "2026-00123/0800",
        "19-2026-00123",
        "2026.00123",
        "2026 00123",
        "2026-00-123",
        "1926-00123",
        "12026-00123",
        "2026-001234",
        "2026-00123-1",
        "FV-2026-00123",
        "VS 2026-00123",
    ],
)
def test_what_only_begins_like_a_year_is_no_number(text: str) -> None:
    assert (
        match(paid(text=text, **NAMELESS, account=NOBODYS), item("2026-00123"), within=YEARLY).outcome
        is Outcome.UNKNOWN
    )


@pytest.mark.parametrize("text", ["2026-11-10", "2026/11/10", "10.11.2026", "2026-11", "11/2026", "2026-1110/0800"])
@pytest.mark.parametrize(
    ("pattern", "number"), [("[0-9]{8}", "20261110"), ("[0-9]{6}", "202611"), ("[0-9]{6}", "112026")]
)
def test_a_date_a_month_and_an_account_are_no_number_of_a_year(text: str, pattern: str, number: str) -> None:
    own = shops(channel(pattern=pattern))
    assert match(paid(text=text, **NAMELESS), item(number), within=own).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("text", ["FV-1042", "fv/1042", "faktura FV-1042", "INV-1042", "ZF - 1042 FV-1042"])
def test_digits_behind_letters_and_a_dash_are_no_order_s_number(text: str) -> None:
    found = match(paid(text=text.replace(" - ", "-"), **NAMELESS), item("1042"), within=DIGITS_ALONE)
    assert (found.outcome, found.parts) == (Outcome.UNKNOWN, ())


# Bare numbers: who paid and the exact amount must say that one is meant


bare = pytest.mark.parametrize("text", ["1042", "obj. 1042", "č. 1042 dekuji", "objednávka 10 42 a 1042"])
speaking = pytest.mark.parametrize("whose", [{"known": True}, {"name": JANA}, {"group_known": True}], ids=str)


@bare
@speaking
def test_a_number_without_its_letters_counts_when_who_paid_agrees_and_the_amount_is_exact(
    text: str, whose: dict[str, Any]
) -> None:
    found = match(paid(text=text), item("CZ1042", **whose))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1042", "450.00")])
    assert "the order number CZ1042, which the text has without its letters" in found.reason


@bare
def test_a_number_without_its_letters_alone_is_nothing(text: str) -> None:
    for order in (item("CZ1042"), item("CZ1042", name=PETR, customer=1)):
        assert match(paid(text=text), order).outcome is Outcome.UNKNOWN


@bare
@pytest.mark.parametrize("amount", ["449.50", "450.50", "449.99", "200.00", "900.00"])
def test_a_number_without_its_letters_never_counts_with_another_amount_not_even_within_tolerance(
    text: str, amount: str
) -> None:
    assert question(match(paid(amount, text), item("CZ1042", known=True)))


def test_a_number_without_its_letters_says_nothing_of_a_closed_order_but_by_its_amount() -> None:
    own = shops(channel(outcomes={"duplicate": "refund", "late": "refund"}))
    done, closed = item("CZ1042", known=True, **PAID), item("CZ1042", known=True, status=Status.CANCELLED)
    for order, outcome in ((done, Outcome.DUPLICATE), (closed, Outcome.LATE)):
        assert match(paid("450.00", "1042"), order, within=own).outcome is outcome
        assert question(match(paid("300.00", "1042"), order, within=own))


def test_a_number_without_its_letters_is_never_converted() -> None:
    assert question(match(euros("18.00", "1042"), item("CZ1042", known=True), within=converting()))


def test_a_number_without_its_letters_counts_for_nothing_beside_a_real_reference() -> None:
    real, other = item("CZ1001", customer=1), item("CZ1042", "300.00", known=True, customer=2)
    assert settled(match(paid("450.00", "CZ1001, zak. 1042"), real, other)) == [("CZ1001", "450.00")]
    assert settled(match(paid("200.00", "CZ1001, zak. 1042"), real, other)) == [("CZ1001", "200.00")]
    assert question(match(paid("300.00", "CZ1001, zak. 1042"), real, other))


def test_numbers_without_their_letters_are_never_summed_up() -> None:
    items = [item("CZ1042", known=True), item("CZ1043", "300.00", known=True)]
    assert question(match(paid("750.00", "1042 1043"), *items))
    assert settled(match(paid("300.00", "1042 1043"), *items)) == [("CZ1043", "300.00")]


SIX_DIGITS = shops(channel(pattern="[0-9]{6}"))


@pytest.mark.parametrize("text", ["500 096", "500-096", "500.096", "obj. 500 096 dekuji"])
def test_a_number_in_groups_counts_only_when_who_paid_agrees_and_the_amount_is_exact(text: str) -> None:
    theirs = item("500096", name=JANA, customer=1)
    assert settled(match(paid(text=text), theirs, within=SIX_DIGITS)) == [("500096", "450.00")]
    assert match(paid(text=text, **NAMELESS), theirs, within=SIX_DIGITS).outcome is Outcome.UNKNOWN
    assert match(paid("449.50", text, payer_account=None), theirs, within=SIX_DIGITS).outcome is Outcome.UNKNOWN
    known = item("500096", known=True)
    assert question(match(paid("200.00", text), known, within=SIX_DIGITS))


@pytest.mark.parametrize("text", ["500 096 Kč", "tel. 500 096 123", "+420 500 096", "500 096 123", "12.500 096"])
def test_a_number_in_groups_that_is_an_amount_or_a_telephone_is_nothing(text: str) -> None:
    found = match(paid(text=text, payer_account=None), item("500096", name=JANA), within=SIX_DIGITS)
    assert found.outcome is Outcome.UNKNOWN


# An older order is named, and the next one is meant


def older(**more: Any) -> OpenItem:
    told: dict[str, Any] = {"of": "300.00", "open_": "0.00", "symbol": "1001", "customer": 1, "name": JANA}
    return item("CZ1001", **{**told, **more})


def next_one(number: str = "CZ1002", **more: Any) -> OpenItem:
    told: dict[str, Any] = {"customer": 1, "name": JANA}
    return item(number, **{**told, **more})


@pytest.mark.parametrize("told", [{"variable_symbol": "1001"}, {"text": "CZ1001"}])
@pytest.mark.parametrize("who", [{}, {"known": True, "name": ""}], ids=["name", "account"])
def test_the_symbol_of_an_older_paid_order_means_the_one_open_order_of_this_amount(
    told: dict[str, str], who: dict[str, Any]
) -> None:
    found = match(paid(**told), older(), next_one(**who), next_one("CZ1003", open_="700.00"))
    assert (found.outcome, found.policy, settled(found)) == (Outcome.EXACT, Policy.RELEASE, [("CZ1002", "450.00")])
    assert found.reason.endswith("but is already paid; the payer's next order CZ1002 has exactly this amount open")


def duplicate(found: Match) -> bool:
    return (found.outcome, found.policy, found.parts) == (Outcome.DUPLICATE, Policy.OPERATOR, ())


def test_the_same_amount_as_the_older_order_s_is_paid_twice() -> None:
    assert duplicate(match(paid(variable_symbol="1001"), older(of="450.00"), next_one()))


def test_two_open_orders_of_this_amount_are_left_to_a_person() -> None:
    assert duplicate(match(paid(variable_symbol="1001"), older(), next_one(), next_one("CZ1003")))


def test_an_open_order_and_a_set_of_others_that_come_to_this_amount_are_left_to_a_person() -> None:
    others = [next_one("CZ1003", open_="400.00"), next_one("CZ1004", open_="50.00")]
    assert duplicate(match(paid(variable_symbol="1001"), older(), next_one(), *others))


@pytest.mark.parametrize(
    "state",
    [
        {"open_": "449.99"},
        {"status": Status.CANCELLED},
        {"currency": "EUR", "known": True},
        {"of": "900.00", "name": ""},
        {"name": PETR},
        {"channel": "closed-down"},
    ],
    ids=["another amount", "cancelled", "another currency", "only its rest is", "not the payer's", "no rules"],
)
def test_an_older_order_means_no_other_than_an_open_one_of_this_amount_that_who_paid_speaks_for(
    state: dict[str, Any],
) -> None:
    found = match(paid(variable_symbol="1001"), older(), next_one(**state))
    assert duplicate(found)


def test_an_older_order_without_a_known_customer_means_no_other() -> None:
    assert not match(paid(variable_symbol="1001"), older(customer=None), next_one(customer=None)).parts


def test_an_older_order_that_was_cancelled_is_late_and_means_no_other() -> None:
    found = match(paid(variable_symbol="1001"), older(status=Status.CANCELLED), next_one())
    assert (found.outcome, found.parts) == (Outcome.LATE, ())


# One is named, and the amount is that of several of the same customer


@pytest.mark.parametrize(
    ("amount", "numbers"),
    [("750.00", ["CZ1001", "CZ1002"]), ("650.00", ["CZ1001", "CZ1003"]), ("950.00", ["CZ1001", "CZ1002", "CZ1003"])],
)
def test_more_money_settles_the_named_order_with_others_of_its_customer_that_come_to_exactly_the_amount(
    amount: str, numbers: list[str]
) -> None:
    others = [item("CZ1002", "300.00", customer=1), item("CZ1003", "200.00", customer=1)]
    found = match(paid(amount, "CZ1001"), item(customer=1), *others)
    assert (found.outcome, found.policy) == (Outcome.EXACT, Policy.RELEASE)
    assert [part.item.number for part in found.parts] == numbers
    assert all(part.completes and part.amount == part.item.open for part in found.parts)
    assert not found.surplus
    assert "all of one customer, comes to exactly that" in found.reason


def test_others_of_the_customer_that_come_to_the_amount_in_two_ways_are_a_question() -> None:
    others = [item(f"CZ100{place}", open_, customer=1) for place, open_ in enumerate(["300.00", "200.00", "100.00"], 2)]
    found = match(paid("750.00", "CZ1001"), item(customer=1), *others)
    assert question(found)
    assert found.reason.endswith("with others of its customer it comes to 750.00 CZK in more than one way")


@pytest.mark.parametrize(
    "other",
    [
        {"customer": 2},
        {"customer": None},
        {"customer": 1, "channel": "sk"},
        {"customer": 1, "status": Status.CANCELLED},
        {"customer": 1, "currency": "EUR"},
        {"customer": 1, "open_": "0.00", "of": "300.00"},
        {"customer": 1, "open_": "300.01"},
    ],
    ids=["another's", "nobody's", "of another shop", "cancelled", "another currency", "paid", "a cent more"],
)
def test_what_does_not_go_with_the_named_order_is_left_alone_and_the_surplus_stays(other: dict[str, Any]) -> None:
    told: dict[str, Any] = {"open_": "300.00", **other}
    found = match(paid("750.00", "CZ1001"), item(customer=1), item("CZ1002", **told))
    assert (found.outcome, settled(found), found.surplus) == (Outcome.OVER, [("CZ1001", "450.00")], czk("300.00"))


def test_two_orders_of_customers_who_are_not_known_are_not_one_customer_s() -> None:
    found = match(paid("750.00", "CZ1001"), item(), item("CZ1002", "300.00"))
    assert (found.outcome, found.surplus) == (Outcome.OVER, czk("300.00"))


def test_less_money_never_settles_others_instead() -> None:
    found = match(paid("300.00", "CZ1001"), item(customer=1), item("CZ1002", "300.00", customer=1))
    assert (found.outcome, settled(found)) == (Outcome.SHORT, [("CZ1001", "300.00")])


# Nothing is named, and the account is known


def own(*amounts: str, **more: Any) -> list[OpenItem]:
    whose: dict[str, Any] = more or {"known": True}
    return [item(f"CZ{1001 + place}", amount, customer=1, **whose) for place, amount in enumerate(amounts)]


def test_the_one_set_of_the_customer_s_orders_that_comes_to_the_amount_is_settled() -> None:
    found = match(paid("650.00"), *own("450.00", "300.00", "200.00"))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00"), ("CZ1003", "200.00")])
    assert found.reason == (
        "no order is named, but the payer's account is known, and only CZ1001 and CZ1003 together have exactly this "
        "amount open"
    )


@pytest.mark.parametrize("account", [CZ_ACCOUNT, NOBODYS, None])
def test_a_known_account_settles_what_came_to_the_shop_s_own_account_or_to_one_that_is_nobody_s(
    account: str | None,
) -> None:
    assert settled(match(paid("300.00", account=account), *own("450.00", "300.00"))) == [("CZ1002", "300.00")]


def test_a_known_account_settles_nothing_of_what_came_to_another_shop_s_account() -> None:
    found = match(paid("300.00", account=SK_ACCOUNT), *own("450.00", "300.00"))
    assert (found.outcome, found.policy, found.parts) == (Outcome.UNKNOWN, Policy.OPERATOR, ())
    assert found.reason.endswith("the payer's account is known, but the money came to an account of another shop")
    assert shown(found)["CZ1002"] == ["the payer's known account"]


def test_two_sets_that_come_to_the_amount_are_a_question_with_both_said() -> None:
    found = match(paid("500.00"), *own("400.00", "100.00", "300.00", "200.00"))
    assert question(found)
    assert found.reason.endswith("fits in two ways: CZ1001 and CZ1002 or CZ1003 and CZ1004")


def test_one_order_that_fits_and_a_set_that_fits_too_are_a_question() -> None:
    found = match(paid("450.00"), *own("450.00", "300.00", "150.00"))
    assert question(found)
    assert found.reason.endswith("fits in two ways: CZ1001 or CZ1002 and CZ1003")


def test_among_more_than_ten_orders_no_amount_says_which_and_a_person_is_told_how_many() -> None:
    many = own(*(f"{2**place}.00" for place in range(11)))
    found = match(paid("1024.00"), *many)
    assert (found.outcome, found.policy, found.parts) == (Outcome.UNKNOWN, Policy.OPERATOR, ())
    assert "the payer's account is known, but 11 open orders are too many to tell by the amount" in found.reason
    assert match(paid("1023.00"), *many).outcome is Outcome.EXACT  # what is more than came does not count


def test_where_not_all_that_a_customer_has_open_was_looked_at_what_fits_is_not_taken_for_the_only_one() -> None:
    [only] = own("450.00")
    assert match(paid("450.00"), only).outcome is Outcome.EXACT
    found = match(paid("450.00"), replace(only, crowded=True))
    assert (found.outcome, found.policy, found.parts) == (Outcome.UNKNOWN, Policy.OPERATOR, ())
    assert found.reason.endswith("its owner has more orders than can be told by the amount")


def test_of_a_known_account_s_orders_those_that_can_not_be_paid_are_left_out() -> None:
    others = [*own("300.00", known=True, status=Status.CANCELLED), *own("300.00", known=True, currency="EUR")]
    found = match(paid("750.00"), *own("450.00"), *others, item("CZ1009", "300.00", known=True))
    assert settled(found) == [("CZ1001", "450.00"), ("CZ1009", "300.00")]


# A company pays for its group


def of_group(*amounts: str) -> list[OpenItem]:
    return own(*amounts, group_known=True, group="lipa")


def test_a_company_of_the_group_pays_the_one_order_of_this_amount() -> None:
    found = match(paid("450.00"), *of_group("450.00", "300.00"))
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00")])
    assert "the payer's account is that of a company of the group" in found.reason
    assert shown(found)["CZ1001"] == ["the known account of a company of its group"]


def test_a_company_of_the_group_pays_the_one_set_of_orders_of_several_customers() -> None:
    members = [replace(each, customer=place) for place, each in enumerate(of_group("450.00", "300.00", "250.00"))]
    found = match(paid("700.00"), *members)
    assert (found.outcome, settled(found)) == (Outcome.EXACT, [("CZ1001", "450.00"), ("CZ1003", "250.00")])


def test_two_orders_of_the_group_or_one_s_own_and_one_of_the_group_are_a_question() -> None:
    assert question(match(paid("450.00"), *of_group("450.00", "450.00")))
    assert question(match(paid("450.00"), *of_group("450.00"), item("CZ1009", known=True, customer=2)))


def test_a_company_of_the_group_with_another_amount_or_another_reference_settles_nothing() -> None:
    assert match(paid("449.99"), *of_group("450.00")).outcome is Outcome.UNKNOWN
    assert match(paid("450.00", "CZ1099"), *of_group("450.00")).outcome is Outcome.UNKNOWN


# What is done about it is the channel's choice


@pytest.mark.parametrize("policy", [Policy.OPERATOR, Policy.BALANCE, Policy.REFUND, Policy.IGNORE])
@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.DUPLICATE, PAID), (Outcome.LATE, {"status": Status.EXPIRED})], ids=str
)
def test_money_for_an_order_that_takes_none_goes_where_the_channel_says_and_to_no_order(
    policy: Policy, outcome: Outcome, state: dict[str, Any]
) -> None:
    within = shops(channel(outcomes={outcome.value: policy.value}))
    found = match(paid("450.00", "CZ1001"), item(**state), within=within)
    assert (found.outcome, found.policy, found.parts, found.surplus) == (outcome, policy, (), czk("0.00"))


@pytest.mark.parametrize("policy", [Policy.OPERATOR, Policy.REFUND])
def test_the_wrong_currency_goes_where_the_channel_says(policy: Policy) -> None:
    within = shops(channel(outcomes={"wrong_currency": policy.value}))
    found = match(euros("450.00"), item(), within=within)
    assert (found.outcome, found.policy, found.parts) == (Outcome.WRONG_CURRENCY, policy, ())


def test_what_a_customer_or_his_group_has_of_his_own_comes_before_what_the_channel_says() -> None:
    group = {"tolerance": {"absolute": "20.00"}, "outcomes": {"over": "operator", "short": "operator"}}
    within = shops(channel(groups={"wholesale": group}, customers={"B1": {"outcomes": {"over": "release"}}}))

    def ended(amount: str, *items: OpenItem) -> tuple[Outcome, Policy]:
        found = match(paid(amount, "CZ1001 CZ1002" if len(items) > 1 else "CZ1001"), *items, within=within)
        assert bool(found.parts) is (found.policy in {Policy.RELEASE, Policy.WAIT})
        return found.outcome, found.policy

    anybody_s, one_s = item(), item(group="wholesale")
    b1_s = replace(one_s, customer_number="B1")
    assert ended("440.00", anybody_s) == (Outcome.SHORT, Policy.WAIT)
    assert ended("440.00", one_s) == ended("440.00", b1_s) == (Outcome.WITHIN_TOLERANCE, Policy.RELEASE)
    assert ended("400.00", one_s) == ended("400.00", b1_s) == (Outcome.SHORT, Policy.OPERATOR)
    assert ended("500.00", anybody_s) == ended("500.00", b1_s) == (Outcome.OVER, Policy.RELEASE)
    assert ended("500.00", one_s) == (Outcome.OVER, Policy.OPERATOR)


def test_orders_whose_customers_are_treated_otherwise_are_left_to_a_person_together() -> None:
    within = shops(channel(outcomes={"late": "refund"}, groups={"wholesale": {"outcomes": {"late": "balance"}}}))
    gone = [item(number, status=Status.CANCELLED) for number in ("CZ1001", "CZ1002")]
    alike = match(paid("900.00", "CZ1001, CZ1002"), *gone, within=within)
    assert (alike.outcome, alike.policy) == (Outcome.LATE, Policy.REFUND)
    gone[1] = replace(gone[1], group="wholesale")
    apart = match(paid("900.00", "CZ1001, CZ1002"), *gone, within=within)
    assert (apart.outcome, apart.policy) == (Outcome.LATE, Policy.OPERATOR)


def test_what_names_nothing_is_treated_by_the_rules_of_the_one_channel_that_owns_the_account() -> None:
    ignoring, asking = channel(outcomes={"unknown": "ignore"}), channel("sk", SK_ACCOUNT, "SK[0-9]{4}")
    within = shops(ignoring, asking)
    for account, policy in (
        (CZ_ACCOUNT, Policy.IGNORE),
        (SK_ACCOUNT, Policy.OPERATOR),
        (NOBODYS, Policy.OPERATOR),
        (None, Policy.OPERATOR),
    ):
        found = match(paid(account=account), item(), within=within)
        assert (found.outcome, found.policy) == (Outcome.UNKNOWN, policy), account
    shared = shops(ignoring, channel("sk", CZ_ACCOUNT, "SK[0-9]{4}", outcomes={"unknown": "ignore"}))
    assert match(paid(), item(), within=shared).policy is Policy.OPERATOR


def test_a_question_is_always_a_person_s() -> None:
    bold = shops(channel(outcomes=dict.fromkeys(("duplicate", "late", "unknown"), "ignore")))
    assert question(match(paid("100.00", "CZ1001 CZ1002"), item(), item("CZ1002"), within=bold))


@pytest.mark.parametrize("amount", ["450.00", "-450.00", "0.00"])
@pytest.mark.parametrize("text", ["CZ1001", "vraceno", None])
def test_what_the_bank_sends_back_is_returned_and_settles_nothing(amount: str, text: str | None) -> None:
    found = match(paid(amount, text, kind=Kind.RETURN), item(known=True))
    assert (found.outcome, found.policy, found.parts) == (Outcome.RETURNED, Policy.OPERATOR, ())
    assert found.reason.startswith("the bank returned ")


# Whatever comes


AMOUNTS = st.sampled_from(["100.00", "100.00", "150.00", "200.00", "250.00"])
NAMES = (JANA, PETR, KAREL, "")
NUMBERS = [f"CZ{number}" for number in range(1001, 1009)]


@st.composite
def worlds(draw: st.DrawFn) -> list[OpenItem]:
    found: list[OpenItem] = []
    for number in draw(st.lists(st.sampled_from(NUMBERS), unique=True, max_size=7)):
        total = draw(AMOUNTS)
        found.append(
            item(
                number,
                draw(st.sampled_from([total, total, total, "0.00", "50.00"])),
                of=total,
                channel=draw(st.sampled_from(["cz", "cz", "cz", "sk"])),
                status=draw(st.sampled_from([Status.AWAITING_PAYMENT] * 4 + [Status.CANCELLED])),
                symbol=draw(st.sampled_from([number[2:], "1001", None])),
                known=draw(st.booleans()),
                group_known=draw(st.sampled_from([False, False, True])),
                currency=draw(st.sampled_from(["CZK"] * 4 + ["EUR"])),
                customer=draw(st.sampled_from([None, 1, 1, 2])),
                name=draw(st.sampled_from(NAMES)),
            )
        )
    return found


def paying(names: Sequence[str] = NAMES, accounts: Sequence[str | None] = (PAYER, PAYER, None)) -> Any:
    texts = ["CZ1001", "CZ1002, 1003", "1004", "VS 1005", "VS 1001 26", "FV-1006", "CZ1099", "za caj"]
    return st.builds(
        paid,
        st.sampled_from(
            ["100.00", "150.00", "200.00", "250.00", "300.00", "350.00", "101.00", "450.00", "4.00", "-5.00"]
        ),
        st.lists(st.sampled_from(texts), max_size=3).map("; ".join),
        variable_symbol=st.sampled_from([None, None, "1001", "1002"]),
        end_to_end_id=st.sampled_from([None, None, "NOTPROVIDED", "CZ1001"]),
        account=st.sampled_from([CZ_ACCOUNT, CZ_ACCOUNT, SK_ACCOUNT, None]),
        payer_name=st.sampled_from(names),
        payer_account=st.sampled_from(accounts),
        currency=st.sampled_from(["CZK", "CZK", "CZK", "EUR"]),
    )


ANY = shops(
    channel(tolerance={"absolute": "2.00", "percent": "1"}, conversion={"rates": {"EUR": "25"}}),
    channel("sk", SK_ACCOUNT, "[A-Z]{2}[0-9]{4}", outcomes={"short": "operator", "duplicate": "balance"}),
)


@given(paying(), worlds())
def test_what_is_allocated_and_the_surplus_come_to_the_payment_and_no_item_gets_more_than_its_own(
    payment: IncomingPayment, items: list[OpenItem]
) -> None:
    found = match(payment, *items, within=ANY)
    taken = [part.taken or part.amount for part in found.parts]
    if taken:
        assert sum(each.minor for each in taken) + found.surplus.minor == payment.amount.minor
        assert {each.currency for each in taken} == {payment.amount.currency}
    else:
        assert not found.surplus
    for part in found.parts:
        rules = ANY[part.item.channel]
        percent = rules.conversion.percent if part.taken else rules.tolerance.percent
        limit = max(200 if not part.taken else 0, int(part.item.open.minor * percent / 100))
        assert part.item.status not in CLOSED
        assert 0 < part.amount.minor <= part.item.open.minor + limit
        assert part.amount.currency == part.item.amount.currency
        assert abs(part.write_off.minor) <= limit


@given(paying(), worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_candidates_come_changes_nothing(
    payment: IncomingPayment, items: list[OpenItem], shuffle: random.Random
) -> None:
    expected = match(payment, *items, within=ANY)
    shuffled = list(items)
    shuffle.shuffle(shuffled)
    assert match(payment, *shuffled, within=ANY) == expected


@st.composite
def strangers(draw: st.DrawFn) -> list[OpenItem]:
    """Draw orders that share no reference, name, account or customer with what the payments here say."""
    return [
        item(
            f"CZ{number}",
            draw(AMOUNTS),
            symbol=str(number),
            customer=draw(st.sampled_from([None, 77, 78])),
            name=draw(st.sampled_from(["", "Ivan Horák"])),
            group=draw(st.sampled_from([None, "lipa"])),
            currency=draw(st.sampled_from(["CZK", "EUR"])),
            status=draw(st.sampled_from([Status.AWAITING_PAYMENT, Status.CANCELLED])),
        )
        for number in draw(st.lists(st.integers(2001, 2099), unique=True, min_size=1, max_size=5))
    ]


@given(paying(), worlds(), strangers(), st.randoms(use_true_random=False))
def test_orders_that_have_nothing_to_do_with_a_payment_change_nothing(
    payment: IncomingPayment, items: list[OpenItem], others: list[OpenItem], shuffle: random.Random
) -> None:
    expected = match(payment, *items, within=ANY)
    together = [*items, *others]
    shuffle.shuffle(together)
    assert match(payment, *together, within=ANY) == expected


# Letters and digits that stand in no word of a reason.
odd_names = st.lists(st.text("qxzQXZщжъЩЖ", min_size=4, max_size=9), min_size=2, max_size=3).map(" ".join)
odd_accounts = st.integers(10**20, 10**21).map(lambda number: f"XQ{number}")


@given(st.data(), odd_names, odd_accounts, worlds())
def test_no_reason_and_no_evidence_says_who_paid_or_from_where(
    data: st.DataObject, name: str, account: str, items: list[OpenItem]
) -> None:
    payment: IncomingPayment = data.draw(paying([name], [account]))
    theirs = {(EvidenceKind.PAYER_ACCOUNT, account), (EvidenceKind.GROUP_ACCOUNT, account)}
    known: list[OpenItem] = []
    for each in items:
        by_name = (EvidenceKind.PAYER_NAME, payer_reference(name, each.amount) or "")
        more = data.draw(st.sampled_from([theirs, {by_name}, theirs | {by_name}]))
        known.append(replace(each, references=each.references | more, customer_name=name))
    found = match(payment, *known, within=ANY)
    said = " ".join([found.reason, *(text for texts in shown(found).values() for text in texts)])
    assert not any(word in said for word in [*name.split(), account, account[2:]])
