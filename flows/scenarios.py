"""The scenarios by name, as the work that is due names them, with the parameter that takes its ids."""

from __future__ import annotations

from typing import Any

from prefect import Flow

from flows.authorization import authorization, capture, release
from flows.balance import balance_release
from flows.bank_transfer import bank_transfer
from flows.by_hand import by_hand
from flows.card import card_payment
from flows.cash_on_delivery import cash_on_delivery, dispatch_unpaid
from flows.deferred import deferred
from flows.invoice import order_placed
from flows.money_back import money_back
from flows.revert import take_back
from flows.status_changed import status_changed
from flows.waiting import expire_orders, last_day, overdue, remind

# What was placed comes before what was paid: a payment may need what its order's beginning did.
SCENARIOS: dict[str, tuple[Flow[..., Any], str]] = {
    "order_placed": (order_placed, "orders"),
    "dispatch_unpaid": (dispatch_unpaid, "orders"),
    "deferred": (deferred, "orders"),
    "authorization": (authorization, "holds"),
    "capture": (capture, "holds"),
    "release": (release, "holds"),
    "balance_release": (balance_release, "entries"),
    "card": (card_payment, "payments"),
    "bank_transfer": (bank_transfer, "payments"),
    "cash_on_delivery": (cash_on_delivery, "payments"),
    "money_back": (money_back, "payments"),
    "revert": (take_back, "reverts"),
    "remind": (remind, "orders"),
    "overdue": (overdue, "orders"),
    "last_day": (last_day, "orders"),
    "expire": (expire_orders, "orders"),
    "status_changed": (status_changed, "statuses"),
    "by_hand": (by_hand, "repeats"),
}
