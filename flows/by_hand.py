"""By hand: a person holds an order out of automation, puts it back, or sets its status."""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.by_hand import ByHandError
from tasks.by_hand import hold_out_named, set_status_named
from tasks.close import name_by_orders
from tasks.forms import form_field


@flow(name="hold order out", flow_run_name=name_by_orders)
async def hold_order_out(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    what: Literal["hold out", "put back"] = form_field(
        "What to do",
        "Hold out: no step begins for it, though its payments are still matched. Put back: what waits goes on",
        "hold out",
    ),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Write down who holds the order out → no step begins → put back, what waits goes on."""
    if not order.strip():
        return Failed(name="Refused", message="say which order it is")
    back = what == "put back"
    try:
        held = await hold_out_named(order, channel=channel or None, author=author, because=because, back=back)
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    again = "" if held.changed else "it was so already: "
    now = f"held out of automation by {held.by}" if held.by else "in automation; what waited is due now"
    return Completed(name="Done", message=f"order {held.number}: {again}{now}")


@flow(name="set status", flow_run_name=name_by_orders)
async def set_order_status(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    status: str = form_field("Status", "A standard one, such as processing, or one of the channel's own", ""),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    force: bool = form_field("Force", "Set it whatever speaks against it; try without it first", False),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Look what speaks against it → set the status → shop and CRM are told."""
    if not order.strip() or not status.strip():
        return Failed(name="Refused", message="say which order it is, and its new status")
    try:
        done = await set_status_named(
            order, status.strip(), channel=channel or None, author=author, because=because, force=force
        )
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    if done.doubts and not done.changed:
        against = "; ".join(done.doubts)
        return Failed(
            name="Refused", message=f"order {done.number} stays {done.before}: {against}. Force sets it all the same"
        )
    if done.by_money:
        return Completed(name="Done", message=f"order {done.number}: its money on hold is decided about first")
    if not done.changed:
        return Completed(name="Done", message=f"order {done.number} is {done.after} already")
    return Completed(name="Done", message=f"order {done.number}: {done.before} → {done.after}")
