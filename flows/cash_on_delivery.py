"""Cash on delivery: the goods go first, the carrier's remittance pays for them."""

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
from tasks.placed import placed_orders
from tasks.second_receipt import send_second_receipt
from tasks.status import set_placed_status, set_status
from tasks.stock import deduct_stock
from tasks.tell import note_dispatch, tell_crm, tell_shop


@flow(name="dispatch unpaid", flow_run_name=run_name)
async def dispatch_unpaid(orders: list[int]) -> State[Any]:
    """Placed → status → stock → dispatch, with the amount to collect → message."""
    placed = await placed_orders(orders)
    status = await set_placed_status(placed)
    picked = await deduct_stock(status)
    dispatched = await start_dispatch(picked)
    await gather(notify_dispatch(dispatched), note_dispatch(dispatched), tell_shop(status), tell_crm(status))
    return await close("dispatch_unpaid", orders=orders)


@flow(name="cash on delivery", flow_run_name=run_name)
async def cash_on_delivery(payments: list[PaymentId]) -> State[Any]:
    """Match → message → invoice → status: the carrier's remittance has come."""
    matched = await match_payments(payments)
    async with lane() as letters:
        letters(notify_customer(matched.paid), notify_incomplete(matched.short))
        status = await set_status(await issue_invoice(matched.paid))
        letters(notify_status(status))
        await gather(tell_shop(status), tell_crm(status), tell_crm(matched.short), send_second_receipt(status))
    return await close("cash_on_delivery", payments=payments)
