"""Every step by its name, for whoever meets one in the store and is to take it back or to settle it."""

from __future__ import annotations

from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice, issue_proforma
from tasks.money_back import cancel_dispatch, credit_returned, restock_returned, set_returned_status
from tasks.notify import (
    notify_customer,
    notify_dispatch,
    notify_held,
    notify_incomplete,
    notify_placed,
    notify_status,
)
from tasks.status import set_placed_status, set_status
from tasks.step import Step
from tasks.stock import deduct_stock, reserve_stock

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        set_status,
        set_placed_status,
        issue_invoice,
        issue_proforma,
        deduct_stock,
        reserve_stock,
        start_dispatch,
        *notify_customer.steps,
        *notify_status.steps,
        *notify_incomplete.steps,
        *notify_placed.steps,
        *notify_dispatch.steps,
        *notify_held.steps,
        cancel_dispatch,
        restock_returned,
        credit_returned,
        set_returned_status,
    )
}
