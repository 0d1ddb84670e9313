"""Documents: proforma and invoice issued once, numbered without gaps, taken back by a credit note."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from connectors.errors import Rejected
from connectors.files import write_whole
from connectors.roles import Accounting, DocumentPrinter
from domain.documents import (
    Document,
    DocumentError,
    credit,
    document_from_json,
    document_lines,
    document_to_json,
    vat_summary,
)
from domain.orders import Order
from domain.references import normal_number
from domain.rules import ChannelRules, DocumentKind, EvidenceKind, InvoiceAction, Series
from store import documents, orders
from store.documents import next_number
from tasks.installation import Installation, installation
from tasks.step import Entry, Receipt, Skip, Transaction, step

# A number is known only when the document is numbered, in the transaction that records it.
_UNNUMBERED = "?"
_PRINTED_AT_ONCE = 32
"""Documents whose PDFs are under way together: enough for every process that prints."""


def draft_of(order: Order, rules: ChannelRules, kind: DocumentKind, now: datetime) -> Document:
    """Return the document of an order, but for its number. Raises Rejected for lines that don't make up the total."""
    try:
        lines = document_lines(order)
    except DocumentError as error:
        raise Rejected(str(error)) from error
    # Counted from today: an order that was taken in late gives the customer the whole term all the same.
    due = (now + timedelta(days=rules.reservation_days)).date()
    buyer = order.customer.address
    return Document(
        kind=kind,
        number=_UNNUMBERED,
        order_number=order.number,
        issued_on=now.date(),
        due_on=order.due_on or (due if kind is DocumentKind.PROFORMA else None),
        language=order.customer.language or rules.language,
        seller=rules.seller,
        buyer=buyer,
        buyer_tax_id=order.customer.tax_id,
        buyer_number=order.customer.number,
        lines=lines,
        vat=vat_summary(lines),
        total=order.total,
        paid=order.settled,
        on_delivery=order.to_collect or None,
        variable_symbol=order.variable_symbol,
        rf=order.rf,
    )


def numbered(series: Series, kind: DocumentKind, year: int, counter: int) -> str:
    """Return the number of a document by its place in the series of its kind and year."""
    pattern = {
        DocumentKind.PROFORMA: series.proforma,
        DocumentKind.INVOICE: series.invoice,
        DocumentKind.CREDIT_NOTE: series.credit_note,
    }[kind]
    return pattern.format(year=year, number=counter)


async def _store(
    transaction: Transaction, order: Order, rules: ChannelRules, document: Document, corrects_id: int | None = None
) -> str:
    """Give a document the next number of its channel's series and store it; return the number."""
    connection = transaction.connection
    year = transaction.now.year
    counter = await next_number(connection, order.channel, document.kind, year)
    number = numbered(rules.series, document.kind, year, counter)
    await _keep(transaction, order, document, number, year=year, counter=counter, corrects_id=corrects_id)
    return number


async def _keep(
    transaction: Transaction,
    order: Order,
    document: Document,
    number: str,
    *,
    year: int | None = None,
    counter: int | None = None,
    corrects_id: int | None = None,
) -> None:
    content = document_to_json(document) | {"number": number}
    await documents.add(
        transaction.connection,
        order_id=order.id,
        channel=order.channel,
        kind=document.kind,
        number=number,
        year=year,
        counter=counter,
        currency=document.total.currency,
        total_minor=document.total.minor,
        issued_on=document.issued_on,
        content=content,
        effect_id=transaction.effect_id,
        corrects_id=corrects_id,
    )
    await orders.add_order_reference(
        transaction.connection, order.id, EvidenceKind.INVOICE_NUMBER, normal_number(number)
    )


async def take_back_document(
    transaction: Transaction, order: Order, rules: ChannelRules, live: dict[str, Any]
) -> str | None:
    """End a live document: an invoice by a credit note, whose number is returned; a proforma needs none."""
    await documents.end(transaction.connection, live["id"])
    if live["kind"] != DocumentKind.INVOICE:
        return None
    note = credit(document_from_json(live["content"]), _UNNUMBERED, transaction.now.date())
    return await _store(transaction, order, rules, note, corrects_id=live["id"])


async def _issue(
    order: Order, rules: ChannelRules, kind: DocumentKind, key: str, *, update: bool = False
) -> Receipt | Skip:
    opened = await installation()
    draft = draft_of(order, rules, kind, opened.clock())
    accounting = opened.connectors.get(rules.connectors.accounting)
    if isinstance(accounting, Accounting):
        async with opened.store.read() as connection:
            live = await documents.live(connection, order.id, kind)
        if live is not None:
            return Skip(f"{kind.value} {live['number']} was issued before")
        issued = await accounting.issue(draft, key)
        return await _stands_outside(opened, order, rules, draft, issued.number)
    opened.connector(rules.connectors.accounting, DocumentPrinter)  # fails at once when it is misconfigured

    async def write(transaction: Transaction) -> Receipt | Skip:
        live = await documents.live(transaction.connection, order.id, kind)
        note: str | None = None
        if live is not None:
            same = document_from_json(live["content"]).lines == draft.lines
            if same or not update:
                return Skip(f"{kind.value} {live['number']} was issued before")
            note = await take_back_document(transaction, order, rules, live)
        number = await _store(transaction, order, rules, draft)
        return Receipt(reference=number, after={kind.value: number} | ({"credit_note": note} if note else {}))

    return Receipt(write=write)


async def _stands_outside(
    opened: Installation, order: Order, rules: ChannelRules, draft: Document, number: str
) -> Receipt:
    """Return the receipt of a document that stands in the accounting system, unless it was taken back here."""
    async with opened.store.read() as connection:
        kept = await documents.of_order(connection, order.id)
    if any((one["kind"], one["number"], one["live"]) == (draft.kind.value, number, False) for one in kept):
        said = f"{draft.kind.value} {number} was taken back here and still stands in {rules.connectors.accounting}"
        raise Rejected(f"{said}: take it back there too, and repeat the step")
    return _issued_outside(order, draft, number)


def _issued_outside(order: Order, draft: Document, number: str) -> Receipt:
    async def write(transaction: Transaction) -> None:
        await _keep(transaction, order, draft, number)

    return Receipt(reference=number, after={draft.kind.value: number}, write=write)


@step("invoice", system=lambda rules: rules.connectors.accounting, one_per_order=True)
async def issue_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Issue the invoice or proforma that the scenario's rules ask for."""
    rule = rules.scenario_of(order).invoice
    return await _issue(order, rules, rule.kind, key, update=rule.action is InvoiceAction.UPDATE)


@step("proforma", system=lambda rules: rules.connectors.accounting, one_per_order=True)
async def issue_proforma(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Issue a proforma with payment instructions for an order that was placed."""
    if order.to_pay_now.minor <= 0:
        return Skip("the order is paid already")
    return await _issue(order, rules, DocumentKind.PROFORMA, key)


@issue_invoice.unless
def without_invoice(order: Order, rules: ChannelRules) -> Skip | None:
    """Say that the rules have no document in the order's scenario."""
    if rules.scenario_of(order).invoice.action is not InvoiceAction.IGNORE:
        return None
    return Skip(f"the rules of {rules.channel} issue no document in this scenario")


@issue_proforma.unless
def without_proforma(order: Order, rules: ChannelRules) -> Skip | None:
    """Say that the rules have no proforma for orders with such a method of payment."""
    if rules.placed.of(order.method).proforma:
        return None
    return Skip(f"the rules of {rules.channel} issue no proforma for such orders")


async def _found(order: Order, rules: ChannelRules, kind: DocumentKind, key: str) -> Receipt | None:
    opened = await installation()
    accounting = opened.connectors.get(rules.connectors.accounting)
    if not isinstance(accounting, Accounting):
        return None  # our own documents are numbered in the transaction that records them, or not at all
    draft = draft_of(order, rules, kind, opened.clock())
    issued = await accounting.find(draft, key)
    return await _stands_outside(opened, order, rules, draft, issued.number) if issued else None


@issue_invoice.lookup
async def find_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt | None:
    """Ask the accounting system whether it issued the document."""
    return await _found(order, rules, rules.scenario_of(order).invoice.kind, key)


@issue_proforma.lookup
async def find_proforma(order: Order, rules: ChannelRules, key: str) -> Receipt | None:
    """Ask the accounting system whether it issued the proforma."""
    return await _found(order, rules, DocumentKind.PROFORMA, key)


async def _told(order: Order, rules: ChannelRules, kind: DocumentKind, number: str) -> Receipt:
    opened = await installation()
    if not isinstance(opened.connectors.get(rules.connectors.accounting), Accounting):
        raise Rejected("Kvit numbers these documents itself; let it be tried again with --again")
    if not number:
        raise Rejected("give the document's number with --reference")
    async with opened.store.read() as connection:
        live = await documents.live(connection, order.id, kind)
    if live is not None:
        raise Rejected(f"{kind.value} {live['number']} of this order is in force already")
    return _issued_outside(order, draft_of(order, rules, kind, opened.clock()), number)


@issue_invoice.told
async def told_invoice(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down the document that a person says the accounting system issued."""
    return await _told(order, rules, rules.scenario_of(order).invoice.kind, reference)


@issue_proforma.told
async def told_proforma(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down the proforma that a person says the accounting system issued."""
    return await _told(order, rules, DocumentKind.PROFORMA, reference)


@issue_invoice.undo_here
async def credit_invoice(order: Order, entry: Entry, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Take the document back: an invoice by a credit note, a proforma by ending it."""

    async def write(transaction: Transaction) -> Receipt | Skip:
        for kind in (DocumentKind.INVOICE, DocumentKind.PROFORMA):
            live = await documents.live(transaction.connection, order.id, kind)
            if live is not None and live["number"] == entry.reference:
                note = await take_back_document(transaction, order, entry.rules, live)
                return Receipt(reference=note or live["number"], before=entry.after, after={"credit_note": note})
        return Skip(f"document {entry.reference} is not live any more")

    return Receipt(write=write)


issue_proforma.undo_here(credit_invoice)


def _file_of(row: dict[str, Any]) -> str:
    """Return where a document's PDF goes, relative to KVIT_HOME; a series may number with slashes."""
    name = "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in row["number"])
    return f"documents/{row['channel']}/{row['kind']}-{name}.pdf"


async def print_documents(opened: Installation, order_ids: Sequence[int] | None = None) -> int:
    """Print the PDF of every document that has none yet; return how many.

    The PDF follows from what the store has, so nothing is lost when a process dies before it is printed.
    """
    async with opened.store.read() as connection:
        rows = await documents.without_file(connection, order_ids)
    return await _print(opened, rows)


async def print_again(opened: Installation, order_id: int) -> list[str]:
    """Print the PDF of an order's documents in force once more, over what is there; return their numbers."""
    async with opened.store.read() as connection:
        kinds = (DocumentKind.PROFORMA, DocumentKind.INVOICE)
        rows = [row for kind in kinds if (row := await documents.live(connection, order_id, kind))]
    await _print(opened, rows)
    return [str(row["number"]) for row in rows]


async def print_open_invoices(opened: Installation, item_ids: Sequence[int]) -> int:
    """Print the PDF of invoices without an order that have none yet; return how many."""
    async with opened.store.read() as connection:
        rows = await documents.without_file(connection, item_ids=item_ids)
    return await _print(opened, rows)


async def _print(opened: Installation, rows: Sequence[dict[str, Any]]) -> int:
    printer = opened.connector("documents", DocumentPrinter)

    async def put(row: dict[str, Any]) -> None:
        pdf = await printer.print(document_from_json(row["content"]))
        await asyncio.to_thread(write_whole, opened.home / _file_of(row), pdf)

    for start in range(0, len(rows), _PRINTED_AT_ONCE):
        together = rows[start : start + _PRINTED_AT_ONCE]
        failures = await asyncio.gather(*(put(row) for row in together), return_exceptions=True)
        async with opened.store.write() as connection:
            printed = [row for row, failure in zip(together, failures, strict=True) if failure is None]
            await documents.set_files(connection, {row["id"]: _file_of(row) for row in printed})
        for failure in failures:
            if failure is not None:
                raise failure
    return len(rows)
