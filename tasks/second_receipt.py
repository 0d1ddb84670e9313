"""Second receipt: goods that were paid before are handed over, and the gateway has the receipt of that registered."""

from __future__ import annotations

from connectors.errors import Rejected
from connectors.roles import SecondReceipts
from domain.fiscal import Registered
from domain.orders import Order
from domain.rules import ChannelRules
from store import effects, orders, payments
from tasks.installation import Installation, installation
from tasks.step import Receipt, Skip, step


def _wanted(rules: ChannelRules) -> bool:
    return rules.holds.second_receipt != "never"


async def _through(opened: Installation, order: Order) -> list[tuple[SecondReceipts, str]]:
    """Return an order's payments that came through such gateways. Raises Rejected for one of several orders."""
    gateways = {one.transaction_source: one for one in opened.playing(SecondReceipts).values()}
    async with opened.store.read() as connection:
        found = await payments.gateways_of(connection, order.id)
    for source, reference, alone in found:
        if source in gateways and not alone:
            raise Rejected(
                f"payment {reference[:80]} settles other orders too, so no one can say which of its lines are handed "
                "over now; have its second receipt registered at the gateway"
            )
    return [(gateways[source], reference) for source, reference, _ in found if source in gateways]


def _made(registered: dict[str, Registered]) -> Receipt:
    return Receipt(
        reference=", ".join(one.reference for one in registered.values())[:200],
        after={
            "receipts": {
                payment: {"receipt": one.reference, "amount": str(one.amount)} for payment, one in registered.items()
            }
        },
    )


@step("second receipt", one_per_order=True, reports=True, when=_wanted)
async def send_second_receipt(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Have the second fiscal receipt registered once the goods are handed over, over what was not refunded."""
    opened = await installation()
    async with opened.store.read() as connection:
        order = (await orders.load(connection, [order.id]))[order.id]
        done = await effects.done_after(connection, order.id, "second receipt")
    if not rules.holds.handed_over(rules.standard(order.status)):
        return Skip(
            f"the order is {order.status}, and its goods count as handed over once {rules.holds.second_receipt}"
        )
    before = {payment for after in done for payment in after.get("receipts", {})}
    through = await _through(opened, order)
    if not through:
        return Skip("nothing of it was paid through a gateway that registers such receipts")
    left = [(gateway, reference) for gateway, reference in through if reference not in before]
    if not left:
        return Skip("it was registered before")
    registered: dict[str, Registered] = {}
    for gateway, reference in left:
        own_key = key if len(through) == 1 else f"{key[:40]}-{reference[:18]}"
        made = await gateway.hand_over(reference, own_key, email=order.customer.email, phone=order.customer.phone)
        if made is not None:
            registered[reference] = made
    return _made(registered) if registered else Skip("all that was paid was refunded")


@send_second_receipt.lookup
async def find_second_receipt(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Ask the gateway for each payment; where one has no such receipt, the step asks again for that one alone."""
    opened = await installation()
    found = {reference: await gateway.handed_over(reference) for gateway, reference in await _through(opened, order)}
    registered = {reference: one for reference, one in found.items() if one is not None}
    return _made(registered) if registered and len(registered) == len(found) else None


@send_second_receipt.told
async def told_second_receipt(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down that a person had it registered elsewhere, for every payment of the order."""
    if not reference:
        raise Rejected("give the receipt's number with --reference")
    through = await _through(await installation(), order)
    return Receipt(reference=reference, after={"receipts": {payment: {"receipt": reference} for _, payment in through}})
