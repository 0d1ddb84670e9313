"""Payment by invoice with deferral: assembling starts at once, the money comes later."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice
from tasks.lane import lane
from tasks.notify import notify_dispatch, notify_placed
from tasks.placed import placed_orders
from tasks.status import set_placed_status
from tasks.stock import deduct_stock
from tasks.tell import note_dispatch, tell_crm, tell_shop


@flow(name="deferred", flow_run_name=run_name)
async def deferred(orders: list[int]) -> State[Any]:
    """Placed → invoice with its due date → message → status → stock → dispatch."""
    placed = await placed_orders(orders)
    invoiced = await issue_invoice(placed)
    async with lane() as letters:
        letters(notify_placed(invoiced))
        status = await set_placed_status(invoiced)
        picked, *_ = await gather(deduct_stock(status), tell_shop(status), tell_crm(status))
        dispatched = await start_dispatch(picked)
        letters(notify_dispatch(dispatched))
        await note_dispatch(dispatched)
    return await close("deferred", orders=orders)
