"""Invoices without an order: open items of a customer that a payment settles, with the document that asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import OpenItem
from domain.money import Money
from domain.orders import Status
from domain.rules import DocumentKind
from store import documents
from store.tables import AllocationRow, CustomerRow, DocumentRow, OpenItemRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice without an order: what it asks for, and what is still open of that."""

    item_id: int
    document_id: int
    customer_id: int
    customer: str
    channel: str
    kind: DocumentKind
    number: str
    title: str
    total: Money
    open: Money
    issued_on: date
    file: str | None
    cancelled: bool

    @property
    def item(self) -> OpenItem:
        """What a payment can settle."""
        return OpenItem(
            id=self.item_id,
            order_id=None,
            channel=self.channel,
            number=self.number,
            status=Status.CANCELLED if self.cancelled else Status.AWAITING_PAYMENT,
            amount=self.total,
            open=self.open,
            references=frozenset(),
            customer=self.customer_id,
        )


async def add(connection: AsyncConnection, *, customer_id: int, channel: str, total: Money, number: str) -> int:
    """Store the open item of an invoice that has no order, and return its id."""
    item_id = await connection.scalar(
        insert(OpenItemRow)
        .values(
            order_id=None,
            customer_id=customer_id,
            channel=channel,
            currency=total.currency,
            amount_minor=total.minor,
            number=number,
        )
        .returning(OpenItemRow.id)
    )
    assert item_id is not None  # noqa: S101 - RETURNING of one inserted row
    return item_id


async def _found(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[Invoice]:
    relieved = (
        select(func.coalesce(func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor), 0))
        .where(AllocationRow.open_item_id == OpenItemRow.id)
        .scalar_subquery()
    )
    rows = await connection.execute(
        select(
            OpenItemRow.id,
            OpenItemRow.customer_id,
            OpenItemRow.channel,
            OpenItemRow.currency,
            OpenItemRow.amount_minor,
            OpenItemRow.cancelled_at,
            CustomerRow.number.label("customer"),
            DocumentRow.id.label("document_id"),
            DocumentRow.kind,
            DocumentRow.number,
            DocumentRow.content,
            DocumentRow.issued_on,
            DocumentRow.file,
            relieved.label("relieved"),
        )
        .join(CustomerRow, CustomerRow.id == OpenItemRow.customer_id)
        .join(DocumentRow, DocumentRow.open_item_id == OpenItemRow.id)
        .where(OpenItemRow.order_id.is_(None), *conditions)
        .order_by(OpenItemRow.id)
    )
    return [
        Invoice(
            item_id=row.id,
            document_id=row.document_id,
            customer_id=row.customer_id,
            customer=row.customer,
            channel=row.channel,
            kind=DocumentKind(row.kind),
            number=row.number,
            title=_title(row.content),
            total=Money(row.amount_minor, row.currency),
            open=Money(row.amount_minor - int(row.relieved), row.currency),
            issued_on=row.issued_on,
            file=row.file,
            cancelled=row.cancelled_at is not None,
        )
        for row in rows.all()
    ]


def _title(content: dict[str, Any]) -> str:
    lines: list[dict[str, Any]] = content.get("lines") or [{}]
    return str(lines[0].get("title", ""))


async def of_customer(connection: AsyncConnection, customer_id: int) -> list[Invoice]:
    """Return a customer's invoices without an order, oldest first."""
    return await _found(connection, OpenItemRow.customer_id == customer_id)


async def listing(connection: AsyncConnection, *, channel: str | None = None) -> list[Invoice]:
    """Return all invoices without an order, oldest first."""
    return await _found(connection, *([OpenItemRow.channel == channel] if channel else []))


async def named(connection: AsyncConnection, number: str, channel: str | None) -> list[Invoice]:
    """Return the invoices without an order of a number; several channels may use the same one."""
    of_channel = [OpenItemRow.channel == channel] if channel else []
    return await _found(connection, DocumentRow.number == number, *of_channel)


async def lock(connection: AsyncConnection, invoice: Invoice) -> Invoice:
    """Lock an invoice against being paid or cancelled meanwhile, and return it as it stands then."""
    await connection.execute(select(OpenItemRow.id).where(OpenItemRow.id == invoice.item_id).with_for_update())
    (now_there,) = await _found(connection, OpenItemRow.id == invoice.item_id)
    return now_there


async def cancel(connection: AsyncConnection, invoice: Invoice, *, now: datetime) -> None:
    """Let an invoice that nobody has paid ask for nothing any more."""
    await connection.execute(update(OpenItemRow).where(OpenItemRow.id == invoice.item_id).values(cancelled_at=now))
    await documents.end(connection, invoice.document_id)
