"""What stands on documents: VAT taken out of gross prices, credit notes, and the snapshot that is kept of each."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from document_builders import BUYER, SELLER, document, line
from hypothesis import given
from hypothesis import strategies as st

from domain.documents import (
    Document,
    DocumentError,
    DocumentLine,
    credit,
    document_from_json,
    document_lines,
    document_to_json,
    vat_summary,
)
from domain.money import Money, MoneyError
from domain.orders import Customer, Order, OrderLine, Status
from domain.payments import Method
from domain.rules import DocumentKind


@st.composite
def lines(draw: st.DrawFn, currency: str = "CZK") -> DocumentLine:
    quantity, unit = draw(st.integers(1, 1000)), draw(st.integers(-(10**9), 10**9))
    return DocumentLine(
        title=draw(st.text(max_size=20)),
        quantity=quantity,
        unit_price=Money(unit, currency),
        vat_rate=draw(st.sampled_from([Decimal(rate) for rate in ("0", "9.5", "12", "20", "21", "21.0")])),
        total=Money(unit * quantity, currency),
    )


@st.composite
def documents(draw: st.DrawFn) -> Document:
    made = document(*draw(st.lists(lines(), min_size=1, max_size=8)))
    day = st.dates(date(2000, 1, 1), date(2100, 1, 1))
    return replace(
        made,
        issued_on=draw(day),
        due_on=draw(st.none() | day),
        paid=Money(draw(st.integers(0, 10**9)), "CZK"),
        rf=draw(st.none() | st.just("RF18539007547034")),
        buyer=replace(BUYER, name=draw(st.text())),
        seller=SELLER.model_copy(update={"tax_id": draw(st.sampled_from(["", "CZ12345678"]))}),
    )


def order(*titled: tuple[str, int, str], total: str) -> Order:
    """Make an order of (title, quantity, unit price) lines at 21 % VAT."""
    made = tuple(
        OrderLine(
            id=at, sku=None, title=title, quantity=count, unit_price=Money.parse(price, "CZK"), vat_rate=Decimal(21)
        )
        for at, (title, count, price) in enumerate(titled)
    )
    return Order(
        id=1,
        channel="shop",
        number="1042",
        status="new",
        standard_status=Status.NEW,
        method=Method.CARD,
        total=Money.parse(total, "CZK"),
        settled=Money.zero("CZK"),
        placed_at=datetime(2026, 7, 1, tzinfo=UTC),
        customer=Customer(id=1, number="7", name="Kateřina"),
        lines=made,
    )


@pytest.mark.parametrize(
    ("gross", "rate", "net", "vat"),
    [
        ("121.00", "21", "100.00", "21.00"),
        ("479.00", "21", "395.87", "83.13"),  # 83.1322…
        ("149.70", "12", "133.66", "16.04"),  # 16.0392…
        ("0.03", "20", "0.02", "0.01"),  # exactly half a haléř
        ("-0.03", "20", "-0.02", "-0.01"),
        ("109.50", "9.5", "100.00", "9.50"),
        ("450.00", "0", "450.00", "0.00"),
    ],
)
def test_vat_is_taken_out_of_the_gross_sum_and_rounded_half_up(gross: str, rate: str, net: str, vat: str) -> None:
    (row,) = vat_summary([line(gross, rate)])

    assert (row.net.amount, row.vat.amount, row.gross.amount) == (net, vat, gross)


def test_each_rate_is_summed_before_it_is_rounded() -> None:
    cents = [line("0.01", "20")] * 3

    assert [row.vat.minor for row in vat_summary(cents)] == [1]
    assert [row.vat.minor for row in vat_summary(cents[:1])] == [0]


def test_rates_come_highest_first_and_one_rate_written_in_two_ways_is_one() -> None:
    rows = vat_summary([line("10.00", "0"), line("10.00", "12"), line("10.00", "21"), line("5.00", "21.0")])

    assert [(row.rate, row.gross.amount) for row in rows] == [(21, "15.00"), (12, "10.00"), (0, "10.00")]


def test_lines_of_two_currencies_have_no_sum() -> None:
    with pytest.raises(MoneyError, match="different currencies"):
        vat_summary([line("1.00"), line("1.00", currency="EUR")])


@given(st.lists(lines(), max_size=12))
def test_the_summary_adds_up_in_every_row_and_to_the_total(given_lines: list[DocumentLine]) -> None:
    rows = vat_summary(given_lines)

    assert all(row.net + row.vat == row.gross for row in rows)
    assert sum(row.gross.minor for row in rows) == sum(line.total.minor for line in given_lines)
    assert all(
        abs(2 * (row.vat.minor * (100 + row.rate) - row.gross.minor * row.rate)) <= 100 + row.rate for row in rows
    )


def test_a_document_lists_the_lines_of_its_order() -> None:
    made = document_lines(order(("Konvice", 2, "450.00"), ("Sleva", 1, "-50.00"), total="850.00"))

    assert [(made_line.title, made_line.quantity, made_line.total.amount) for made_line in made] == [
        ("Konvice", 2, "900.00"),
        ("Sleva", 1, "-50.00"),
    ]


def test_an_order_whose_lines_do_not_come_to_its_total_gets_no_document() -> None:
    with pytest.raises(DocumentError, match=r"order 1042: its lines come to 900\.00 CZK, but its total is 979\.00 CZK"):
        document_lines(order(("Konvice", 2, "450.00"), total="979.00"))


@given(documents())
def test_an_invoice_and_its_credit_note_come_to_nothing(invoice: Document) -> None:
    note = credit(invoice, "CN202600001", date(2026, 7, 20))

    assert note.total == -invoice.total
    assert vat_summary(note.lines) == note.vat
    assert vat_summary([*invoice.lines, *note.lines]) == tuple(
        replace(row, net=Money.zero("CZK"), vat=Money.zero("CZK"), gross=Money.zero("CZK")) for row in invoice.vat
    )
    assert all(line.total.minor == line.quantity * line.unit_price.minor for line in note.lines)


def test_a_credit_note_names_what_it_takes_back_and_asks_for_no_money() -> None:
    invoice = document(paid=Money(45000, "CZK"))

    note = credit(invoice, "CN202600001", date(2026, 7, 20))

    assert (note.kind, note.number, note.refers_to) == (DocumentKind.CREDIT_NOTE, "CN202600001", "202600001")
    assert (note.issued_on, note.due_on) == (date(2026, 7, 20), None)
    assert (note.buyer, note.seller, note.order_number) == (invoice.buyer, invoice.seller, invoice.order_number)
    assert not note.to_pay


@pytest.mark.parametrize("kind", [DocumentKind.PROFORMA, DocumentKind.CREDIT_NOTE])
def test_only_an_invoice_can_be_credited(kind: DocumentKind) -> None:
    with pytest.raises(DocumentError, match="202600001 is not an invoice"):
        credit(document(kind=kind), "CN202600001", date(2026, 7, 20))


@pytest.mark.parametrize(("paid", "left"), [("0.00", "450.00"), ("200.00", "250.00"), ("500.00", "0.00")])
def test_what_is_left_to_pay_is_never_negative(paid: str, left: str) -> None:
    assert document(paid=Money.parse(paid, "CZK")).to_pay.amount == left


@given(documents())
def test_a_kept_document_comes_back_equal_in_every_field(made: Document) -> None:
    kept = json.loads(json.dumps(document_to_json(made)))

    back = document_from_json(kept)

    assert back == made
    assert [str(line.vat_rate) for line in back.lines] == [str(line.vat_rate) for line in made.lines]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"total": {"minor": "much", "currency": "CZK"}}, r"total\.minor"), ({"issued_on": "soon"}, "issued_on")],
)
def test_a_spoilt_snapshot_is_refused_by_field_without_telling_its_content(change: dict[str, Any], field: str) -> None:
    with pytest.raises(DocumentError, match=f"can't be read: {field}") as caught:
        document_from_json({**document_to_json(document()), **change})

    assert "much" not in str(caught.value)
    assert "soon" not in str(caught.value)
    assert "Dvořáčková" not in str(caught.value)
