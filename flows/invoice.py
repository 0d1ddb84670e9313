"""Payment by invoice: the order was placed, its payment is awaited."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.invoice import issue_proforma
from tasks.lane import lane
from tasks.notify import notify_placed
from tasks.placed import placed_orders
from tasks.status import set_placed_status
from tasks.stock import reserve_stock
from tasks.tell import tell_crm, tell_shop


@flow(name="order placed", flow_run_name=run_name)
async def order_placed(orders: list[int]) -> State[Any]:
    """Placed → reservation → proforma → message with payment instructions → status."""
    placed = await placed_orders(orders)
    reserved = await reserve_stock(placed)
    proforma = await issue_proforma(reserved)
    async with lane() as letters:
        letters(notify_placed(proforma))
        status = await set_placed_status(proforma)
        await gather(tell_shop(status), tell_crm(status))
    return await close("order_placed", orders=orders)
