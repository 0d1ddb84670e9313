"""Money is a whole number of minor units of a currency; whatever isn't exactly that is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.money import Money, MoneyError, exponent

EXPONENTS = {"JPY": 0, "EUR": 2, "KWD": 3, "CLF": 4}
LARGEST = 10**18 - 1

currencies = st.sampled_from(sorted(EXPONENTS))
minors = st.integers(-LARGEST, LARGEST)


@given(minors, currencies)
def test_what_is_printed_is_read_back_as_the_same_money(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    assert Money.from_decimal(money.decimal, currency) == money
    assert Money.parse(money.amount, currency) == money


@given(minors, currencies)
def test_printed_money_has_exactly_the_decimals_of_its_currency(minor: int, currency: str) -> None:
    _, dot, decimals = Money(minor, currency).amount.partition(".")
    assert len(decimals) == EXPONENTS[currency]
    assert bool(dot) == bool(EXPONENTS[currency])


def test_money_prints_as_people_write_it() -> None:
    assert str(Money(104250, "CZK")) == "1042.50 CZK"
    assert str(Money(-5, "EUR")) == "-0.05 EUR"
    assert str(Money(500, "JPY")) == "500 JPY"


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("450.00", 45000),
        ("450", 45000),
        ("450.5", 45050),
        ("-0.01", -1),
        ("+7", 700),
        ("-0", 0),
        (" 1.00 ", 100),
        ("0001.00", 100),
        ("1.0000", 100),
        ("5.", 500),
        (".5", 50),
    ],
)
def test_plain_decimal_numbers_are_read(text: str, minor: int) -> None:
    assert Money.parse(text, "EUR") == Money(minor, "EUR")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "-",
        "--1",
        "1,50",
        "1 000.00",
        "1.000.00",
        "1_000",
        "1_0.5",
        "１２",
        "१२",
        "٤٥٠",
        "1.5०",
        "1e3",
        "1E-2",
        "0x10",
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "12 EUR",
        "€5",
        "5\x00",
        "1\n2",
    ],
)
def test_what_is_no_plain_decimal_number_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(MoneyError, match="is not an amount; write digits with a dot"):
        Money.parse(text, "EUR")


@given(st.text(max_size=60))
def test_any_text_is_either_money_or_refused_with_a_sentence(text: str) -> None:
    try:
        money = Money.parse(text, "EUR")
    except MoneyError:
        return
    assert set(text.strip()) <= set("+-.0123456789")
    assert money.decimal == Decimal(text.strip())


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        ("1.001", "EUR"),
        ("0.5", "JPY"),
        ("1.0001", "KWD"),
        ("1.00001", "CLF"),
        ("0.000000000000000000000000000001", "EUR"),
    ],
)
def test_finer_than_a_minor_unit_is_refused_never_rounded(text: str, currency: str) -> None:
    with pytest.raises(MoneyError, match=f"finer than the smallest unit of {currency}"):
        Money.parse(text, currency)


@pytest.mark.parametrize("text", ["1.00000000000000000000000000001", "123456789012345.000000000000000001"])
def test_a_fraction_beyond_the_precision_of_decimal_arithmetic_is_still_seen(text: str) -> None:
    with pytest.raises(MoneyError, match="finer than the smallest unit of EUR"):
        Money.parse(text, "EUR")


@pytest.mark.parametrize("text", ["10000000000000000", "9" * 39, "-" + "9" * 30])
def test_more_than_any_shop_can_take_is_refused(text: str) -> None:
    with pytest.raises(MoneyError, match="is not an amount of money"):
        Money.parse(text, "EUR")


def test_all_money_fits_a_64_bit_column() -> None:
    assert Money(LARGEST, "EUR").minor < 2**63
    for minor in (LARGEST + 1, -LARGEST - 1, 10**5000):
        with pytest.raises(MoneyError, match="is not an amount of money"):
            Money(minor, "EUR")
    with pytest.raises(MoneyError, match="is not an amount of money"):
        Money.parse("9999999999999999.9999", "CLF")


@pytest.mark.parametrize("text", ["1" * 1_000_000, "0." + "0" * 1_000_000 + "1", "9" * 5_000 + "x"])
def test_endless_text_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(MoneyError) as refused:
        Money.parse(text, "EUR")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("number", ["1E+999999", "1E-999999", "-1E+17", "NaN", "sNaN", "Infinity"])
def test_decimals_that_are_no_money_are_refused_at_once(number: str) -> None:
    with pytest.raises(MoneyError):
        Money.from_decimal(Decimal(number), "EUR")


@pytest.mark.parametrize("minor", [1.0, 1.5, float("nan"), True, False, Decimal(1), "1", None])
def test_only_an_integer_counts_minor_units(minor: Any) -> None:
    with pytest.raises(MoneyError, match="whole number of minor units"):
        Money(minor, "EUR")


@pytest.mark.parametrize("number", [1.0, 0.1, True, 5, "5"])
def test_only_a_decimal_counts_major_units(number: Any) -> None:
    with pytest.raises(MoneyError, match="decimal number of major units"):
        Money.from_decimal(number, "EUR")


@pytest.mark.parametrize("number", [1.0, 5, None, b"5", Decimal(5)])
def test_only_text_is_parsed(number: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        Money.parse(number, "EUR")


@pytest.mark.parametrize("code", ["EURO", "eur", "EU", "", "XXX", "XAU", "Kč", "EUR "])
def test_a_currency_that_is_none_is_refused_and_named(code: str) -> None:
    for make in (
        lambda: Money(1, code),
        lambda: Money.parse("1", code),
        lambda: Money.zero(code),
        lambda: exponent(code),
    ):
        with pytest.raises(MoneyError, match=f"“{code}” is not an ISO 4217 currency code"):
            make()


@pytest.mark.parametrize(
    ("decimals", "codes"),
    [
        (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
        (2, "EUR CZK RON UAH RUB PLN HUF USD GBP CHF BYN MDL SEK BGN HRK SKK"),
        (3, "BHD IQD JOD KWD LYD OMR TND"),
        (4, "CLF UYW"),
    ],
)
def test_every_currency_has_the_decimals_of_iso_4217(decimals: int, codes: str) -> None:
    assert {code: exponent(code) for code in codes.split()} == dict.fromkeys(codes.split(), decimals)


half = st.integers(-(LARGEST // 2), LARGEST // 2)


@given(half, half)
def test_money_of_one_currency_adds_subtracts_and_orders_as_its_minor_units_do(one: int, other: int) -> None:
    a, b = Money(one, "EUR"), Money(other, "EUR")
    assert (a + b).minor == a.minor + b.minor
    assert a - b == a + -b
    assert abs(a).minor == abs(a.minor)
    assert (a < b, a <= b, a > b, a >= b, a == b) == (
        a.minor < b.minor,
        a.minor <= b.minor,
        a.minor > b.minor,
        a.minor >= b.minor,
        a.minor == b.minor,
    )
    assert [money.minor for money in sorted([a, b])] == sorted([a.minor, b.minor])
    assert bool(a) == (a.minor != 0)


def test_different_currencies_are_never_added_or_compared_and_never_equal() -> None:
    euros, crowns = Money(100, "EUR"), Money(100, "CZK")
    assert euros != crowns
    for mix in (
        lambda: euros + crowns,
        lambda: euros - crowns,
        lambda: euros < crowns,
        lambda: euros <= crowns,
        lambda: euros > crowns,
        lambda: euros >= crowns,
        lambda: sum([crowns, euros], Money.zero("CZK")),
        lambda: euros + Money.zero("CZK"),
    ):
        with pytest.raises(MoneyError, match="different currencies"):
            mix()


def test_money_can_be_a_key_and_can_not_be_changed() -> None:
    money = Money(100, "EUR")
    assert {money: "found"}[Money(100, "EUR")] == "found"
    with pytest.raises(AttributeError):
        money.minor = 200  # pyright: ignore[reportAttributeAccessIssue]  # what is proved here
