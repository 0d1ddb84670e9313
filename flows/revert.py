"""Revert: orders go back to before their payment; what can't be taken back is named first."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.close import name_by_orders, run_name
from tasks.forms import form_field
from tasks.revert import RevertError, RevertId, begin_named, ended_as, plan_named, show_plan, take_back_orders


@flow(name="take back", flow_run_name=run_name)
async def take_back(reverts: list[RevertId]) -> State[Any]:
    """Label → stock → invoice → status, as the newest comes first → payment taken off."""
    return ended_as(await take_back_orders(reverts))


@flow(name="revert", flow_run_name=name_by_orders)
async def revert(
    orders: list[str] = form_field("Orders", "Their numbers", []),
    because: str = form_field("Because", "Why they are taken back; it stands in their history", ""),
    plan_only: bool = form_field("Plan only", "Only show what would be taken back; nothing is done", default=True),
    force: bool = form_field("Force", "Although messages were sent, or a parcel has left", default=False),
    with_others: bool = form_field("With others", "Also orders that the same payment settled", default=False),
    channel: str | None = form_field("Channel", "Needed when a number is used in several", None),
    author: str = form_field("Your name", "Who takes them back", "an operator"),
) -> State[Any]:
    """Plan → show → take back, newest first → payments can be matched again."""
    try:
        plans = await plan_named(orders, channel)
        await show_plan(plans, planned_only=plan_only)
        if plan_only:
            return Completed(name="Plan", message=f"{len(plans)} orders would be taken back; nothing was done")
        begun = await begin_named(orders, channel, author=author, because=because, force=force, with_others=with_others)
    except RevertError as error:
        return Failed(name="Refused", message=str(error))
    run: Any = take_back  # asked for its state, a flow returns that; its type doesn't say so
    return await run(begun, return_state=True)
