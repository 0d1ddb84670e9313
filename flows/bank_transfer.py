"""Bank transfer: the money was found on a statement."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice
from tasks.lane import lane
from tasks.match import PaymentId, match_payments
from tasks.notify import notify_customer, notify_dispatch, notify_incomplete, notify_status
from tasks.status import set_status
from tasks.stock import deduct_stock
from tasks.tell import note_dispatch, tell_crm, tell_shop


@flow(name="bank transfer", flow_run_name=run_name)
async def bank_transfer(payments: list[PaymentId]) -> State[Any]:
    """Match → message → invoice → by the rules into the next status → stock → dispatch."""
    matched = await match_payments(payments)
    # A letter that can't be sent now must not hold up the order.
    async with lane() as letters:
        letters(notify_customer(matched.paid), notify_incomplete(matched.short))
        status = await set_status(await issue_invoice(matched.paid))
        letters(notify_status(status))
        picked, *_ = await gather(deduct_stock(status), tell_shop(status), tell_crm(status), tell_crm(matched.short))
        dispatched = await start_dispatch(picked)
        letters(notify_dispatch(dispatched))
        await note_dispatch(dispatched)
    return await close("bank_transfer", payments=payments)
