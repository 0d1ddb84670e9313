"""By hand: a person holds an order out of automation, sets its status, or has a step of it done once more."""

from __future__ import annotations

from asyncio import gather
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.by_hand import ByHandError
from tasks.by_hand import hold_out_named, set_status_named
from tasks.catalogue import STEPS
from tasks.close import close, name_by_orders, run_name
from tasks.forms import form_field
from tasks.repeat import SCENARIO, repeat_named, repeated
from tasks.run_scenario import run_named
from tasks.skip import skip_named


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
    plan_only: bool = form_field("Plan only", "Only show what speaks against it, and what would be done", False),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Look what speaks against it → set the status → shop and CRM are told."""
    if not order.strip() or not status.strip():
        return Failed(name="Refused", message="say which order it is, and its new status")
    try:
        done = await set_status_named(
            order,
            status.strip(),
            channel=channel or None,
            author=author,
            because=because,
            force=force,
            plan=plan_only,
        )
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    if done.planned:
        against = f"; against it: {'; '.join(done.doubts)}" if done.doubts else ""
        return Completed(name="Plan", message=f"order {done.number}: {'; '.join(done.planned)}{against}")
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


@flow(name="by hand", flow_run_name=run_name)
async def by_hand(repeats: list[int]) -> State[Any]:
    """Take what a person wants once more → its step → what came of it."""
    by_step = await repeated(repeats)
    await gather(*(STEPS[name](batch) for name, batch in by_step.items()))
    return await close(SCENARIO, repeats=repeats)


@flow(name="repeat step", flow_run_name=name_by_orders)
async def repeat_step(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    step: str = form_field("Step", "Such as message, shop or dispatch; print prints its documents once more", ""),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    gone: bool = form_field("Gone", "Of a label: the first was cancelled at the carrier", False),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Look whether it may be done twice → write down who and why → it is due and goes on."""
    if not order.strip() or not step.strip():
        return Failed(name="Refused", message="say which order it is, and which step")
    try:
        done = await repeat_named(order, step, channel=channel or None, author=author, because=because, gone=gone)
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    if not done.changed:
        return Completed(
            name="Done", message=f"order {done.number}: step {done.step} was asked for before, in these words"
        )
    waits = f"; it waits, because {done.waits}" if done.waits else ""
    return Completed(
        name="Done", message=f"order {done.number}: step {done.step} is due once more ({done.cause}){waits}"
    )


@flow(name="skip step", flow_run_name=name_by_orders)
async def skip_step(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    step: str = form_field("Step", "As the order's history names it, such as message or dispatch", ""),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    force: bool = form_field("Force", "Leave it out though it may have happened; try without it first", False),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Look what it is done for → write it down as left out → what comes after it goes on."""
    if not order.strip() or not step.strip():
        return Failed(name="Refused", message="say which order it is, and which step")
    try:
        done = await skip_named(order, step, channel=channel or None, author=author, because=because, force=force)
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    what = f"order {done.number}: step {done.step}"
    if done.unclear and not done.changed:
        return Failed(name="Refused", message=f"{what} is as it was: {done.unclear}. Force leaves it out all the same")
    if not done.changed:
        return Completed(name="Done", message=f"{what} is left out already")
    warned = "".join(f"; {said}" for said in done.warnings)
    return Completed(name="Done", message=f"{what} is left out for {done.cause}{warned}")


@flow(name="run scenario", flow_run_name=name_by_orders)
async def run_one(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    scenario: str = form_field("Scenario", "Such as card, bank transfer or order placed", ""),
    plan_only: bool = form_field("Plan only", "Only show what would be done, and what left out and why", default=True),
    because: str = form_field("Because", "Why; it stands in the order's history", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Look what is done and what is not → show it → the order is due in the scenario."""
    if not order.strip() or not scenario.strip():
        return Failed(name="Refused", message="say which order it is, and which scenario")
    try:
        ran = await run_named(order, scenario, channel=channel or None, author=author, because=because, plan=plan_only)
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    what = f"order {ran.number}: {ran.open} of {len(ran.lines)} steps have not ended"
    if plan_only:
        return Completed(name="Plan", message=f"{what}; nothing was done")
    if not ran.changed:
        return Completed(name="Done", message=f"{what}, so there is nothing to do")
    waits = f", but {ran.waits}" if ran.waits else ""
    return Completed(name="Done", message=f"{what}; it is due now{waits}")
