"""Payment QR strings, against strings written by hand from the two formats' descriptions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any
from urllib.parse import unquote

import pytest
from document_builders import IBAN, SELLER, document, line
from hypothesis import given
from hypothesis import strategies as st
from segno import helpers, make

from domain.documents import credit
from domain.money import Money
from domain.payment_qr import PaymentQrError, epc, payment_qr, spayd
from domain.references import variable_symbols_in
from domain.rules import DocumentKind

CZK_450 = Money(45000, "CZK")
EUR_450 = Money(45050, "EUR")
RF = "RF18539007547034"
SHOP = SELLER.model_copy(update={"name": "Casa Țesătură SRL", "iban": "RO49AAAA1B31007593840000"})


def test_spayd_says_account_amount_symbol_message_and_day() -> None:
    said = spayd(
        iban="cz65 0800 0000 1920 0014 5399",
        bic="GIBACZPX",
        amount=CZK_450,
        variable_symbol="1042",
        message="Objednávka č. 1042",
        due_on=date(2026, 7, 15),
    )

    assert said == (
        "SPD*1.0*ACC:CZ6508000000192000145399+GIBACZPX*AM:450.00*CC:CZK*X-VS:1042*MSG:OBJEDNAVKA C. 1042*DT:20260715"
    )


def test_spayd_leaves_out_what_is_not_known() -> None:
    assert spayd(iban=IBAN, amount=CZK_450) == "SPD*1.0*ACC:CZ6508000000192000145399*AM:450.00*CC:CZK"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("2*3", "2%2A3"),
        ("100 %", "100 %25"),
        ("a&b", "A%26B"),
        ("КВ-7", "%D0%9A%D0%92-7"),
        ("two\nlines", "TWO LINES"),
        ("x" * 70, "X" * 60),
    ],
)
def test_spayd_messages_are_encoded_and_cut(message: str, value: str) -> None:
    assert spayd(iban=IBAN, amount=CZK_450, message=message).endswith(f"*MSG:{value}")


@given(st.text())
def test_no_message_breaks_a_spayd_apart(message: str) -> None:
    parts = spayd(iban=IBAN, amount=CZK_450, message=message).split("*")

    assert parts[:5] == ["SPD", "1.0", f"ACC:{IBAN}", "AM:450.00", "CC:CZK"]
    assert len(parts) <= 6
    for part in parts[5:]:
        value = part.removeprefix("MSG:")
        assert value.isascii()
        assert len(value) <= 60
        unquote(value, errors="strict")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"iban": "CZ6508000000192000145398"}, "not an IBAN"),
        ({"iban": "19-2000145399/0800"}, "not an IBAN"),
        ({"iban": ""}, "not an IBAN"),
        ({"bic": "GIBA"}, "not a BIC"),
        ({"variable_symbol": "12345678901"}, "at most 10 digits"),
        ({"variable_symbol": "CZ1042"}, "at most 10 digits"),
        ({"amount": Money.zero("CZK")}, "takes 0.01 to"),
        ({"amount": Money(-1, "CZK")}, "takes 0.01 to"),
        ({"amount": Money.parse("10000000.00", "CZK")}, "takes 0.01 to"),
        ({"amount": Money.parse("1.000", "KWD")}, "takes 0.01 to"),
    ],
)
def test_spayd_refuses_what_the_format_cannot_say(wrong: dict[str, Any], why: str) -> None:
    told: dict[str, Any] = {"iban": IBAN, "amount": CZK_450, **wrong}

    with pytest.raises(PaymentQrError, match=why):
        spayd(**told)


def test_epc_says_its_lines_in_order() -> None:
    said = epc(name="Casa Țesătură SRL", iban="RO49 AAAA 1B31 0075 9384 0000", bic="AAAAROBU", amount=EUR_450, rf=RF)

    assert said.split("\n") == [
        "BCD",
        "002",
        "1",
        "SCT",
        "AAAAROBU",
        "Casa Țesătură SRL",
        "RO49AAAA1B31007593840000",
        "EUR450.50",
        "",
        "RF18539007547034",
    ]


def test_epc_puts_a_text_in_the_line_after_the_reference() -> None:
    said = epc(name="Casa", iban=IBAN, amount=EUR_450, text="/VS1042, P202600001")

    assert said.split("\n")[8:] == ["", "", "/VS1042, P202600001"]


@pytest.mark.parametrize(("rf", "text"), [(RF, ""), (None, "Invoice 202600001"), (None, "Factură nr. 1")])
def test_epc_codes_are_the_ones_that_another_implementation_draws(rf: str | None, text: str) -> None:
    amount = Money.parse("450.55", "EUR")

    content = epc(name="Casa SRL", iban=IBAN, amount=amount, rf=rf, text=text)

    ours = make(content, error="m", boost_error=False, micro=False, encoding="utf-8")
    theirs = helpers.make_epc_qr(
        name="Casa SRL", iban=IBAN, amount=amount.decimal, reference=rf, text=text or None, encoding=1
    )
    assert ours.matrix == theirs.matrix


def test_no_text_adds_a_line_to_an_epc_code() -> None:
    said = epc(name="Casa\nEUR1.00", iban=IBAN, amount=EUR_450, text="one\r\ntwo")

    assert said.split("\n")[5:] == ["Casa EUR1.00", IBAN, "EUR450.50", "", "", "one two"]


@pytest.mark.parametrize("amount", ["0.01", "999999999.99"])
def test_epc_takes_the_whole_range_of_amounts(amount: str) -> None:
    assert f"\nEUR{amount}\n" in epc(name="Casa", iban=IBAN, amount=Money.parse(amount, "EUR"), text="x")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"amount": CZK_450}, "0.01 to 999999999.99 EUR"),
        ({"amount": Money.zero("EUR")}, "0.01 to 999999999.99 EUR"),
        ({"amount": Money.parse("1000000000.00", "EUR")}, "0.01 to 999999999.99 EUR"),
        ({"name": ""}, "1 to 70 characters"),
        ({"name": "x" * 71}, "1 to 70 characters"),
        ({"text": "x" * 141}, "at most 140 characters"),
        ({"text": "ж" * 140}, "331 bytes"),
        ({"rf": "RF19539007547034"}, "not an ISO 11649 reference"),
        ({"rf": RF, "text": "both"}, "not both"),
        ({"iban": "CZ6508000000192000145398"}, "not an IBAN"),
        ({"bic": "GIBA"}, "not a BIC"),
    ],
)
def test_epc_refuses_what_the_guideline_does_not_allow(wrong: dict[str, Any], why: str) -> None:
    told: dict[str, Any] = {"name": "ж" * 35, "iban": IBAN, "amount": EUR_450, **wrong}

    with pytest.raises(PaymentQrError, match=why):
        epc(**told)


def test_a_czech_document_is_paid_by_what_is_left_of_it() -> None:
    made = document(paid=Money(20000, "CZK"), number="P202600001", kind=DocumentKind.PROFORMA)

    assert payment_qr(made) == f"SPD*1.0*ACC:{IBAN}*AM:250.00*CC:CZK*X-VS:1042*MSG:P202600001 1042*DT:20260715"


def test_a_document_in_euro_is_paid_by_its_rf_reference() -> None:
    said = payment_qr(document(line("450.50", currency="EUR"), seller=SHOP, rf=RF))

    assert said == f"BCD\n002\n1\nSCT\n\nCasa Țesătură SRL\nRO49AAAA1B31007593840000\nEUR450.50\n\n{RF}"


def test_a_document_in_euro_without_one_carries_its_numbers_as_text() -> None:
    said = payment_qr(document(line("450.50", currency="EUR"), seller=SHOP))

    assert said is not None
    assert said.endswith("\n/VS1042, 202600001, 1042")
    assert list(variable_symbols_in(said.split("\n")[-1])) == ["1042"]


@pytest.mark.parametrize(
    "made",
    [
        document(paid=CZK_450),
        document(paid=Money(99900, "CZK")),
        document(line("450.00", currency="UAH")),
        document(seller=SELLER.model_copy(update={"iban": ""})),
        credit(document(), "CN1", date(2026, 7, 20)),
        credit(document(line("-450.00")), "CN1", date(2026, 7, 20)),
    ],
    ids=["paid", "overpaid", "no standard for the currency", "no account", "credit note", "credit note of a credit"],
)
def test_there_is_no_code_where_there_is_nothing_to_pay_or_no_way_to_say_it(made: Any) -> None:
    assert payment_qr(made) is None


def test_a_qr_code_asks_for_no_more_than_is_paid_before_the_delivery() -> None:
    later = document(paid=Money(5000, "CZK"), on_delivery=Money(10000, "CZK"))
    assert "AM:300.00" in str(payment_qr(later))
    assert payment_qr(replace(later, paid=Money(35000, "CZK"))) is None
