"""Builders shared by the tests of documents and labels; each fills in what a test doesn't speak of."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from domain.documents import Document, DocumentLine, vat_summary
from domain.money import Money
from domain.orders import Address
from domain.rules import DocumentKind, Seller

IBAN = "CZ6508000000192000145399"

SELLER = Seller(
    name="Zahrada u Žluťoučkého koně s.r.o.",
    street="Nábřežní 12",
    city="Plzeň",
    postcode="301 00",
    country="CZ",
    company_id="12345678",
    tax_id="CZ12345678",
    iban=IBAN,
    email="obchod@example.com",
)
BUYER = Address(name="Kateřina Dvořáčková", street="Příčná 5", city="Ústí nad Labem", postcode="400 01", country="CZ")


def line(
    total: str, rate: str = "21", *, quantity: int = 1, title: str = "Konvice", currency: str = "CZK"
) -> DocumentLine:
    """Make a line from its total, which the quantity must divide."""
    gross = Money.parse(total, currency)
    unit = Money(gross.minor // quantity, currency)
    return DocumentLine(title=title, quantity=quantity, unit_price=unit, vat_rate=Decimal(rate), total=gross)


def document(*lines: DocumentLine, **fields: Any) -> Document:
    """Make an unpaid Czech invoice of 450.00 CZK, or of the given lines, with the fields given."""
    lines = lines or (line("450.00"),)
    zero = Money.zero(lines[0].total.currency)
    told: dict[str, Any] = {
        "kind": DocumentKind.INVOICE,
        "number": "202600001",
        "order_number": "1042",
        "issued_on": date(2026, 7, 1),
        "due_on": date(2026, 7, 15),
        "language": "cs",
        "seller": SELLER,
        "buyer": BUYER,
        "buyer_tax_id": None,
        "lines": lines,
        "vat": vat_summary(lines),
        "total": sum((line.total for line in lines), zero),
        "paid": zero,
        "variable_symbol": "1042",
    }
    return Document(**{**told, **fields})
