"""Payouts: which movement on a bank statement is a gateway's lump sum, and which report can't be right."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.money import Money
from domain.payments import IncomingPayment, Kind, Method, Refusal
from domain.payouts import (
    EARLY_DAYS,
    LATE_DAYS,
    Arrived,
    Expected,
    LineKind,
    Movement,
    Payout,
    PayoutLine,
    Unclear,
    Unidentified,
    find_payout,
    identify,
    in_words,
    movement,
    problems,
)

DAY = date(2026, 11, 23)
STRIPE = {"stripe:cards": ["STRIPE"]}
NOBODY: dict[str, list[str]] = {}


def eur(amount: str) -> Money:
    return Money.parse(amount, "EUR")


# Reports.


def line(id_: str = "1", gross: str = "100.00", fee: str = "3.00", net: str | None = None, **told: Any) -> PayoutLine:
    values: dict[str, Any] = {
        "external_id": id_,
        "kind": LineKind.PAYMENT,
        "gross": eur(gross),
        "fee": eur(fee),
        "net": eur(gross) - eur(fee) if net is None else eur(net),
    }
    return PayoutLine(**(values | told))


REFUND = line("2", "-20.00", "0.00", kind=LineKind.REFUND)
FEE = line("3", "0.00", "5.00", kind=LineKind.FEE)


def payout(*lines: PayoutLine, **told: Any) -> Payout:
    made = lines or (line(), REFUND, FEE)
    values: dict[str, Any] = {"source": "stripe:cards", "external_id": "po_1", "paid_on": DAY, "lines": made}
    values |= {name: sum((getattr(one, name) for one in made), eur("0")) for name in ("gross", "fee", "net")}
    return Payout(**(values | told))


def wrong(*lines: PayoutLine, **told: Any) -> list[tuple[str, str]]:
    return [(problem.where, problem.reason) for problem in problems(payout(*lines, **told))]


def test_a_report_whose_sums_are_right_is_taken() -> None:
    assert wrong() == []
    assert payout().net == eur("72.00")


def test_a_payout_in_which_more_went_back_than_came_is_negative_and_right() -> None:
    assert wrong(line("1", "10.00", "1.00"), REFUND) == []
    assert payout(line("1", "10.00", "1.00"), REFUND).net == eur("-11.00")


def test_fees_that_are_given_back_are_negative() -> None:
    assert wrong(line(), line("2", "-20.00", "-0.60", kind=LineKind.REFUND)) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (line("7", net="97.01"), "gross 100.00 less fee 3.00 is not net 97.01"),
        (line("7", "-100.00"), "the gross amount of a payment must be more than zero, and it is -100.00"),
        (line("7", "0.00", "0.00"), "the gross amount of a payment must be more than zero, and it is 0.00"),
        (line("7", kind=LineKind.REFUND), "the gross amount of a refund must be less than zero, and it is 100.00"),
        (line("7", kind=LineKind.CHARGEBACK), "the gross amount of a chargeback must be less than zero"),
        (line("7", "-9.00", kind=LineKind.REINSTATED), "the gross amount of a reinstated must be more than zero"),
        (line("7", kind=LineKind.FEE), "a line that is a fee has no gross amount, and this one has 100.00"),
        (line(""), "its id must have 1 to 200 characters"),
        (line("7\n"), "its id must have 1 to 200 characters"),
        (line("7" * 201), "its id must have 1 to 200 characters"),
    ],
)
def test_a_line_that_can_not_be_right_is_named(bad: PayoutLine, said: str) -> None:
    ((where, reason),) = wrong(line(), bad)
    assert where == f"payout po_1, line {bad.external_id:.60}"
    assert said in reason


def test_a_line_of_a_file_is_named_by_its_place_there() -> None:
    assert problems(payout(line(net="9.00", where="line 5"))) == (
        Refusal("line 5", "gross 100.00 less fee 3.00 is not net 9.00"),
    )


def test_a_line_in_another_currency_is_named() -> None:
    czk = Money(100, "CZK")
    other = line("7", gross=eur("0").amount, fee="0", net="0", kind=LineKind.OTHER)
    bad = PayoutLine(external_id="7", kind=LineKind.OTHER, gross=czk, fee=Money(0, "CZK"), net=czk)
    assert problems(payout(line(), other)) == ()
    made = payout(line())
    told = Payout(
        source=made.source,
        external_id="po_1",
        gross=made.gross,
        fee=made.fee,
        net=made.net,
        paid_on=DAY,
        lines=(line(), bad),
    )
    assert [(p.where, p.reason) for p in problems(told)] == [
        ("payout po_1, line 7", "it is in CZK, but the payout is in EUR")
    ]


def test_an_id_that_stands_twice_is_named_each_time() -> None:
    said = wrong(line("1"), line("1"), line("2"))
    assert said == [("payout po_1, line 1", "the id 1 stands 2 times")] * 2


@pytest.mark.parametrize("name", ["gross", "fee", "net"])
def test_a_sum_that_is_not_that_of_the_lines_is_told_with_both_figures(name: str) -> None:
    right: Money = getattr(payout(), name)
    told = right + eur("0.01")
    assert wrong(**{name: told}) == [("payout po_1", f"{name}: it says {told}, but its lines come to {right}")]


def test_sums_beyond_what_money_can_be_are_refused_and_not_raised() -> None:
    huge = "9" * 15 + ".00"
    lines = [line(f"{n}", huge, "0.00") for n in range(11)]
    made = payout(lines[0])
    told = Payout(
        source="s",
        external_id="p",
        gross=made.gross,
        fee=made.fee,
        net=made.net,
        paid_on=DAY,
        lines=tuple(lines),
    )
    assert {p.reason.rpartition("come to ")[2] for p in problems(told)} == {"more than an amount of money can be"}


def test_a_report_without_lines_is_none() -> None:
    made = payout()
    told = Payout(source="s", external_id="p", gross=made.gross, fee=made.fee, net=made.net, paid_on=DAY, lines=())
    assert "has no lines" in problems(told)[0].reason


@pytest.mark.parametrize("bad", ["", "p" * 201, "p\0", " "])
def test_a_payouts_id_can_be_kept_or_it_is_refused(bad: str) -> None:
    assert any("its id must have" in reason for _, reason in wrong(external_id=bad))


def test_what_a_payout_comes_to_is_said_in_words() -> None:
    sums = (eur("1000.00"), eur("30.00"), eur("970.00"))
    counts = {LineKind.REFUND: 1, LineKind.PAYMENT: 12}
    assert in_words("stripe:cards", "po_1", sums, counts) == (
        "payout po_1 of cards: 1000.00 EUR gross, 30.00 EUR fees, 970.00 EUR net; 12 payments and 1 refund"
    )
    counts = {LineKind.PAYMENT: 1, LineKind.REINSTATED: 1, LineKind.CHARGEBACK: 2, LineKind.OTHER: 3, LineKind.FEE: 1}
    assert in_words("gateway", "P1", sums, counts).endswith(
        "; 1 payment, 2 chargebacks, 1 won dispute, 1 fee and 3 other movements"
    )


# Lines and our payments.


def ours(
    id_: int = 1, amount: str = "100.00", *, external_id: str = "x", lines: int = 0, reported: str = "0"
) -> Movement:
    return Movement(id=id_, external_id=external_id, amount=eur(amount), reported=eur(reported).minor, lines=lines)


def test_a_line_of_no_known_payment_is_new() -> None:
    assert identify(line(), []) is Unidentified.NEW
    assert identify(REFUND, []) is Unidentified.NEW


def test_a_line_is_the_payment_of_its_id_whatever_the_amounts() -> None:
    named = ours(2, "99.00", external_id="1")
    assert identify(line("1"), [ours(1), named, ours(3)]) == named


def test_a_line_is_the_payment_of_its_amount_that_no_other_line_is() -> None:
    assert identify(line(), [ours(1, "40.00"), ours(2), ours(3, lines=1, reported="100.00")]) == ours(2)


def test_a_payment_with_another_amount_is_that_payment_and_never_a_second_one() -> None:
    assert identify(line(), [ours(1, "40.00")]) == ours(1, "40.00")


def test_a_payment_that_was_captured_in_parts_has_several_lines() -> None:
    part = line("2", "60.00", "0.00")
    taken = ours(1, "100.00", lines=1, reported="40.00")
    assert identify(part, [taken]) == taken
    assert identify(line("2", "60.01", "0.00"), [taken]) is Unidentified.NEW


def test_a_refund_with_another_amount_is_left_to_a_person() -> None:
    assert identify(REFUND, [ours(1, "-30.00")]) is Unidentified.UNCLEAR
    assert identify(REFUND, [ours(1, "-30.00", lines=1, reported="-30.00")]) is Unidentified.NEW
    assert identify(REFUND, [ours(1, "-30.00"), ours(2, "-20.00")]) == ours(2, "-20.00")


def test_what_is_made_of_a_line_says_all_that_the_line_tells() -> None:
    told = line("T-1", provider_reference="ref", order_reference="E1001", booked_on=DAY - timedelta(days=2))
    assert movement(payout(told), told) == IncomingPayment(
        source="stripe:cards",
        external_id="payout_line/po_1/T-1",
        method=Method.CARD,
        amount=eur("100.00"),
        booked_on=DAY - timedelta(days=2),
        provider_reference="ref",
        order_reference="E1001",
    )
    made = movement(payout(REFUND), REFUND)
    assert (made.kind, made.amount, made.booked_on) == (Kind.REFUND, eur("-20.00"), DAY)


def test_ids_that_are_too_long_together_stay_different_and_fit() -> None:
    made = {movement(payout(one), one).external_id for one in (line("a" * 200), line("a" * 199 + "b"))}
    assert len(made) == 2
    assert max(map(len, made)) <= 200


# Lump sums.


def expected(id_: int = 1, net: str = "970.00", **told: Any) -> Expected:
    values: dict[str, Any] = {"id": id_, "source": "stripe:cards", "external_id": f"po_ABC00{id_}", "net": eur(net)}
    values["paid_on"] = DAY
    return Expected(**(values | told))


def credit(amount: str = "970.00", text: str | None = "payout po_ABC001", **told: Any) -> IncomingPayment:
    values: dict[str, Any] = {
        "source": "statement",
        "external_id": "1",
        "method": Method.BANK_TRANSFER,
        "amount": eur(amount),
        "booked_on": DAY,
        "text": text,
    }
    return IncomingPayment(**(values | told))


def reason(payment: IncomingPayment, *payouts: Expected, payers: Any = STRIPE) -> str:
    found = find_payout(payment, payouts, payers)
    assert isinstance(found, Unclear)
    return found.reason


@pytest.mark.parametrize(
    "told",
    [
        {"text": "po_ABC001"},
        {"text": "STRIPE PAYMENTS/po_ABC001/NOTPROVIDED"},
        {"text": "PO ABC001"},
        {"text": "payout PO-ABC001, thank you"},
        {"text": "výplata pо_АВС001"},  # Cyrillic look-alikes
        {"text": None, "end_to_end_id": "po_ABC001"},
        {"text": None, "provider_reference": "po_ABC001"},
        {"text": None, "order_reference": "po_ABC001"},
        {"text": "a payment", "payer_name": "STRIPE TECHNOLOGY EUROPE LTD"},
        {"text": "a payment", "payer_name": "Stripe"},
    ],
)
def test_a_movement_of_its_amount_that_names_it_or_its_payer_is_the_payout(told: dict[str, Any]) -> None:
    assert find_payout(credit(**told), [expected()], STRIPE) == Arrived(expected())


@pytest.mark.parametrize(
    ("told", "reference"),
    [
        ({"text": None, "variable_symbol": "0012345678"}, "12345678"),
        ({"text": "VS 12345678"}, "12345678"),
        ({"text": "REF P2026/118 of today"}, "P-2026-118"),
        ({"text": None, "rf": "RF18539007547034"}, "RF18539007547034"),
    ],
)
def test_a_reference_of_its_own_names_it_too(told: dict[str, Any], reference: str) -> None:
    one = expected(reference=reference)
    assert find_payout(credit(**told), [one], NOBODY) == Arrived(one)


@pytest.mark.parametrize(
    "told",
    [
        {"text": None},
        {"text": "Order E1001"},
        {"text": "xpo_ABC001"},
        {"text": "po_ABC0011"},
        {"text": "po_ABC002"},
        {"payer_name": "Stripes and Sons", "text": None},
        {"payer_name": "Jan Novák", "text": "stripe"},
    ],
)
def test_amount_and_day_alone_never_make_a_payout(told: dict[str, Any]) -> None:
    assert find_payout(credit(**told), [expected()], STRIPE) is None


def test_a_short_id_names_nothing() -> None:
    short = expected(external_id="1042", reference="P-7")
    assert find_payout(credit(text="order 1042, P-7"), [short], NOBODY) is None


def test_two_short_names_of_one_payout_name_it_together_and_only_with_its_very_amount() -> None:
    registry = expected(external_id="4200", reference="9000", source="cdek:cdek")
    both = "реестр 4200, платёжное поручение № 9000"
    assert find_payout(credit(text=both), [registry], NOBODY) == Arrived(registry)
    assert find_payout(credit("970.01", text=both), [registry], NOBODY) is None
    assert find_payout(credit(text="реестр 4200"), [registry], NOBODY) is None


def test_of_two_that_fit_and_come_from_one_payer_a_short_name_decides() -> None:
    one, other = expected(1, external_id="4200"), expected(2, external_id="4201")
    paid = credit(text="registry 4201", payer_name="STRIPE")
    assert find_payout(paid, [one, other], STRIPE) == Arrived(other)


def test_a_number_that_is_only_part_of_a_row_of_digits_names_nothing() -> None:
    one = expected(external_id="20261123")
    assert find_payout(credit(text="2026-11-23"), [one], NOBODY) is None
    assert find_payout(credit(text="20261123"), [one], NOBODY) == Arrived(one)


@pytest.mark.parametrize(
    ("known", "account"),
    [("CZ6508000000192000145399", "CZ65 0800 0000 1920 0014 5399"), ("19-2000145399/0800", "000019-2000145399/0800")],
)
def test_an_account_that_the_gateway_pays_from_is_known(known: str, account: str) -> None:
    payment = credit(text=None, payer_account=account, payer_name="anybody")
    assert find_payout(payment, [expected()], {"stripe:cards": [known]}) == Arrived(expected())
    assert find_payout(payment, [expected()], {"stripe:cards": ["19/0800"]}) is None


@pytest.mark.parametrize("days", range(-EARLY_DAYS, LATE_DAYS + 1))
def test_the_bank_may_book_it_within_some_days(days: int) -> None:
    payment = credit(booked_on=DAY + timedelta(days=days))
    assert find_payout(payment, [expected()], STRIPE) == Arrived(expected())


@pytest.mark.parametrize("days", [-EARLY_DAYS - 1, LATE_DAYS + 1])
def test_beyond_these_days_a_person_looks(days: int) -> None:
    booked = DAY + timedelta(days=days)
    said = f"it names payout po_ABC001 of cards, which was to arrive on 2026-11-23, and this was booked on {booked}"
    assert reason(credit(booked_on=booked), expected()) == said
    payment = credit(text=None, payer_name="STRIPE", booked_on=booked)
    assert "no report of a payout over 970.00 EUR around that day has come yet" in reason(payment, expected())


@pytest.mark.parametrize("amount", ["960.00", "969.99", "970.01", "97.00", "9700.00"])
def test_another_amount_is_left_to_a_person_with_both_figures(amount: str) -> None:
    named = f"it names payout po_ABC001 of cards, whose report says 970.00 EUR, and {amount} EUR arrived"
    assert reason(credit(amount), expected()) == named
    payer = reason(credit(amount, text=None, payer_name="STRIPE"), expected())
    assert (
        payer
        == f"it comes from cards; the report of payout po_ABC001 of cards says 970.00 EUR, and {amount} EUR arrived"
    )


def test_another_currency_is_another_amount() -> None:
    payment = credit(amount="970.00", text="po_ABC001")
    czk = expected(net="970.00")
    other = Expected(
        **{name: getattr(czk, name) for name in ("id", "source", "external_id", "paid_on")}, net=Money(97000, "CZK")
    )
    assert "whose report says 970.00 CZK, and 970.00 EUR arrived" in reason(payment, other)


def test_a_payout_arrives_once() -> None:
    said = reason(credit(), expected(payment_id=7))
    assert said == "it names payout po_ABC001 of cards, which has arrived already as payment 7"
    again = reason(credit(text=None, payer_name="STRIPE"), expected(payment_id=7))
    assert "no report of a payout over 970.00 EUR around that day has come yet" in again


def test_two_payouts_that_fit_are_a_question() -> None:
    found = find_payout(credit(text=None, payer_name="STRIPE"), [expected(1), expected(2)], STRIPE)
    assert found == Unclear(
        "it could be payout po_ABC001 of cards or payout po_ABC002 of cards, and nothing in it decides between them",
        several=True,
    )


def test_of_two_that_fit_the_one_that_is_named_is_it() -> None:
    payment = credit(text="po_ABC002", payer_name="STRIPE")
    assert find_payout(payment, [expected(1), expected(2)], STRIPE) == Arrived(expected(2))


def test_what_a_gateway_sends_before_its_report_waits_whatever_else_it_names() -> None:
    payment = credit(text="VS 1042, order CZ1042", variable_symbol="1042", payer_name="STRIPE PAYMENTS")
    assert (
        reason(payment) == "it comes from cards, and no report of a payout over 970.00 EUR around that day has come yet"
    )


def test_two_accounts_at_one_gateway_are_told_apart_by_the_amount() -> None:
    payers = {"stripe:a": ["STRIPE"], "stripe:b": ["STRIPE"]}
    one, other = expected(1, "10.00", source="stripe:a"), expected(2, "20.00", source="stripe:b")
    payment = credit("20.00", text=None, payer_name="STRIPE")
    assert find_payout(payment, [one, other], payers) == Arrived(other)


def test_a_payout_of_another_gateway_is_no_candidate() -> None:
    other = expected(source="paypal:x")
    payment = credit(text=None, payer_name="STRIPE")
    assert "no report of a payout" in reason(payment, other)


def test_a_debit_is_a_negative_payout() -> None:
    negative = expected(net="-11.00")
    assert find_payout(credit("-11.00"), [negative], STRIPE) == Arrived(negative)
    assert find_payout(credit("-11.00", text=None, payer_name="STRIPE"), [negative], STRIPE) == Arrived(negative)
    assert "whose report says -11.00 EUR, and 12.00 EUR left" in reason(credit("-12.00"), negative)


def test_a_debit_that_fits_no_payout_may_be_anything() -> None:
    assert find_payout(credit("-12.00", text=None, payer_name="STRIPE"), [expected()], STRIPE) is None


def test_only_movements_of_a_bank_account_are_payouts() -> None:
    for method in (Method.CARD, Method.CASH_ON_DELIVERY):
        assert find_payout(credit(method=method), [expected()], STRIPE) is None
    for kind in set(Kind) - {Kind.PAYMENT}:
        assert find_payout(credit(kind=kind), [expected()], STRIPE) is None
    assert find_payout(credit("0.00"), [expected(net="0.00")], STRIPE) is None


def test_a_payout_of_nothing_is_not_expected() -> None:
    assert find_payout(credit("1.00"), [expected(net="0.00")], NOBODY) is None


@given(
    amounts=st.lists(st.sampled_from(["970.00", "970.01", "-970.00"]), min_size=1, max_size=4),
    amount=st.sampled_from(["970.00", "970.01"]),
    text=st.sampled_from([None, "po_ABC001", "po_ABC002 po_ABC003", "order 1042"]),
    payer=st.sampled_from([None, "STRIPE", "Jan Novák"]),
)
def test_the_order_of_payouts_changes_nothing_and_what_arrives_has_the_very_amount(
    amounts: list[str], amount: str, text: str | None, payer: str | None
) -> None:
    payouts = [expected(number, net) for number, net in enumerate(amounts, start=1)]
    payment = credit(amount, text=text, payer_name=payer)
    decided = {repr(find_payout(payment, list(order), STRIPE)) for order in permutations(payouts)}
    assert len(decided) == 1
    found = find_payout(payment, payouts, STRIPE)
    if isinstance(found, Arrived):
        assert found.payout.net == payment.amount
        assert text in ("po_ABC001", "po_ABC002 po_ABC003") or payer == "STRIPE"
