"""Money back: the gateway refunded a payment, or the customer's bank took it back."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow

from tasks.close import close, run_name
from tasks.match import PaymentId
from tasks.money_back import (
    cancel_dispatch,
    credit_returned,
    match_money_back,
    restock_returned,
    set_returned_status,
)
from tasks.tell import tell_crm, tell_shop


@flow(name="money back", flow_run_name=run_name)
async def money_back(payments: list[PaymentId]) -> State[Any]:
    """Match → nothing more happens → label cancelled → goods back in stock, credit note → status.

    Where only a part went back, nothing is undone; the CRM is told.
    """
    returned = await match_money_back(payments)
    cancelled = await cancel_dispatch(returned.gone)
    restocked, credited = await gather(restock_returned(cancelled), credit_returned(returned.gone))
    status = await set_returned_status(restocked, credited)
    await gather(tell_shop(status), tell_crm(status), tell_crm(returned.part))
    return await close("money_back", payments=payments)
