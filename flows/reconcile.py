"""Reconcile: what every source has is compared with what we have; what differs, is old or stays open is shown."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from domain.wording import counted
from tasks.comparing import DAYS
from tasks.ends import needs_person
from tasks.forms import form_field
from tasks.payouts import show_payouts
from tasks.reconcile import (
    accounting,
    banks,
    draw_weeks,
    gateways,
    match_again,
    payouts,
    pull_sources,
    report_payments,
    shop,
    show_differences,
    what_is_old,
)


@flow(name="reconcile", flow_run_name="reconcile · {days} days")
async def reconcile(
    days: int = form_field("Days", "How many days back payments, files and orders are compared", DAYS, ge=1, le=366),
) -> State[Any]:
    """Pull → match again → compare gateways, banks, payouts, shop and accounting → what is old → draw → show."""
    polled = await pull_sources([])
    again = await match_again()
    compared = await gather(
        what_is_old(polled),
        gateways(days, polled),
        banks(days, polled),
        payouts(polled),
        shop(days, polled),
        accounting(days, polled),
    )
    said, differences, unknown = await show_differences(compared)
    await gather(draw_weeks(), show_payouts())
    persons = await report_payments()
    message = f"{said}; {counted(again, 'unmatched payment')} tried again; {persons} need a person"
    sources, failed = polled
    if failed or unknown:
        return needs_person("; ".join([*sources, message]))
    if persons or differences:
        return needs_person(message)
    return Completed(name="Done", message=message)
