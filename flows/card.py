"""Card: the customer has paid; the order is carried on at once."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice
from tasks.lane import lane
from tasks.match import PaymentId, match_payments
from tasks.notify import notify_customer, notify_dispatch, notify_incomplete
from tasks.status import set_status
from tasks.stock import deduct_stock
from tasks.tell import note_dispatch, tell_crm, tell_shop


@flow(name="card payment", flow_run_name=run_name)
async def card_payment(payments: list[PaymentId]) -> State[Any]:
    """Match → paid → invoice → message → stock → dispatch; shop and CRM are told beside it."""
    matched = await match_payments(payments)
    paid = await set_status(matched.paid)
    invoiced, picked = await gather(issue_invoice(paid), deduct_stock(paid))
    async with lane() as letters:
        letters(notify_customer(invoiced), notify_incomplete(matched.short))
        dispatched, *_ = await gather(
            start_dispatch(picked, invoiced), tell_shop(paid), tell_crm(paid), tell_crm(matched.short)
        )
        letters(notify_dispatch(dispatched))
        await note_dispatch(dispatched)
    return await close("card", payments=payments)
