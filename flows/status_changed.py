"""Status changed: a person, a carrier or another system gave an order a new status; the other systems are told."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.second_receipt import send_second_receipt
from tasks.tell import changed_orders, tell_crm, tell_shop


@flow(name="status changed", flow_run_name=run_name)
async def status_changed(statuses: list[int]) -> State[Any]:
    """Take what changed → shop → CRM → second receipt, side by side."""
    changed = await changed_orders(statuses)
    await gather(tell_shop(changed), tell_crm(changed), send_second_receipt(changed))
    return await close("status_changed", statuses=statuses)
