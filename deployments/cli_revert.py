"""`kvit revert`: an order back to before its payment; `kvit payments match`: its payment matched again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from deployments import shown
from deployments.command import (
    ATTENTION,
    DONE,
    AsJson,
    OfChannel,
    Verbose,
    Wrong,
    opened_home,
    prefect_answers,
    user_name,
    working,
)
from deployments.prefect_server import login_of, point_at_prefect
from domain.payments import Kind, Method
from domain.scenarios import scenario_of

if TYPE_CHECKING:
    from prefect import State

    from store.reverts import OrderPlan


def _plan_of(one: OrderPlan) -> shown.Json:
    return {
        "order": one.number,
        "channel": one.channel,
        "status": one.status,
        "payments": list(one.payments),
        "refused": one.refused,
        "effects": [
            {"step": line.step, "reference": line.reference, "way": line.way.value, "said": line.said}
            for line in one.lines
        ],
    }


def _print_plan(plans: list[OrderPlan]) -> None:
    if len(plans) > 1:
        shown.line(f"{len(plans)} orders: {', '.join(one.number for one in plans)}")
    shown.table(
        ("Order", "Step", "How", "What"),
        ((one.number, line.step, line.way.value, line.said) for one in plans for line in one.lines),
    )
    for one in plans:
        if one.refused:
            shown.line(f"Order {one.number}: {one.refused}.")


async def revert(
    numbers: Annotated[list[str], Parameter(help="Order numbers.")],
    /,
    *,
    plan: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only show what would be taken back.")
    ] = False,
    because: Annotated[str, Parameter(help="Why; it stands in the order's history.")] = "",
    force: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Although messages were sent, or a parcel has left."),
    ] = False,
    with_others: Annotated[
        bool, Parameter(negative="", show_default=False, help="Also the orders that the same payment settled.")
    ] = False,
    channel: OfChannel = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Take orders back to before their payment: what was done is undone, newest first, and the payment set free.

        kvit revert CZ1042 --plan
        kvit revert CZ1042 --because "paid for another order" --force

    Exit 1 when something needs a person, or goes on later by itself.
    """
    async with opened_home() as opened:
        from tasks.revert import RevertError, plan_named

        try:
            plans = await plan_named(numbers, channel)
            if plan:
                if as_json:
                    shown.as_json({"plan": [_plan_of(one) for one in plans]})
                else:
                    _print_plan(plans)
                return DONE
            point_at_prefect(opened.home, login=login_of(opened.settings), verbose=verbose)
            with working("taking back …"):
                from flows.revert import take_back
                from tasks.revert import begin_named

                await prefect_answers()
                begun = await begin_named(
                    numbers, channel, author=user_name(), because=because, force=force, with_others=with_others
                )
                state = cast("State[Any]", await cast("Any", take_back)(begun, return_state=True))
        except RevertError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"plan": [_plan_of(one) for one in plans], "state": state.name, "said": state.message})
    else:
        _print_plan(plans)
        shown.line(f"{state.name}: {state.message}")
    return DONE if state.name == "Done" else ATTENTION


async def payments_match(
    ids: Annotated[list[int], Parameter(help="Numbers of payments, as `kvit payments list` shows them.")],
    /,
    *,
    as_json: AsJson = False,
) -> int:
    """Let payments be matched again that settle nothing, such as one that was taken off its order.

        kvit payments match 17

    They are due at once: a running `kvit up` carries them on, or `kvit process`.
    """
    from store import balances, decisions, payments, work

    async with opened_home() as opened, opened.store.write() as connection:
        settling = await payments.allocated(connection, ids)
        decided = await decisions.settled(connection, ids) | (await balances.of_payments(connection, ids)).keys()
        for id_ in ids:
            rows = await payments.listing(connection, payment_id=id_)
            if not rows:
                raise Wrong(f"payment {id_} is not known")
            if parts := settling.get(id_):
                numbers = ", ".join(str(part["number"]) for part in parts)
                raise Wrong(f"payment {id_} settles {numbers}; take it off first with `kvit revert {numbers}`")
            if id_ in decided:
                said = rows[0]["reason"]
                raise Wrong(f"payment {id_} was decided ({said}); `kvit resolve {id_} --again` takes that back")
            scenario = scenario_of(Method(rows[0]["method"]), Kind(rows[0]["kind"]))
            await work.add(connection, scenario, "payment", [id_], now=opened.clock())
    if as_json:
        shown.as_json({"due": ids})
    else:
        shown.line(f"{len(ids)} due, to be matched again.")
    return DONE
