"""Authorization: the card's money is held; the order waits until an operator, or the rules, take it or let it go."""

from __future__ import annotations

from asyncio import gather
from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.holds import Decision
from domain.wording import counted
from tasks.authorize import (
    HoldId,
    capture_hold,
    decided_holds,
    orders_of_holds,
    release_hold,
    set_hold_status,
    set_released_status,
)
from tasks.close import close, name_by_orders, run_name
from tasks.ends import needs_person
from tasks.forms import form_field
from tasks.holds import HoldError, decide_named, look_after_holds
from tasks.notify import notify_held
from tasks.tell import tell_crm, tell_shop


@flow(name="authorization", flow_run_name=run_name)
async def authorization(holds: list[HoldId]) -> State[Any]:
    """Find the order → on hold → message; shop and CRM are told beside it."""
    held = await orders_of_holds(holds)
    status = await set_hold_status(held)
    await gather(notify_held(status), tell_shop(status), tell_crm(status))
    return await close("authorization", holds=holds)


@flow(name="capture", flow_run_name=run_name)
async def capture(holds: list[HoldId]) -> State[Any]:
    """Take what was decided → captured → its payment carries the order on, as any card's does."""
    await capture_hold(await decided_holds(holds))
    return await close("capture", holds=holds)


@flow(name="release", flow_run_name=run_name)
async def release(holds: list[HoldId]) -> State[Any]:
    """Take what was decided → released → status; shop and CRM are told beside it."""
    released = await release_hold(await decided_holds(holds))
    status = await set_released_status(released)
    await gather(tell_shop(status), tell_crm(status))
    return await close("release", holds=holds)


@flow(name="hold", flow_run_name=name_by_orders)
async def hold(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    what: Decision | None = form_field(
        "What to do", "Capture: take what the order costs now. Release: give the money back", None
    ),
    amount: str = form_field("Amount", "Capture: when it is to be another amount, such as 450.00", ""),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → write down → the money is captured or released, and the order goes on."""
    if what is None:
        return Failed(name="Refused", message="say whether the money is to be captured or released")
    try:
        said = await decide_named(
            order, what, amount=amount or None, channel=channel or None, author=author, because=because
        )
    except HoldError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)


@flow(name="holds", flow_run_name="holds")
async def holds_waiting() -> State[Any]:
    """Look at what is held → decide by the rules what expires shortly → warn → show."""
    held, decided, warned = await look_after_holds()
    message = f"{counted(held, 'hold')}; {decided} decided by the rules; {warned} need a person"
    if warned:
        return needs_person(message)
    return Completed(name="Done", message=message)
