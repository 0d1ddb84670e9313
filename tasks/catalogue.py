"""Every step by its name, for whoever meets one in the store and is to take it back or to settle it."""

from __future__ import annotations

from tasks.authorize import capture_hold, release_hold, set_hold_status, set_released_status
from tasks.dispatch import start_dispatch
from tasks.invoice import issue_invoice, issue_proforma
from tasks.money_back import cancel_dispatch, credit_returned, restock_returned, set_returned_status
from tasks.notify import (
    notify_customer,
    notify_dispatch,
    notify_held,
    notify_incomplete,
    notify_overdue,
    notify_placed,
    notify_reminder,
    notify_status,
)
from tasks.repeat import print_once_more
from tasks.second_receipt import send_second_receipt
from tasks.status import set_placed_status, set_status
from tasks.step import Step
from tasks.stock import deduct_stock, reserve_stock
from tasks.tell import note_dispatch, tell_crm, tell_shop
from tasks.waiting import call_customer, expire

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
        *notify_reminder.steps,
        *notify_overdue.steps,
        cancel_dispatch,
        restock_returned,
        credit_returned,
        set_returned_status,
        call_customer,
        expire,
        set_hold_status,
        capture_hold,
        release_hold,
        set_released_status,
        tell_shop,
        tell_crm,
        note_dispatch,
        send_second_receipt,
        print_once_more,
    )
}
