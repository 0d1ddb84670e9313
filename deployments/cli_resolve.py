"""`kvit resolve`: a person says what becomes of a payment, or what came of a step, where Kvit can't know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import DONE, AsJson, OfChannel, Wrong, opened_home, user_name

if TYPE_CHECKING:
    from tasks.decide import Decided

resolve_app = App(name="resolve", help="Resolve: say by hand what becomes of a payment, or what came of a step.")


def _flag(text: str) -> Parameter:
    return Parameter(negative="", show_default=False, help=text)


@resolve_app.default
async def resolve_payment(
    payment: Annotated[int, Parameter(name="PAYMENT", help="The payment's number, as `kvit payments list` shows it.")],
    /,
    *,
    to: Annotated[
        list[str] | None,
        Parameter(
            negative="", help="The order that it is for, such as CZ1042 or CZ1042=450.00; can be given several times."
        ),
    ] = None,
    balance: Annotated[bool, _flag("Keep it on the customer's balance.")] = False,
    customer: Annotated[
        str | None, Parameter(help="With --balance: the customer's number, where the orders that it names don't tell.")
    ] = None,
    refund: Annotated[bool, _flag("It is to be sent back; it stays listed until it has gone.")] = False,
    ignore: Annotated[bool, _flag("Nothing is done with it, and nobody is asked about it any more.")] = False,
    again: Annotated[bool, _flag("Take back what was said of it: the rules decide anew.")] = False,
    because: Annotated[str, Parameter(help="Why; it stands in the history of the payment and its orders.")] = "",
    channel: Annotated[str | None, Parameter(help="Needed when a number is used in several sales channels.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say by hand what becomes of a payment that the rules left to a person; what is paid by it goes on.

        kvit resolve 17 --to CZ1042 --because "the customer sent a screenshot"
        kvit resolve 17 --to CZ1042=450.00 --to CZ1043 --because "one transfer for both"
        kvit resolve 17 --balance --because "she will order again"

    Without an amount a single order takes the payment as its channel's rules let it; of several each takes what is open
    of it, and the last one the rest. Of a payment that settles orders already, what was paid too much is decided about.
    What is said can be said anew; what is given to an order is taken back with `kvit revert`.
    """
    async with opened_home() as opened:
        from domain.by_hand import ByHandError
        from tasks.decide import Decision, decide

        given = (
            (Decision.TO, bool(to)),
            (Decision.BALANCE, balance),
            (Decision.REFUND, refund),
            (Decision.IGNORE, ignore),
            (Decision.AGAIN, again),
        )
        said = [one for one, told in given if told]
        if len(said) != 1:
            raise Wrong("say one of --to, --balance, --refund, --ignore and --again")
        if customer and not balance:
            raise Wrong("--customer goes with --balance alone")
        try:
            decided = await decide(
                opened,
                payment,
                said[0],
                to=to or (),
                customer=customer,
                channel=channel,
                author=user_name(),
                because=because,
            )
        except ByHandError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json(_told(decided))
    else:
        goes_on = "; it is due and goes on" if decided.changed and said[0] in (Decision.TO, Decision.AGAIN) else ""
        so = "" if decided.changed else "it was so already: "
        shown.line(f"Payment {payment}: {so}{decided.reason}{goes_on}.")
    return DONE


def _told(decided: Decided) -> shown.Json:
    return {
        "payment": decided.payment_id,
        "decision": decided.decision.value,
        "changed": decided.changed,
        "outcome": decided.outcome.value if decided.outcome else None,
        "policy": decided.policy.value if decided.policy else None,
        "allocations": [
            {"order": number, "amount": amount.amount, "currency": amount.currency, "completes": completes}
            for number, amount, completes in decided.allocations
        ],
        "surplus": decided.surplus.amount,
        "currency": decided.surplus.currency,
        "customer": decided.customer,
        "reason": decided.reason,
    }


@resolve_app.command(name="step")
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


@resolve_app.command(name="message")
async def resolve_message(
    message: Annotated[int, Parameter(help="Its number, as `kvit payments list --unmatched` shows it.")],
    /,
    *,
    again: Annotated[bool, _flag("Ask the outside system about it again.")] = False,
    done: Annotated[bool, _flag("It is done with; nobody is asked about it any more.")] = False,
    because: Annotated[str, Parameter(help="Why; it stands in the journal.")] = "",
    as_json: AsJson = False,
) -> int:
    """Settle what an outside system told and was left to a person, such as a status that could not be followed.

    kvit resolve message 12 --done --because "the order was cancelled by phone"
    """
    async with opened_home() as opened:
        from tasks.resolve_message import MessageError, settle

        if again == done:
            raise Wrong("say one of --again and --done")
        try:
            said = await settle(opened, message, again=again, author=user_name(), because=because)
        except MessageError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"message": message, "again": again})
    else:
        shown.line(said[0].upper() + said[1:] + ".")
    return DONE
