"""`kvit balance` and `kvit invoices`: customers' money that settles no order yet, and invoices without an order."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, OfChannel, Wrong, opened_home, user_name

if TYPE_CHECKING:
    from store.invoices import Invoice
    from tasks.balance import Balance, Line

balance_app = App(name="balance", help="Balance: customers' money that settles no order yet.")
invoices_app = App(name="invoices", help="Invoices without an order: what is paid of one tops up the balance.")

Customer = Annotated[str, Parameter(name="CUSTOMER", help="The customer's number in his channel.")]
Amount = Annotated[str, Parameter(name="AMOUNT", help="In the channel's currency, such as 450.00.")]
Because = Annotated[str, Parameter(help="Why; it stands in the history.")]
Reference = Annotated[str, Parameter(help="What the money is known by, such as a receipt's number; it is taken once.")]


@contextmanager
def _said_plainly() -> Generator[None]:
    from domain.by_hand import ByHandError

    try:
        yield
    except ByHandError as error:
        raise Wrong(str(error)) from None


@balance_app.command(name="list")
async def list_(*, channel: OfChannel = None, as_json: AsJson = False) -> int:
    """List the customers whose balance was ever used, with what is on it."""
    from domain.money import Money
    from store import balances

    async with opened_home() as opened, opened.store.read() as connection:
        rows = await balances.all_of(connection, channel=channel)
    found = [
        {
            "customer": row["number"],
            "channel": row["channel"],
            "group": row["group"],
            "balance": Money(row["minor"], row["currency"]).amount,
            "currency": row["currency"],
        }
        for row in rows
    ]
    if as_json:
        shown.as_json({"balances": found})
    elif not found:
        shown.line("Nobody has had anything on a balance.")
    else:
        shown.table(
            ("Customer", "Channel", "Group", "Balance>", ""),
            [(one["customer"], one["channel"], one["group"], one["balance"], one["currency"]) for one in found],
        )
    return DONE


@balance_app.command(name="show")
async def show(
    customer: Customer,
    /,
    *,
    channel: OfChannel = None,
    as_csv: Annotated[
        bool, Parameter(name="--csv", negative="", show_default=False, help="Print the statement as CSV.")
    ] = False,
    pdf: Annotated[Path | None, Parameter(help="Write the statement into this PDF file, for the customer.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show a customer's statement: every entry of his balance, and what was there after it.

    kvit balance show C0900 --pdf statement.pdf
    """
    async with opened_home() as opened:
        from connectors.files import write_whole
        from tasks.balance import balance_of, statement_pdf

        with _said_plainly():
            found = await balance_of(opened, customer, channel=channel)
        if pdf is not None:
            try:
                await asyncio.to_thread(write_whole, pdf, await statement_pdf(opened, found))
            except OSError as error:
                raise Wrong(f"{pdf} can't be written: {error.strerror}") from None
    if as_json:
        shown.as_json(_statement(found))
    elif as_csv:
        shown.line(_csv(found).replace("\r\n", "\n").rstrip("\n"))
    else:
        shown.pairs(
            [
                ("Customer", f"{found.customer} in {found.channel}"),
                ("Balance", found.balance),
                ("Can pay", found.available),
                ("Orders waiting", found.waiting or None),
                ("Statement", pdf),
            ]
        )
        if found.entries:
            shown.table(
                ("When (UTC)", "What", "Amount>", "After>", "", "By", "Why"),
                [
                    (
                        shown.at(line.entry.at),
                        _what(line),
                        line.entry.amount.amount,
                        line.after.amount,
                        line.entry.amount.currency,
                        line.entry.actor,
                        line.entry.reason,
                    )
                    for line in found.entries
                ],
            )
    return DONE


def _what(line: Line) -> str:
    if line.entry.reverses_id is not None:
        return f"taken back: entry {line.entry.reverses_id}"
    if line.order:
        return f"order {line.order}"
    if line.invoice:
        return f"invoice {line.invoice}"
    return f"payment {line.entry.payment_id}" if line.entry.payment_id else "by hand"


def _row(line: Line) -> shown.Json:
    return {
        "id": line.entry.id,
        "at": shown.moment(line.entry.at),
        "amount": line.entry.amount.amount,
        "after": line.after.amount,
        "currency": line.entry.amount.currency,
        "order": line.order,
        "invoice": line.invoice,
        "payment": line.entry.payment_id,
        "takes_back": line.entry.reverses_id,
        "by": line.entry.actor,
        "reason": line.entry.reason,
    }


def _statement(found: Balance) -> shown.Json:
    return {
        "customer": found.customer,
        "channel": found.channel,
        "balance": found.balance.amount,
        "available": found.available.amount,
        "currency": found.balance.currency,
        "orders_waiting": found.waiting,
        "entries": [_row(line) for line in found.entries],
    }


def _csv(found: Balance) -> str:
    from domain.spreadsheet import csv_line

    columns = ("id", "at", "amount", "after", "currency", "order", "invoice", "payment", "takes_back", "by", "reason")
    lines = [csv_line(columns)]
    for line in found.entries:
        row = _row(line) | {"amount": line.entry.amount.decimal, "after": line.after.decimal}
        lines.append(csv_line([row[column] for column in columns]))
    return "".join(lines)


@balance_app.command(name="add")
async def add(
    customer: Customer,
    amount: Amount,
    /,
    *,
    reference: Reference,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Put money that came by hand on a customer's balance; by the rules it may pay orders that wait.

    kvit balance add C0900 450.00 --reference "receipt 17" --because "cash at the till"
    """
    return await _change(customer, amount, reference, because, channel, as_json=as_json)


@balance_app.command(name="take")
async def take(
    customer: Customer,
    amount: Amount,
    /,
    *,
    reference: Reference,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Take money off a customer's balance, such as what was given back in cash; never more than there is."""
    return await _change(customer, f"-{amount}", reference, because, channel, as_json=as_json)


async def _change(
    customer: str, amount: str, reference: str, because: str, channel: str | None, *, as_json: bool
) -> int:
    if amount.startswith(("--", "-+", "+")) or (amount[:1] == "-" and amount[1:2] == "-"):
        raise Wrong("write the amount without a sign, such as 450.00")
    async with opened_home() as opened:
        from tasks.balance import balance_of, change_by_hand

        with _said_plainly():
            changed, said = await change_by_hand(
                opened,
                customer,
                amount,
                reference=reference,
                channel=channel,
                author=user_name(),
                because=because,
            )
            found = await balance_of(opened, customer, channel=channel)
    if as_json:
        shown.as_json(_statement(found) | {"changed": changed, "said": said})
    else:
        shown.line(said[0].upper() + said[1:] + ".")
    return DONE


@balance_app.command(name="release")
async def release(
    customer: Customer,
    /,
    *,
    most: Annotated[int | None, Parameter(help="How many orders at most; by the rules otherwise.")] = None,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Pay orders that wait for a customer's balance, as far as that covers them; they are carried on when due."""
    if most is not None and not 0 < most <= 1_000:
        raise Wrong("--most must be from 1 to 1000")
    async with opened_home() as opened:
        from tasks.balance import release_by_hand

        with _said_plainly():
            done = await release_by_hand(
                opened, customer, most=most, channel=channel, author=user_name(), because=because
            )
    if as_json:
        shown.as_json(
            {
                "customer": done.customer,
                "orders": [{"number": number, "amount": amount.amount} for number, amount in done.orders],
                "balance": done.balance.amount,
                "currency": done.balance.currency,
                "said": done.said,
            }
        )
    else:
        shown.line(done.said[0].upper() + done.said[1:] + ".")
    return DONE if done.orders else ATTENTION


@invoices_app.command(name="list")
async def invoices_list(
    *,
    channel: OfChannel = None,
    unpaid: Annotated[bool, Parameter(negative="", show_default=False, help="Only what is still open.")] = False,
    as_json: AsJson = False,
) -> int:
    """List the invoices without an order."""
    async with opened_home() as opened:
        from tasks.open_invoice import listing

        found = await listing(opened, channel=channel, open_only=unpaid)
    if as_json:
        shown.as_json({"invoices": [_invoice(one) for one in found]})
    elif not found:
        shown.line("There are no invoices without an order.")
    else:
        shown.table(
            ("Number", "Kind", "Channel", "Customer", "Issued", "Total>", "Open>", "", "State", "PDF"),
            [
                (
                    one.number,
                    one.kind.value,
                    one.channel,
                    one.customer,
                    one.issued_on,
                    one.total.amount,
                    one.open.amount,
                    one.total.currency,
                    _state(one),
                    one.file,
                )
                for one in found
            ],
        )
    return DONE


def _state(one: Invoice) -> str:
    if one.cancelled:
        return "cancelled"
    return "open" if one.open.minor > 0 else "paid"


def _invoice(one: Invoice) -> shown.Json:
    return {
        "number": one.number,
        "kind": one.kind.value,
        "channel": one.channel,
        "customer": one.customer,
        "title": one.title,
        "issued_on": one.issued_on.isoformat(),
        "total": one.total.amount,
        "open": one.open.amount,
        "currency": one.total.currency,
        "state": _state(one),
        "file": one.file,
    }


@invoices_app.command(name="issue")
async def invoices_issue(
    customer: Customer,
    amount: Amount,
    /,
    *,
    title: Annotated[str, Parameter(help="What stands on it, such as “Top-up of your balance”.")],
    kind: Annotated[Literal["proforma", "invoice"], Parameter(help="A proforma, or an invoice (tax document).")] = (
        "proforma"
    ),
    vat: Annotated[str, Parameter(help="VAT in per cent.")] = "0",
    again: Annotated[bool, Parameter(negative="", show_default=False, help="Although the same one is open.")] = False,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Issue an invoice that belongs to no order; a payment settles it as it would an order.

    kvit invoices issue C0900 5000.00 --title "Top-up of your balance" --because "asked for on the phone"
    """
    async with opened_home() as opened:
        from domain.rules import DocumentKind
        from tasks.open_invoice import issue, said_of

        with _said_plainly():
            issued = await issue(
                opened,
                customer,
                amount,
                title=title,
                kind=DocumentKind(kind),
                vat_rate=vat,
                channel=channel,
                author=user_name(),
                because=because,
                again=again,
            )
    if as_json:
        shown.as_json(
            {
                "number": issued.number,
                "customer": issued.customer,
                "total": issued.total.amount,
                "currency": issued.total.currency,
                "file": issued.file,
                "issued": issued.new,
            }
        )
    else:
        said = said_of(issued)
        shown.line(said[0].upper() + said[1:] + ".")
    return DONE


@invoices_app.command(name="confirm")
async def invoices_confirm(
    number: Annotated[str, Parameter(name="NUMBER", help="The invoice's number.")],
    /,
    *,
    reference: Reference,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Confirm that an invoice without an order was paid, where no statement or gateway says so."""
    async with opened_home() as opened:
        from tasks.open_invoice import confirm

        with _said_plainly():
            changed, said = await confirm(
                opened, number, reference=reference, channel=channel, author=user_name(), because=because
            )
    if as_json:
        shown.as_json({"number": number, "changed": changed, "said": said})
    else:
        shown.line(said[0].upper() + said[1:] + ".")
    return DONE


@invoices_app.command(name="cancel")
async def invoices_cancel(
    number: Annotated[str, Parameter(name="NUMBER", help="The proforma's number.")],
    /,
    *,
    because: Because,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Take back a proforma without an order that nobody has paid."""
    async with opened_home() as opened:
        from tasks.open_invoice import cancel

        with _said_plainly():
            said = await cancel(opened, number, channel=channel, author=user_name(), because=because)
    if as_json:
        shown.as_json({"number": number, "said": said})
    else:
        shown.line(said[0].upper() + said[1:] + ".")
    return DONE
