"""Invoices without an order: a customer is asked for money that tops up his balance; a payment settles them as orders.

One is numbered in its channel's series as any other, and is an open item that statements, gateways and people can pay.
What is paid of it is on the customer's balance at once; when it is paid, that may let orders go that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from domain.documents import Document, DocumentLine, document_to_json, vat_summary
from domain.matching import names_of
from domain.money import Money, MoneyError
from domain.payments import Method
from domain.references import normal_variable_symbol
from domain.rules import DocumentKind
from domain.scenarios import cause_of
from store import balances, documents, invoices, journal, orders, payments, spending, work
from store.invoices import Invoice
from tasks.balance import Own, own_rules, top_up, word_of
from tasks.installation import Installation, installation
from tasks.invoice import numbered, print_open_invoices
from tasks.named import customer_named, plain

_TITLE_MAX = 200
_HAND = "hand"
"""The source of payments that a person confirms without a statement or a gateway."""


@dataclass(frozen=True, slots=True)
class Issued:
    """An invoice without an order as it was issued, or as it was found issued before."""

    number: str
    customer: str
    total: Money
    file: str | None
    new: bool


async def issue(
    opened: Installation,
    customer: str,
    amount: str,
    *,
    title: str,
    kind: DocumentKind = DocumentKind.PROFORMA,
    vat_rate: str = "0",
    channel: str | None,
    author: str,
    because: str,
    again: bool = False,
) -> Issued:
    """Issue an invoice that belongs to no order, with its PDF.

    amount is text, gross, in the channel's currency; title is its line. The same one, open already, is not issued a
    second time unless again says so. Raises ByHandError.
    """
    actor, because = word_of(opened, author, because)
    title = plain(title)[:_TITLE_MAX]
    if not title:
        raise ByHandError("say what it is for; that stands on the invoice")
    if kind is DocumentKind.CREDIT_NOTE:
        raise ByHandError("a credit note asks for no money; issue a proforma or an invoice")
    now = opened.clock()
    async with opened.store.write() as connection:
        await payments.begin_to_change(connection)  # before the customer is locked, as everywhere
        customer_id = await customer_named(connection, customer, channel)
        own = await own_rules(connection, customer_id)
        total, rate = _amount(amount, own.rules.currency), _rate(vat_rate)
        await balances.lock(connection, customer_id)
        same = [one for one in await invoices.of_customer(connection, customer_id) if _asks_the_same(one, total, title)]
        if same and not again:
            return Issued(same[0].number, own.number, total, same[0].file, new=False)
        counter = await documents.next_number(connection, own.rules.channel, kind, now.year)
        number = numbered(own.rules.series, kind, now.year, counter)
        item_id = await invoices.add(
            connection, customer_id=customer_id, channel=own.rules.channel, total=total, number=number
        )
        symbol = normal_variable_symbol("".join(filter(str.isdecimal, number)))
        names = names_of(number, variable_symbol=symbol, invoice_number=number)
        await orders.add_references(connection, item_id, names)
        document = await _document(connection, own, kind, number, total, title, rate, symbol, now.date())
        await documents.add(
            connection,
            order_id=None,
            open_item_id=item_id,
            channel=own.rules.channel,
            kind=kind,
            number=number,
            year=now.year,
            counter=counter,
            currency=total.currency,
            total_minor=total.minor,
            issued_on=now.date(),
            content=document_to_json(document),
            effect_id=None,
        )
        await journal.append(
            connection,
            [
                journal.entry(
                    actor,
                    at=now,
                    step="invoice without order",
                    move="done",
                    reference=number,
                    reason=because,
                    after={"customer": customer_id, "amount": total.minor, "currency": total.currency},
                    rule_version=own.version,
                )
            ],
        )
        for payment_id, scenario in await payments.waiting_for(connection, names):
            await work.add(connection, scenario, "payment", [payment_id], now=now)
    await print_open_invoices(opened, [item_id])
    async with opened.store.read() as connection:
        (made,) = [one for one in await invoices.of_customer(connection, customer_id) if one.item_id == item_id]
    return Issued(number, own.number, total, made.file, new=True)


def _asks_the_same(one: Invoice, total: Money, title: str) -> bool:
    return one.total == total and one.title == title and not one.cancelled and one.open.minor > 0


def _amount(text: str, currency: str) -> Money:
    try:
        money = Money.parse(text.strip(), currency)
    except MoneyError as error:
        raise ByHandError(str(error)) from None
    if money.minor <= 0:
        raise ByHandError(f"an invoice over {money} asks for nothing; write an amount above zero")
    return money


def _rate(text: str) -> Decimal:
    try:
        rate = Decimal(text.strip())
    except InvalidOperation:
        rate = Decimal(-1)
    if not 0 <= rate <= 100:
        raise ByHandError(f"“{text:.20}” is no VAT rate; write per cent, such as 21")
    return rate


async def _document(
    connection: AsyncConnection,
    own: Own,
    kind: DocumentKind,
    number: str,
    total: Money,
    title: str,
    rate: Decimal,
    symbol: str | None,
    today: date,
) -> Document:
    buyer = await orders.customer(connection, own.customer_id)
    lines = (DocumentLine(title=title, quantity=1, unit_price=total, vat_rate=rate, total=total),)
    return Document(
        kind=kind,
        number=number,
        order_number="",
        issued_on=today,
        due_on=today + timedelta(days=own.rules.reservation_days),
        language=buyer.language or own.rules.language,
        seller=own.rules.seller,
        buyer=buyer.address,
        buyer_tax_id=buyer.tax_id,
        lines=lines,
        vat=vat_summary(lines),
        total=total,
        paid=Money.zero(total.currency),
        variable_symbol=symbol,
    )


async def listing(opened: Installation, *, channel: str | None = None, open_only: bool = False) -> Sequence[Invoice]:
    """Return the invoices without an order, oldest first."""
    async with opened.store.read() as connection:
        found = await invoices.listing(connection, channel=channel)
    return [one for one in found if not open_only or (one.open.minor > 0 and not one.cancelled)]


async def confirm(
    opened: Installation, number: str, *, reference: str, channel: str | None, author: str, because: str
) -> tuple[bool, str]:
    """Take a person's word that an invoice without an order was paid; say whether and what was done.

    reference is what the money is known by, such as a receipt's number. Raises ByHandError.
    """
    actor, because = word_of(opened, author, because)
    reference = plain(reference)
    if not reference:
        raise ByHandError("give what the money is known by, such as a receipt's number")
    async with opened.store.write() as connection:
        one = await _locked(connection, number, channel)
        if one.cancelled:
            raise ByHandError(f"invoice {one.number} is cancelled; top up the balance with `kvit balance add` instead")
        if one.open.minor <= 0:
            return False, f"invoice {one.number} is paid already; nothing was done"
        own = await own_rules(connection, one.customer_id)
        payment_id = await spending.settle(
            connection,
            one.item,
            source=_HAND,
            external_id=f"item:{one.item_id}:{reference}"[:200],
            method=Method.BANK_TRANSFER,
            reason=f"{one.number} was paid, says {actor.name}: {because}",
            evidence=f"by hand, {actor.name}",
            rule_version=own.version,
            actor=actor,
            now=opened.clock(),
        )
        await top_up(
            connection,
            one.customer_id,
            one.open,
            method=None,
            reason=f"invoice {one.number}, by {actor.name}: {because}",
            payment_id=payment_id,
            open_item_id=one.item_id,
            actor=actor,
            now=opened.clock(),
            cause=cause_of("payment", payment_id),
        )
    return True, f"invoice {one.number} over {one.total} is paid; it is on the balance of customer {own.number}"


async def cancel(opened: Installation, number: str, *, channel: str | None, author: str, because: str) -> str:
    """Take back an invoice without an order that nobody has paid. Raises ByHandError."""
    actor, because = word_of(opened, author, because)
    async with opened.store.write() as connection:
        one = await _locked(connection, number, channel)
        if one.cancelled:
            return f"invoice {one.number} is cancelled already"
        if one.open != one.total:
            raise ByHandError(f"{one.total - one.open} was paid for invoice {one.number}, so it can't be cancelled")
        if one.kind is not DocumentKind.PROFORMA:
            raise ByHandError(f"{one.number} is an invoice; only a credit note takes it back, in your accounting")
        await invoices.cancel(connection, one, now=opened.clock())
        entry = journal.entry(
            actor,
            at=opened.clock(),
            step="invoice without order",
            move="taken back",
            reference=one.number,
            reason=because,
        )
        await journal.append(connection, [entry])
    return f"invoice {one.number} is cancelled; money that comes for it is left to a person"


async def _locked(connection: AsyncConnection, number: str, channel: str | None) -> Invoice:
    """Return the invoice of a number, locked before anything is decided about it. Raises ByHandError."""
    number = plain(number)
    same = await invoices.named(connection, number, channel or None)
    if not same:
        raise ByHandError(f"no invoice without an order is numbered {number:.60}")
    if len(same) > 1:
        raise ByHandError(f"invoice {number} is in {', '.join(one.channel for one in same)}; name the channel")
    return await invoices.lock(connection, same[0])


@task(name="issue", cache_policy=NO_CACHE)
async def issue_named(
    customer: str,
    amount: str,
    *,
    title: str,
    kind: DocumentKind,
    vat_rate: str,
    channel: str | None,
    author: str,
    because: str,
    again: bool,
) -> str:
    """Do that for the form; return what was done, in a sentence. Raises ByHandError."""
    issued = await issue(
        await installation(),
        customer,
        amount,
        title=title,
        kind=kind,
        vat_rate=vat_rate,
        channel=channel,
        author=author,
        because=because,
        again=again,
    )
    return said_of(issued)


def said_of(issued: Issued) -> str:
    """Say what was issued, or that it had been."""
    if issued.new:
        return f"{issued.number} over {issued.total} is issued to customer {issued.customer}: {issued.file}"
    return f"{issued.number} over {issued.total}, for the same, is open already; nothing was issued"


@task(name="confirm", cache_policy=NO_CACHE)
async def confirm_named(number: str, *, reference: str, channel: str | None, author: str, because: str) -> str:
    """Do that for the form; return what was done, in a sentence. Raises ByHandError."""
    opened = await installation()
    _, said = await confirm(opened, number, reference=reference, channel=channel, author=author, because=because)
    return said
