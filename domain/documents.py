"""Documents: what stands on a proforma, an invoice or a credit note, and how its VAT adds up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from domain.money import Money
from domain.orders import Address
from domain.rules import DocumentKind, Seller


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """A line of a document, all amounts gross."""

    title: str
    quantity: int
    unit_price: Money
    vat_rate: Decimal
    total: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class VatLine:
    """One line of the VAT summary."""

    rate: Decimal
    net: Money
    vat: Money
    gross: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that is printed on a document. refers_to is the number that a credit note corrects."""

    kind: DocumentKind
    number: str
    order_number: str
    issued_on: date
    due_on: date | None
    language: str
    seller: Seller
    buyer: Address
    buyer_tax_id: str | None
    lines: tuple[DocumentLine, ...]
    vat: tuple[VatLine, ...]
    total: Money
    paid: Money
    variable_symbol: str | None = None
    rf: str | None = None
    refers_to: str | None = None
