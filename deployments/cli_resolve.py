"""`kvit resolve step`: a person says what came of a step that is in doubt or was refused."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deployments import shown
from deployments.command import DONE, AsJson, OfChannel, Wrong, opened_home, user_name


def _flag(text: str) -> Parameter:
    return Parameter(negative="", show_default=False, help=text)


async def resolve_step(
    number: Annotated[str, Parameter(help="The order's number.")],
    step: Annotated[str, Parameter(help="The step, as `kvit orders show` names it, such as dispatch.")],
    /,
    *,
    happened: Annotated[bool, _flag("It happened.")] = False,
    again: Annotated[bool, _flag("It did not happen: let it be tried again.")] = False,
    skip: Annotated[bool, _flag("Leave it undone for good.")] = False,
    reference: Annotated[str, Parameter(help="With --happened: what the outside system calls it.")] = "",
    because: Annotated[str, Parameter(help="How you know; it stands in the order's history.")] = "",
    cause: Annotated[str | None, Parameter(help="Needed when the step waits for several, such as payment:17.")] = None,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Settle a step that is in doubt, was refused or goes on being tried; the order is due at once and goes on.

        kvit resolve step CZ1042 dispatch --happened --reference RR123456785CZ --because "the carrier's portal has it"
        kvit resolve step CZ1042 message --skip --because "the customer was told by phone"

    Look before you say --again of what is in doubt: it is then done without asking anybody.
    """
    async with opened_home() as opened:
        from tasks.resolve import ResolveError, Said, resolve_step
        from tasks.revert import RevertError, orders_named

        said = [one for one, given in ((Said.HAPPENED, happened), (Said.AGAIN, again), (Said.SKIP, skip)) if given]
        if len(said) != 1:
            raise Wrong("say one of --happened, --again and --skip")
        if reference and not happened:
            raise Wrong("--reference goes with --happened alone")
        try:
            (order_id,) = await orders_named(opened, [number], channel)
            settled = await resolve_step(
                opened, order_id, step, said[0], author=user_name(), because=because, reference=reference, cause=cause
            )
        except (ResolveError, RevertError) as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json(
            {
                "order": settled.number,
                "step": settled.step,
                "cause": settled.cause,
                "state": settled.state.value,
                "reference": settled.reference,
            }
        )
    else:
        words = {"done": "is done", "intended": "is tried again", "skipped": "is left undone"}[settled.state]
        named = f" ({settled.reference})" if settled.reference and happened else ""
        shown.line(f"Step {settled.step} of order {settled.number} {words}{named}; the order is due and goes on.")
    return DONE
