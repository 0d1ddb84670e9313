"""An order document: taken whole or refused whole, with a sentence per mistake and nothing personal in it."""

from __future__ import annotations

import csv
import io
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.money import Money
from domain.order_document import CSV_COLUMNS, OrderDocument, OrderError, order_from_rows, parse_order
from domain.payments import Method

NAME, EMAIL = "Jana Nováková", "jana.novakova@example.com"
ORDER: dict[str, Any] = {
    "number": "CZ1042",
    "channel": "cz",
    "method": "bank_transfer",
    "placed_at": "2026-05-04T10:00:00+02:00",
    "currency": "CZK",
    "total": "552.00",
    "customer": {"number": "C0101", "name": NAME, "email": EMAIL},
    "lines": [
        {"sku": "TEA-1", "title": "Sencha", "quantity": 2, "unit_price": "189.00", "vat_rate": "12"},
        {"title": "Delivery", "quantity": 1, "unit_price": "174.00", "vat_rate": "21"},
    ],
}


def document(**changed: Any) -> dict[str, Any]:
    """Make an order document; a name such as customer__email or lines__0__quantity says what is changed."""
    made = deepcopy(ORDER)
    for path, value in changed.items():
        place: Any = made
        *steps, last = [int(step) if step.isdigit() else step for step in path.split("__")]
        for step in steps:
            if step not in place and not isinstance(step, int):
                place[step] = {}
            place = place[step]
        place[last] = value
    return made


def taken(**changed: Any) -> OrderDocument:
    return parse_order(document(**changed), where="orders.json, order 1")


def refusal(**changed: Any) -> str:
    """Return the text with which a document is refused, without where it stands."""
    with pytest.raises(OrderError) as refused:
        taken(**changed)
    text = str(refused.value)
    assert text.startswith("orders.json, order 1: ")
    return text.removeprefix("orders.json, order 1: ")


# What is taken


def test_an_order_is_taken_as_it_is_written() -> None:
    order = taken(variable_symbol="0000001042", rf="RF18 5390 0754 7034", provider_reference="pi_1")
    assert (order.number, order.method, order.customer.name) == ("CZ1042", Method.BANK_TRANSFER, NAME)
    assert order.placed_at == datetime(2026, 5, 4, 8, 0, tzinfo=UTC)
    assert order.placed_at.tzinfo is UTC
    assert (order.variable_symbol, order.rf) == ("1042", "RF18539007547034")
    assert order.money(order.total, "total") == Money(55200, "CZK")
    assert [line.vat_rate for line in order.lines] == [Decimal(12), Decimal(21)]


def test_spaces_around_a_value_do_not_count_and_empty_references_are_none() -> None:
    order = taken(number=" CZ1042\n", customer__name=f" {NAME} ", variable_symbol="", rf="")
    assert (order.number, order.customer.name, order.variable_symbol, order.rf) == ("CZ1042", NAME, None, None)


def test_a_part_of_the_total_can_be_paid_on_delivery() -> None:
    assert taken().on_delivery is None
    assert taken(delivery__paid_on_delivery="174.00").on_delivery == Money(17400, "CZK")


@pytest.mark.parametrize("part", ["0", "-1.00", "552.00", "600.00"])
def test_what_is_paid_on_delivery_is_a_part_of_the_total(part: str) -> None:
    assert "it is a part of the total of 552.00 CZK" in refusal(delivery__paid_on_delivery=part)


def test_an_order_that_is_paid_whole_on_delivery_names_no_part_of_it() -> None:
    said = refusal(method="cash_on_delivery", delivery__paid_on_delivery="174.00")
    assert said.startswith("delivery.paid_on_delivery: all of an order by cash on delivery is")


def test_a_discount_is_a_line_with_a_negative_price() -> None:
    discount = {"title": "Discount", "quantity": 1, "unit_price": "-52.00"}
    assert len(taken(lines=[*ORDER["lines"], discount], total="500.00").lines) == 3


@pytest.mark.parametrize("number", ["1042", "CZ-10/42", "2026.1042", "A_1 b", "Ж-7"])
def test_an_order_number_may_have_separators(number: str) -> None:
    assert taken(number=number).number == number


@pytest.mark.parametrize(
    ("account", "kept"),
    [
        ("cz65 0800 0000 1920 0014 5399", "CZ6508000000192000145399"),
        ("000019-2000145399/0800", "19-2000145399/0800"),
    ],
)
def test_a_customer_s_accounts_are_kept_in_one_writing(account: str, kept: str) -> None:
    assert taken(customer__accounts=[account]).customer.accounts == (kept,)


# Sums and lines


@pytest.mark.parametrize("total", ["551.99", "552.01", "55200", "189.00"])
def test_a_total_that_is_not_the_sum_of_its_lines_is_refused_with_both_figures(total: str) -> None:
    amount = Money.parse(total, "CZK")
    assert refusal(total=total) == f"total: it is {amount}, but the lines come to 552.00 CZK"


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(-500, 100_000)), min_size=1, max_size=8), st.integers(-200, 200)
)
def test_an_order_is_taken_exactly_when_its_total_is_positive_and_its_lines_come_to_it(
    lines: list[tuple[int, int]], off: int
) -> None:
    total = sum(quantity * price for quantity, price in lines) + off
    made = document(
        total=Money(total, "CZK").amount,
        lines=[{"title": "x", "quantity": q, "unit_price": Money(price, "CZK").amount} for q, price in lines],
    )
    if off == 0 and total > 0:
        assert len(parse_order(made, where="x").lines) == len(lines)
    else:
        with pytest.raises(OrderError, match="total: "):
            parse_order(made, where="x")


@pytest.mark.parametrize("total", ["0.00", "-552.00"])
def test_an_order_costs_more_than_nothing(total: str) -> None:
    assert refusal(total=total) == "total: it must be more than zero"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"total": "552.001"}, "total: 552.001 CZK is finer than the smallest unit of CZK"),
        ({"lines__0__unit_price": "189.005"}, "lines.0.unit_price: 189.005 CZK is finer than the smallest unit of CZK"),
        ({"total": "552,00"}, "total: “552,00” is not an amount; write digits with a dot, such as 450.00"),
        ({"total": "5e2"}, "total: it is not an amount; write digits with a dot, such as 450.00"),
        ({"total": ""}, "total: it is not an amount"),
        ({"total": 552}, "total: Input should be a valid string"),
        ({"total": 552.0}, "total: Input should be a valid string"),
        ({"lines__1__unit_price": "free"}, "lines.1.unit_price: it is not an amount"),
    ],
)
def test_an_amount_is_written_with_a_dot_and_never_finer_than_the_currency(changed: dict[str, Any], text: str) -> None:
    assert refusal(**changed).startswith(text)


@pytest.mark.parametrize("quantity", [0, -1, 1.5, "1.5", "two", True, None, 1_000_001])
def test_a_quantity_is_a_whole_number_of_at_least_one(quantity: object) -> None:
    text = refusal(lines__0__quantity=quantity)
    assert text.startswith("lines.0.quantity: ")
    assert ";" not in text


@pytest.mark.parametrize("rate", ["-1", "101", "12.345", "NaN", "Infinity", "x"])
def test_a_vat_rate_is_a_percentage(rate: str) -> None:
    assert refusal(lines__0__vat_rate=rate).startswith("lines.0.vat_rate: ")


def test_a_wrong_line_is_not_also_told_as_missing() -> None:
    line = {"title": "Sencha", "quantity": 0, "unit_price": "1.00"}
    assert refusal(lines=[line]) == "lines.0.quantity: Input should be greater than or equal to 1"


def test_an_order_has_lines() -> None:
    assert refusal(lines=[]).startswith("lines: ")
    assert refusal(lines=[ORDER["lines"][0]] * 1_001).startswith("lines: ")


def test_lines_that_come_to_more_than_money_can_be_are_refused_in_a_sentence() -> None:
    text = refusal(lines__0__unit_price="9000000000000000.00", lines__0__quantity=1_000_000)
    assert text == "total: it is 552.00 CZK, but the lines come to more than an amount of money can be"


# Other fields


@pytest.mark.parametrize("method", ["cheque", "CARD", "", None, 1])
def test_an_unknown_method_is_refused_with_the_known_ones(method: object) -> None:
    assert refusal(method=method) == "method: Input should be 'card', 'bank_transfer' or 'cash_on_delivery'"


@pytest.mark.parametrize(
    ("placed_at", "text"),
    [
        ("2026-05-04T10:00:00", "placed_at: Input should have timezone info"),
        ("2026-05-04", "placed_at: Input should have timezone info"),
        ("20260504", "placed_at: write date, time and time zone, such as 2026-05-04T10:00:00+02:00"),
        ("1777888800", "placed_at: write date, time and time zone"),
        (1777888800, "placed_at: write date, time and time zone"),
        ("-1777888800", "placed_at: write date, time and time zone"),
        (True, "placed_at: write date, time and time zone"),
        ("0001-01-01T00:00:00+02:00", "placed_at: the year 1 can't be right"),
        ("9999-12-31T23:59:59-10:00", "placed_at: the year 9999 can't be right"),
        ("1970-01-01T00:00:00Z", "placed_at: the year 1970 can't be right"),
        ("2026-02-30T10:00:00Z", "placed_at: Input should be a valid datetime"),
    ],
)
def test_a_moment_needs_a_time_zone_and_is_never_guessed(placed_at: object, text: str) -> None:
    assert refusal(placed_at=placed_at).startswith(text)


@pytest.mark.parametrize("symbol", ["12345678901", "0", "0000", "12a", "CZ1042"])
def test_a_variable_symbol_that_no_bank_can_carry_is_refused(symbol: str) -> None:
    assert (
        refusal(variable_symbol=symbol)
        == "variable_symbol: a variable symbol has at most 10 digits, and not only zeros"
    )


def test_an_rf_reference_with_wrong_check_digits_is_refused() -> None:
    assert refusal(rf="RF19539007547034").startswith("rf: it is no RF reference")


@pytest.mark.parametrize("account", ["", " ", "1", "x" * 41, "CZ65;DROP", "CZ65\n0800 €"])
def test_a_customer_s_account_that_is_none_is_refused(account: str) -> None:
    assert refusal(customer__accounts=[account]).startswith("customer.accounts: an account is an IBAN")


@pytest.mark.parametrize("number", ["", "  ", "---", "._/", "<1042>", "CZ€1", "1" * 81, 'CZ"1', "CZ;1", "../1042\\"])
def test_an_order_number_that_names_nothing_or_may_do_harm_is_refused(number: str) -> None:
    assert refusal(number=number).startswith("number: ")


CONTROLS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]
TEXTS = [
    "number",
    "channel",
    "status",
    "provider_reference",
    "tracking_number",
    "customer__number",
    "customer__name",
    "customer__email",
    "customer__phone",
    "customer__group",
    "customer__tax_id",
    "customer__address__street",
    "delivery__method",
    "delivery__address__name",
    "lines__0__sku",
    "lines__0__title",
]


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"U+{ord(control):04X}")
def test_no_text_has_a_line_break_or_another_control_character_in_it(path: str, control: str) -> None:
    text = refusal(**{path: f"a@b.example{control}c"})
    assert text.startswith(path.replace("__", ".") + ": ")
    assert control not in text


def test_half_a_character_is_refused_in_a_sentence() -> None:
    assert refusal(customer__name="Jana \ud800").startswith("customer.name: Input should be a valid string")


def test_a_field_that_does_not_exist_is_named() -> None:
    assert refusal(colour="red") == "colour: Extra inputs are not permitted"
    assert refusal(customer__eMail=EMAIL) == "customer.eMail: Extra inputs are not permitted"


def test_every_mistake_is_told_at_once() -> None:
    text = refusal(method="cheque", currency="Kč", lines__0__quantity=0, customer__email="x")
    assert [part.split(": ")[0] for part in text.split("; ")] == [
        "method",
        "currency",
        "customer.email",
        "lines.0.quantity",
    ]


@pytest.mark.parametrize("nonsense", [None, "text", 5, [], [ORDER], {1: 2}, {}])
def test_what_is_no_order_at_all_is_refused(nonsense: object) -> None:
    with pytest.raises(OrderError, match=r"^file\.json: "):
        parse_order(nonsense, where="file.json")


PATHS = [
    *TEXTS,
    "method",
    "placed_at",
    "currency",
    "total",
    "variable_symbol",
    "rf",
    "customer",
    "customer__language",
    "customer__accounts",
    "customer__address",
    "delivery",
    "lines",
    "lines__0",
    "lines__0__quantity",
    "lines__0__unit_price",
    "lines__0__vat_rate",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("personal", [NAME, EMAIL])
@pytest.mark.parametrize("within", ["alone", "list", "object", "line"])
def test_wherever_a_name_or_an_address_ends_up_no_error_text_repeats_it(path: str, personal: str, within: str) -> None:
    values = {"alone": personal, "list": [personal], "object": {personal: personal}, "line": f"1\n{personal}"}
    text = refusal(**{"total": "1.00", path: values[within]})
    assert "jana" not in text.lower()


# CSV


def row(**cells: str) -> dict[str, str]:
    return dict.fromkeys(CSV_COLUMNS, "") | cells


FIRST = row(
    number="CZ1042",
    channel="cz",
    method="bank_transfer",
    placed_at="2026-05-04T10:00:00+02:00",
    currency="CZK",
    total="552.00",
    variable_symbol="1042",
    customer_number="C0101",
    customer_name=NAME,
    email=EMAIL,
    street="Údolní 418/12",
    city="Brno",
    postcode="602 00",
    country="CZ",
    delivery_method="Courier",
    paid_on_delivery="174.00",
    sku="TEA-1",
    title="Sencha",
    quantity="2",
    unit_price="189.00",
    vat_rate="12",
)
SECOND = row(number="CZ1042", title="Delivery", quantity="1", unit_price="174.00", vat_rate="21")


def test_the_rows_of_a_csv_file_are_joined_into_one_order() -> None:
    order = parse_order(order_from_rows([FIRST, SECOND]), where="orders.csv, row 2")
    assert (order.number, order.variable_symbol, order.delivery.method) == ("CZ1042", "1042", "Courier")
    assert [(line.sku, line.quantity) for line in order.lines] == [("TEA-1", 2), (None, 1)]
    assert order.customer.address.street == order.delivery.address.street == "Údolní 418/12"
    assert order.delivery.address.name == NAME
    assert order.on_delivery == Money(17400, "CZK")


def test_what_an_order_has_once_may_stand_on_every_row_or_on_one() -> None:
    lines = {key: SECOND[key] for key in ("sku", "title", "quantity", "unit_price", "vat_rate")}
    repeated = order_from_rows([FIRST, FIRST | lines])
    assert repeated == order_from_rows([FIRST, SECOND]) == order_from_rows([FIRST, row(**lines)])


@pytest.mark.parametrize("column", ["total", "customer_name", "currency", "placed_at", "email", "method", "street"])
def test_rows_that_disagree_about_the_order_are_refused_by_row_and_column(column: str) -> None:
    with pytest.raises(OrderError) as refused:
        order_from_rows([FIRST, SECOND, row(**{column: "something else"})])
    assert str(refused.value) == f"row 3 of the order says something else in the column {column} than a row before"


def test_cells_without_a_known_column_are_refused() -> None:
    text = f"{','.join(CSV_COLUMNS)}\n{','.join(FIRST.values())},left over"
    shifted = list(csv.DictReader(io.StringIO(text)))
    for rows in (shifted, [FIRST | {"colour": "red"}]):
        with pytest.raises(OrderError, match="row 1 of the order has cells that no known column heads"):
            order_from_rows(rows)


def test_a_row_that_ends_too_early_misses_what_it_has_not() -> None:
    text = f"{','.join(CSV_COLUMNS)}\nCZ1042,cz,card"
    with pytest.raises(OrderError, match=r"^orders\.csv, row 2: placed_at: Field required"):
        parse_order(order_from_rows(csv.DictReader(io.StringIO(text))), where="orders.csv, row 2")


def test_no_rows_are_no_order() -> None:
    with pytest.raises(OrderError, match="number: Field required"):
        parse_order(order_from_rows([]), where="orders.csv")
