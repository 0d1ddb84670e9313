"""The lines of `kvit match`: read as anybody writes them, or refused with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rules_builders import rules

from domain.match_documents import LineError, Orders, read_payment
from domain.money import Money
from domain.payments import Method
from domain.rules import EvidenceKind

ORDER: dict[str, Any] = {
    "number": "CZ1042",
    "channel": "cz",
    "currency": "CZK",
    "total": "450.00",
    "placed_at": "2026-11-02",
    "variable_symbol": "1042",
}
PAYMENT: dict[str, Any] = {
    "id": "7",
    "source": "bank",
    "amount": "450.00",
    "currency": "CZK",
    "booked_on": "2026-11-03",
}


def orders(*changed: dict[str, Any]) -> Orders:
    taken = Orders()
    for place, more in enumerate(changed or ({},)):
        taken.add(json.dumps({**ORDER, "number": f"CZ{1042 + place}", **more}))
    return taken


def items(taken: Orders) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in taken.frames()[0].to_dict("records")]


def called(taken: Orders) -> set[tuple[str, str]]:
    return {(kind, value) for _, kind, value in taken.frames()[1].itertuples(index=False)}


def refused(read: Any, line: dict[str, Any]) -> str:
    with pytest.raises(LineError) as error:
        read(json.dumps(line))
    return str(error.value)


# Orders


def test_an_order_is_open_for_what_is_not_paid_of_it() -> None:
    (whole, partly, over) = items(orders({}, {"paid": "200.00"}, {"paid": "451"}))
    assert (whole["amount"], whole["open"]) == (45000, 45000)
    assert (partly["amount"], partly["open"]) == (45000, 25000)
    assert over["open"] == -100


@pytest.mark.parametrize(
    ("currency", "total", "minor"), [("JPY", "450", 450), ("KWD", "450.125", 450125), ("CZK", "450.5", 45050)]
)
def test_amounts_have_the_decimals_of_their_currency(currency: str, total: str, minor: int) -> None:
    (item,) = items(orders({"currency": currency, "total": total}))
    assert (item["amount"], item["currency"]) == (minor, currency)


def test_an_order_is_called_by_all_that_it_has() -> None:
    customer = {"id": 17, "name": "Jana Nováková", "accounts": ["CZ65 0800 0000 1920 0014 5399"], "group": "lipa"}
    more = {"variable_symbol": 1042, "invoice_number": "FV-2026/00017", "rf": "RF18 5390 0754 7034"}
    taken = orders({"customer": customer, **more})
    assert called(taken) == {
        (EvidenceKind.ORDER_NUMBER, "CZ1042"),
        (EvidenceKind.END_TO_END_ID, "CZ1042"),
        (EvidenceKind.VARIABLE_SYMBOL, "1042"),
        (EvidenceKind.INVOICE_NUMBER, "FV202600017"),
        (EvidenceKind.RF, "RF18539007547034"),
        (EvidenceKind.PAYER_NAME, "IANA NOVAKOVA 45000CZK"),
    }
    (item,) = items(taken)
    assert (item["customer"], item["customer_name"], item["group"]) == ("17", "Jana Nováková", "lipa")
    assert [tuple(row) for row in taken.frames()[2].itertuples(index=False)] == [
        ("cz", "17", "CZ6508000000192000145399")
    ]


def test_numbers_may_be_written_as_numbers() -> None:
    taken = orders({"number": 1042, "total": 450, "paid": 50, "variable_symbol": 7})
    (item,) = items(taken)
    assert (item["number"], item["open"]) == ("1042", 40000)
    assert ("variable_symbol", "7") in called(taken)


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_what_is_blank_is_not_told(blank: str | None) -> None:
    """Two orders without a customer's number are not one customer's, and no group is not a group."""
    fields = ("variable_symbol", "invoice_number", "rf", "paid")
    told = {"customer": {"id": blank, "name": blank, "group": blank}, **dict.fromkeys(fields, blank)}
    taken = orders(told, told)
    for item in items(taken):
        assert (item["customer"], item["customer_name"], item["group"], item["open"]) == (None, None, None, 45000)
    assert {kind for kind, _ in called(taken)} == {"order_number", "end_to_end_id"}


def test_an_account_of_a_customer_without_a_number_is_nobody_s() -> None:
    taken = orders({"customer": {"name": "Jana", "accounts": ["CZ6508000000192000145399"]}})
    assert len(taken.frames()[2]) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"variable_symbol": "12345678901"}, "variable_symbol: 12345678901 is not 1 to 10 digits"),
        ({"variable_symbol": "0"}, "variable_symbol: 0 is not 1 to 10 digits"),
        ({"variable_symbol": "10a"}, "variable_symbol: 10a is not 1 to 10 digits"),
        ({"rf": "RF19539007547034"}, "rf: RF19539007547034 is not an ISO 11649 reference"),
        ({"total": "450,00"}, "total: “450,00” is not an amount"),
        ({"total": "450.001"}, "total: 450.001 CZK is finer than the smallest unit"),
        ({"total": "450.5", "currency": "JPY"}, "total: 450.5 JPY is finer"),
        ({"total": 450.5}, "total: "),
        ({"total": "-1.00"}, "total: -1.00 CZK is less than nothing"),
        ({"paid": "-1.00"}, "paid: -1.00 CZK is less than nothing"),
        ({"paid": "x"}, "paid: “x” is not an amount"),
        ({"currency": "czk"}, "currency: “czk” is not an ISO 4217 currency code"),
        ({"status": "gone"}, "status: "),
        ({"placed_at": "yesterday"}, "placed_at."),
        ({"channel": "CZ shop"}, "channel: "),
        ({"number": " "}, "number: "),
        ({"customer": {"nick": "x"}}, "customer.nick: "),
        ({"customer": {"accounts": "CZ65"}}, "customer.accounts: "),
        ({"symbol": "1042"}, "symbol: "),
    ],
    ids=str,
)
def test_an_order_that_can_not_be_taken_is_refused_with_its_field_and_leaves_nothing(
    changed: dict[str, Any], said: str
) -> None:
    taken = orders()
    assert refused(taken.add, {**ORDER, "number": "CZ2000", **changed}).startswith(said)
    assert len(taken.frames()[0]) == 1


@pytest.mark.parametrize("field", ["number", "channel", "currency", "total", "placed_at"])
def test_what_an_order_needs_is_named_when_it_is_missing(field: str) -> None:
    assert refused(Orders().add, {key: value for key, value in ORDER.items() if key != field}).startswith(f"{field}: ")


def test_a_number_is_given_out_once_in_a_channel() -> None:
    taken = orders()
    assert refused(taken.add, ORDER) == "number: CZ1042 is there twice in channel cz"
    taken.add(json.dumps({**ORDER, "channel": "sk"}))
    assert [item["channel"] for item in items(taken)] == ["cz", "sk"]


def test_a_refused_number_may_come_again_rightly() -> None:
    taken = Orders()
    refused(taken.add, {**ORDER, "variable_symbol": "x"})
    taken.add(json.dumps(ORDER))
    assert len(items(taken)) == 1


@pytest.mark.parametrize("line", ["", "{", "[]", "7", "null", '"CZ1042"', b"\xff", '{"number": "CZ1042",}'])
def test_what_is_no_object_is_refused(line: str | bytes) -> None:
    for read in (Orders().add, read_payment):
        with pytest.raises(LineError, match="the line: "):
            read(line)


def test_no_more_is_said_of_a_line_than_what_is_wrong() -> None:
    said = refused(Orders().add, {**ORDER, "status": "x", "customer": {"name": "Jana Nováková", "secret": "s3cr3t"}})
    assert "Jana" not in said
    assert "s3cr3t" not in said


# Payments


def test_a_payment_is_read_with_all_that_it_tells() -> None:
    told = {
        "account": "CZ1",
        "payer_name": "Jana",
        "payer_account": "CZ2",
        "variable_symbol": 1042,
        "end_to_end_id": "E-1",
        "message": "za čaj",
    }
    payment = read_payment(json.dumps({**PAYMENT, "id": 7, **told}))
    assert (payment.external_id, payment.source, payment.method) == ("7", "bank", Method.BANK_TRANSFER)
    assert (payment.amount, payment.booked_on.isoformat()) == (Money.parse("450.00", "CZK"), "2026-11-03")
    assert (payment.account, payment.payer_name, payment.payer_account) == ("CZ1", "Jana", "CZ2")
    assert (payment.variable_symbol, payment.end_to_end_id, payment.text) == ("1042", "E-1", "za čaj")


def test_what_a_gateway_has_a_reference_for_came_by_card() -> None:
    assert read_payment(json.dumps({**PAYMENT, "provider_reference": "pi_1"})).method is Method.CARD


@pytest.mark.parametrize(("amount", "minor"), [("-450.00", -45000), ("0", 0), ("0.01", 1), (450, 45000)])
def test_money_may_come_and_go(amount: object, minor: int) -> None:
    assert read_payment(json.dumps({**PAYMENT, "amount": amount})).amount.minor == minor


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"amount": "450,00"}, "amount: "),
        ({"amount": 450.5}, "amount: "),
        ({"amount": "1e3"}, "amount: "),
        ({"currency": "XXQ"}, "currency: “XXQ” is not an ISO 4217 currency code"),
        ({"booked_on": "3. 11. 2026"}, "booked_on: "),
        ({"booked_on": 20261103}, "booked_on: "),
        ({"id": ""}, "id: "),
        ({"amout": "1"}, "amout: "),
        ({"message": "x" * 100_001}, "message: "),
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_payment_that_can_not_be_taken_is_refused_with_its_field(changed: dict[str, Any], said: str) -> None:
    assert refused(read_payment, {**PAYMENT, **changed}).startswith(said)


# Rules that are made up, and those that are given


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [
        (["CZ1042", "CZ9"], "CZ[0-9]{1,4}"),
        (["1042", "20421"], "[0-9]{4,5}"),
        (["2026-00123"], "[0-9]{9,9}"),
        (["FV2026/17", "FV2026/1017"], "FV[0-9]{6,8}"),
        (["CZ1042", "RO1042"], "CZ[0-9]{4,4}|RO[0-9]{4,4}"),
        (["cz-1042"], "CZ[0-9]{4,4}"),
        (["---"], None),
        (["A1", "B1", "C1", "D1", "E1"], None),
        (["1" * 41], None),
        (["A1B1C1", f"A{'1' * 20}B{'1' * 20}C{'1' * 20}"], None),
        (["LONG" * 40, "SHORT" * 40], None),
    ],
    ids=str,
)
def test_a_made_up_pattern_has_the_shapes_of_the_channel_s_numbers_if_there_are_few(
    numbers: list[str], pattern: str | None
) -> None:
    taken = orders(*({"number": number} for number in numbers))
    assert taken.channels({}, [])["cz"].references.order_number == pattern


def test_made_up_rules_count_every_account_that_money_came_on_and_given_ones_their_own() -> None:
    taken = orders({}, {"channel": "sk"})
    given = rules(channel="cz", currency="CZK", accounts=["CZ5099100000190000260111"])
    channels = taken.channels({"cz": given, "ro": given}, ["CZ 21", None, "CZ21"])
    assert set(channels) == {"cz", "sk"}
    assert channels["cz"].accounts == ("CZ5099100000190000260111", "")
    assert channels["sk"].accounts == ("", "CZ21")
