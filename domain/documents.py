"""Documents: what stands on a proforma, an invoice or a credit note, and how its VAT adds up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pydantic import TypeAdapter, ValidationError

from domain.money import Money
from domain.orders import Address, Order
from domain.rules import DocumentKind, Seller


class DocumentError(ValueError):
    """A document that can't be made; its text says why, in a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """A line of a document, all amounts gross. sku is not printed; accounting systems know goods by it."""

    title: str
    quantity: int
    unit_price: Money
    vat_rate: Decimal
    total: Money
    sku: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VatLine:
    """One line of the VAT summary."""

    rate: Decimal
    net: Money
    vat: Money
    gross: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that is printed on a document. refers_to is the number that a credit note corrects.

    on_delivery is what of the total is paid to the carrier when the parcel comes. buyer_number is the channel's own
    number of the customer; it is not printed, and accounting systems may know him by it.
    """

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
    on_delivery: Money | None = None
    buyer_number: str | None = None

    @property
    def to_pay(self) -> Money:
        """What is to be paid now; nothing when too much came, and nothing on a credit note."""
        later = self.on_delivery.minor if self.on_delivery else 0
        return Money(max(self.total.minor - self.paid.minor - later, 0), self.total.currency)


def _vat_line(rate: Decimal, gross: Money) -> VatLine:
    # ROUND_HALF_UP rounds halves away from zero, so a credit note's VAT is exactly the invoice's, negated.
    vat = (gross.minor * rate / (100 + rate)).to_integral_value(ROUND_HALF_UP)
    tax = Money(int(vat), gross.currency)
    return VatLine(rate=rate, net=gross - tax, vat=tax, gross=gross)


def vat_summary(lines: Iterable[DocumentLine]) -> tuple[VatLine, ...]:
    """Add the lines up per VAT rate, the highest rate first; net + VAT = gross holds in every line.

    Prices are gross, so the VAT is taken out of each rate's sum from above, rounded half up to the minor unit.
    Raises MoneyError when lines are of different currencies.
    """
    sums: dict[Decimal, Money] = {}
    for line in lines:
        sums[line.vat_rate] = sums[line.vat_rate] + line.total if line.vat_rate in sums else line.total
    return tuple(_vat_line(rate, sums[rate]) for rate in sorted(sums, reverse=True))


def document_lines(order: Order) -> tuple[DocumentLine, ...]:
    """Return what a document for a whole order lists.

    Raises DocumentError when the lines don't add up to the order's total: such a document would state a wrong VAT.
    """
    lines = tuple(
        DocumentLine(
            title=line.title,
            quantity=line.quantity,
            unit_price=line.unit_price,
            vat_rate=line.vat_rate,
            total=line.total,
            sku=line.sku,
        )
        for line in order.lines
    )
    total = sum((line.total for line in lines), Money.zero(order.total.currency))
    if total != order.total:
        raise DocumentError(
            f"order {order.number}: its lines come to {total}, but its total is {order.total}; "
            "add what is missing (delivery, discount, rounding) as a line"
        )
    return lines


def credit(document: Document, number: str, issued_on: date) -> Document:
    """Return the credit note that takes an invoice back whole, under a number of its own.

    Raises DocumentError for anything but an invoice: a proforma is no tax document, so there is nothing to credit.
    """
    if document.kind is not DocumentKind.INVOICE:
        raise DocumentError(f"{document.number} is not an invoice; only an invoice is taken back by a credit note")
    lines = tuple(replace(line, quantity=-line.quantity, total=-line.total) for line in document.lines)
    vat = tuple(replace(line, net=-line.net, vat=-line.vat, gross=-line.gross) for line in document.vat)
    return replace(
        document,
        kind=DocumentKind.CREDIT_NOTE,
        number=number,
        issued_on=issued_on,
        due_on=None,
        lines=lines,
        vat=vat,
        total=-document.total,
        paid=Money.zero(document.total.currency),
        refers_to=document.number,
        on_delivery=None,
    )


_DOCUMENT = TypeAdapter(Document)


def document_to_json(document: Document) -> dict[str, Any]:
    """Return a document as values that JSON can hold; decimals and dates are text, so nothing is lost."""
    return _DOCUMENT.dump_python(document, mode="json")


def document_from_json(values: Mapping[str, Any]) -> Document:
    """Return the document that document_to_json wrote, equal in every field.

    Raises DocumentError, naming the fields, for values that it did not write.
    """
    try:
        return _DOCUMENT.validate_python(dict(values))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        fields = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
        raise DocumentError(f"the stored document can't be read: {fields}") from None
