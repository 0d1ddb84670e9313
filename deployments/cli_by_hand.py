"""`kvit orders hold-out`, `put-back` and `status`: what a person does with an order by hand."""

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
                opened, number, status, channel=channel, author=user_name(), because=because, force=force
            )
        except ByHandError as error:
            raise Wrong(str(error)) from None
    stopped = bool(done.doubts) and not done.changed
    if as_json:
        shown.as_json(
            {
                "order": done.number,
                "before": done.before,
                "after": done.before if stopped or done.by_money else done.after,
                "wanted": done.after,
                "changed": done.changed,
                "against": list(done.doubts),
                "decides_hold": done.by_money,
            }
        )
    elif stopped:
        shown.line(f"Order {done.number} stays {done.before}: {'; '.join(done.doubts)}.")
        shown.line("With --force it is set all the same.")
    elif done.by_money:
        shown.line(f"Order {done.number}: its money on hold is decided about first; then the status follows.")
    else:
        now = f"{done.before} → {done.after}" if done.changed else f"it is {done.after} already"
        shown.line(f"Order {done.number}: {now}.")
    return ATTENTION if stopped else DONE
