"""Waiting for money: reminders, the last day, and the end of an order that nobody paid."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.close import close, name_by_orders, run_name
from tasks.forms import form_field
from tasks.notify import notify_overdue, notify_reminder
from tasks.tell import tell_crm, tell_shop
from tasks.waiting import ExtendError, call_customer, expire, extend_named, waiting_orders


@flow(name="remind", flow_run_name=run_name)
async def remind(orders: list[int]) -> State[Any]:
    """Unpaid, and the last day is near → message → done."""
    await notify_reminder(await waiting_orders(orders))
    return await close("remind", orders=orders)


@flow(name="overdue", flow_run_name=run_name)
async def overdue(orders: list[int]) -> State[Any]:
    """Unpaid after the due date → message → done."""
    await notify_overdue(await waiting_orders(orders))
    return await close("overdue", orders=orders)


@flow(name="last day", flow_run_name=run_name)
async def last_day(orders: list[int]) -> State[Any]:
    """Unpaid on the last day → a person is told → who calls the customer."""
    await call_customer(await waiting_orders(orders))
    return await close("last_day", orders=orders)


@flow(name="expire", flow_run_name=run_name)
async def expire_orders(orders: list[int]) -> State[Any]:
    """Unpaid when day and grace are over → goods free, order expired → shop and CRM are told."""
    expired = await expire(await waiting_orders(orders))
    await gather(tell_shop(expired), tell_crm(expired))
    return await close("expire", orders=orders)


@flow(name="extend", flow_run_name=name_by_orders)
async def extend(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    days: int = form_field("Days", "By how many days its last day is put off", 3, ge=1, le=366),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → put the last day off → what was to be done on it is done with."""
    try:
        said = await extend_named(order, days, channel=channel or None, author=author, because=because)
    except ExtendError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)
