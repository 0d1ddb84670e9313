"""Bank transfer: the money was found on a statement."""

from __future__ import annotations

from asyncio import gather
from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from tasks.close import close, run_name
from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice
from tasks.match import PaymentId, match_payments
from tasks.notify import notify_customer, notify_dispatch, notify_incomplete, notify_invoice
from tasks.status import set_status
from tasks.stock import deduct_stock


@flow(name="bank transfer", flow_run_name=run_name)
async def bank_transfer(
    payments: Annotated[list[PaymentId], Field(title="Payments", description="Numbers of payments in Kvit")],
) -> State[Any]:
    """Match → message → invoice → by the rules into the next status → stock → dispatch."""
    matched = await match_payments(payments)
    # A letter that can't be sent now must not hold up the order, so nothing waits for it.
    _, invoiced, _ = await gather(
        notify_customer(matched.paid), issue_invoice(matched.paid), notify_incomplete(matched.short)
    )
    _, status = await gather(notify_invoice(invoiced), set_status(invoiced))
    picked = await deduct_stock(status)
    dispatched = await start_dispatch(picked)
    await notify_dispatch(dispatched)
    return await close("bank_transfer", payments=payments)
