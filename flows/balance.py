"""Balance: a top-up lets orders go that wait for it, and what a person does about a customer's balance."""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.by_hand import ByHandError
from domain.rules import DocumentKind
from tasks.balance import EntryId, LetGo, change_named, ended_released, let_go_named, release_waiting, show_balances
from tasks.close import run_name
from tasks.forms import form_field
from tasks.open_invoice import confirm_named, issue_named


@flow(name="balance release", flow_run_name=run_name)
async def balance_release(entries: list[EntryId]) -> State[Any]:
    """Top-up → balance not below zero → the latest waiting orders → paid from it → each in its scenario."""
    return await ended_released(await release_waiting(entries))


@flow(name="balance", flow_run_name="balance")
async def balance(
    what: Literal["list", "put on", "take off", "release"] = form_field(
        "What to do",
        "List: every customer's balance. Put on, take off: money that came or went by hand. "
        "Release: pay orders that wait, as far as the balance covers them",
        "list",
    ),
    customer: str = form_field("Customer", "His number in the channel, such as C0900", ""),
    amount: str = form_field("Amount", "Put on, take off: such as 450.00, in the channel's currency", ""),
    reference: str = form_field(
        "Reference", "Put on, take off: what the money is known by, such as a receipt's number; it is taken once", ""
    ),
    most: int | None = form_field("At most", "Release: how many orders; empty: as the rules say", None, ge=1, le=1000),
    because: str = form_field("Because", "Why; it stands in the history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → write down → what it lets go is carried on."""
    try:
        if what == "list":
            return Completed(name="Done", message=await show_balances(channel or None))
        if what == "release":
            let_go: list[LetGo] = await let_go_named(
                customer, most=most, channel=channel or None, author=author, because=because
            )
            return await ended_released(let_go)
        signed = amount.strip() if what == "put on" else f"-{amount.strip()}"
        if not amount.strip() or amount.strip().startswith(("-", "+")):
            return Failed(name="Refused", message="write the amount without a sign, such as 450.00")
        said: str = await change_named(
            customer, signed, reference=reference, channel=channel or None, author=author, because=because
        )
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)


@flow(name="invoice without order", flow_run_name="invoice without order")
async def invoice_without_order(
    what: Literal["issue", "confirm"] = form_field(
        "What to do", "Issue one; or confirm that one was paid, where no statement or gateway says so", "issue"
    ),
    customer: str = form_field("Customer", "Issue: his number in the channel, such as C0900", ""),
    amount: str = form_field("Amount", "Issue: gross, such as 450.00, in the channel's currency", ""),
    title: str = form_field("For", "Issue: what stands on it, such as Top-up of your balance", ""),
    kind: Literal[DocumentKind.PROFORMA, DocumentKind.INVOICE] = form_field(
        "Kind", "Issue: a proforma asks for money in advance; an invoice is a tax document", DocumentKind.PROFORMA
    ),
    vat_rate: str = form_field("VAT, per cent", "Issue: such as 21; 0 where no VAT is due", "0"),
    again: bool = form_field("Once more", "Issue: although the same one is open already", default=False),
    number: str = form_field("Number", "Confirm: the invoice's", ""),
    reference: str = form_field("Reference", "Confirm: what the money is known by, such as a receipt's number", ""),
    because: str = form_field("Because", "Why; it stands in the history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → number it or book it → what is paid of it is on the customer's balance."""
    try:
        if what == "confirm":
            return Completed(
                name="Done",
                message=await confirm_named(
                    number, reference=reference, channel=channel or None, author=author, because=because
                ),
            )
        said: str = await issue_named(
            customer,
            amount,
            title=title,
            kind=DocumentKind(kind),
            vat_rate=vat_rate,
            again=again,
            channel=channel or None,
            author=author,
            because=because,
        )
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)
