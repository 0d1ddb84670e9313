"""`kvit orders hold-out`, `put-back`, `status` and `repeat`: what a person does with an order by hand."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, Wrong, opened_home, user_name

Number = Annotated[str, Parameter(help="The order's number.")]
Because = Annotated[str, Parameter(help="Why; it stands in the order's history.")]
Channel = Annotated[str | None, Parameter(help="Needed when several channels have an order of this number.")]


async def orders_hold_out(
    number: Number, /, *, because: Because = "", channel: Channel = None, as_json: AsJson = False
) -> int:
    """Hold an order out of automation: no step begins for it until it is put back.

        kvit orders hold-out CZ1042 --because "the customer wants to change it"

    Its payments are still matched, a step that has begun is ended, and what somebody reverts goes on.
    """
    return await _hold_out(number, because, channel, back=False, as_json=as_json)


async def orders_put_back(
    number: Number, /, *, because: Because = "", channel: Channel = None, as_json: AsJson = False
) -> int:
    """Put an order back into automation; everything that waited goes on at once.

    kvit orders put-back CZ1042 --because "the change is made"
    """
    return await _hold_out(number, because, channel, back=True, as_json=as_json)


async def _hold_out(number: str, because: str, channel: str | None, *, back: bool, as_json: bool) -> int:
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.by_hand import hold_out

        try:
            held = await hold_out(opened, number, channel=channel, author=user_name(), because=because, back=back)
        except ByHandError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"order": held.number, "held_out": held.by, "changed": held.changed})
        return DONE
    again = "" if held.changed else "was so already: "
    now = f"held out of automation by {held.by}" if held.by else "in automation; what waited is due now"
    shown.line(f"Order {held.number} {again}{now}." if again else f"Order {held.number} is {now}.")
    return DONE


async def orders_status(
    number: Number,
    status: Annotated[str, Parameter(help="Its new status: a standard one, or one of the channel's own.")],
    /,
    *,
    because: Because = "",
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="Set it whatever speaks against it.")
    ] = False,
    plan: Annotated[bool, Parameter(negative="", show_default=False, help="Only show what would be done.")] = False,
    channel: Channel = None,
    as_json: AsJson = False,
) -> int:
    """Set an order's status by hand; shop and CRM are told.

        kvit orders status CZ1042 processing --because "paid in cash at the counter" --force

    Exit 1 when something speaks against it, such as missing money: then nothing is changed without --force.
    """
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.by_hand import set_status

        try:
            done = await set_status(
                opened, number, status, channel=channel, author=user_name(), because=because, force=force, plan=plan
            )
        except ByHandError as error:
            raise Wrong(str(error)) from None
    stopped = bool(done.doubts) and not done.changed
    if as_json:
        shown.as_json(
            {
                "order": done.number,
                "before": done.before,
                "after": done.before if stopped or done.by_money or done.planned else done.after,
                "wanted": done.after,
                "changed": done.changed,
                "against": list(done.doubts),
                "decides_hold": done.by_money,
                "would": list(done.planned),
            }
        )
    elif done.planned:
        shown.line(f"Order {done.number}: {'; '.join(done.planned)}. Nothing was done.")
        for said in done.doubts:
            shown.line(f"  Against it: {said}.")
    elif stopped:
        shown.line(f"Order {done.number} stays {done.before}: {'; '.join(done.doubts)}.")
        shown.line("With --force it is set all the same.")
    elif done.by_money:
        shown.line(f"Order {done.number}: its money on hold is decided about first; then the status follows.")
    else:
        now = f"{done.before} → {done.after}" if done.changed else f"it is {done.after} already"
        shown.line(f"Order {done.number}: {now}.")
    return ATTENTION if stopped else DONE


async def orders_repeat(
    number: Number,
    step: Annotated[str, Parameter(help="The step, as `kvit orders show` names it; print prints its documents again.")],
    /,
    *,
    because: Because = "",
    gone: Annotated[
        bool, Parameter(negative="", show_default=False, help="Of dispatch: the label was cancelled at its carrier.")
    ] = False,
    channel: Channel = None,
    as_json: AsJson = False,
) -> int:
    """Have a step of an order done once more, such as its letter; it is due at once.

        kvit orders repeat CZ1042 message --because "she has deleted the letter"

        kvit orders repeat CZ1042 print --because "the printer was out of paper"

        kvit orders repeat CZ1042 dispatch --gone --because "cancelled in the carrier's portal: wrong street"

    Asked for twice in the same words it is done once. An invoice, a label or stock is not repeated while the first
    stands; what says so says what to do instead.
    """
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.repeat import repeat

        try:
            done = await repeat(opened, number, step, channel=channel, author=user_name(), because=because, gone=gone)
        except ByHandError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json(
            {
                "order": done.number,
                "step": done.step,
                "cause": done.cause,
                "changed": done.changed,
                "waits": done.waits,
            }
        )
    elif not done.changed:
        shown.line(f"Order {done.number}: step {done.step} was asked for before, in these words ({done.cause}).")
    else:
        waits = f"; it waits, because {done.waits}" if done.waits else ""
        shown.line(f"Order {done.number}: step {done.step} is due once more ({done.cause}){waits}.")
    return DONE


async def orders_skip(
    number: Number,
    step: Annotated[str, Parameter(help="The step, as `kvit orders show` names it, such as dispatch.")],
    /,
    *,
    because: Because = "",
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="Leave it out though it may have happened.")
    ] = False,
    cause: Annotated[str | None, Parameter(help="Needed when it is for several, such as payment:17.")] = None,
    channel: Channel = None,
    as_json: AsJson = False,
) -> int:
    """Leave a step of an order out for good: before it begins, or while it is tried, refused or in doubt.

        kvit orders skip CZ1042 message --because "she was told by phone"

    What comes after it goes on; what later steps will miss of it is said. Exit 1 when it may have happened: then
    nothing is changed without --force.
    """
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.skip import skip

        try:
            done = await skip(
                opened,
                number,
                step,
                channel=channel,
                author=user_name(),
                because=because,
                force=force,
                cause=cause,
            )
        except ByHandError as error:
            raise Wrong(str(error)) from None
    stopped = done.unclear is not None and not done.changed
    if as_json:
        shown.as_json(
            {
                "order": done.number,
                "step": done.step,
                "cause": done.cause,
                "changed": done.changed,
                "warnings": list(done.warnings),
                "unclear": done.unclear,
            }
        )
    elif stopped:
        shown.line(f"Order {done.number}: step {done.step} is as it was: {done.unclear}.")
        shown.line("With --force it is left out all the same.")
    else:
        so = f"left out for {done.cause}" if done.changed else "left out already"
        shown.line(f"Order {done.number}: step {done.step} is {so}.")
        for said in done.warnings:
            shown.line(f"  {said}.")
    return ATTENTION if stopped else DONE


async def orders_run(
    number: Number,
    scenario: Annotated[str, Parameter(help="Such as card, bank_transfer or order_placed.")],
    /,
    *,
    plan: Annotated[bool, Parameter(negative="", show_default=False, help="Only show what would be done.")] = False,
    because: Because = "",
    channel: Channel = None,
    as_json: AsJson = False,
) -> int:
    """Carry one order on in a scenario: what is done stays done, what is missing is done.

        kvit orders run CZ1042 card --plan

        kvit orders run CZ1042 card --because "the invoice was never issued"

    The plan goes by the rules and the order as they are now; what an outside system will say is not known before.
    """
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.run_scenario import run_scenario

        try:
            ran = await run_scenario(
                opened, number, scenario, channel=channel, author=user_name(), because=because, plan=plan
            )
        except ByHandError as error:
            raise Wrong(str(error)) from None
    if as_json:
        steps = [
            {"step": line.step, "cause": line.cause, "would": line.would, "why": line.why or None} for line in ran.lines
        ]
        shown.as_json(
            {
                "order": ran.number,
                "scenario": ran.scenario,
                "plan": plan,
                "changed": ran.changed,
                "open": ran.open,
                "waits": ran.waits,
                "steps": steps,
            }
        )
        return DONE
    shown.table(("Step", "For", "Then", "Why"), ((line.step, line.cause, line.would, line.why) for line in ran.lines))
    waits = f", but {ran.waits}" if ran.waits else ""
    then = "nothing was done" if plan else f"it is due now{waits}" if ran.changed else "there is nothing to do"
    shown.line(f"Order {ran.number}: {ran.open} of {len(ran.lines)} steps have not ended; {then}.")
    return DONE
