"""Repeat: a person has a step of an order done once more; it falls due, with the person's word as its cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from domain.hands import PRINT, Before, no_repeat
from domain.orders import Order
from domain.rules import ChannelRules, DocumentKind
from store import bars, documents, hands, journal, orders, rules, stock, work
from tasks.installation import Installation, installation
from tasks.invoice import print_again
from tasks.named import actor_named, order_named, plain, reason_needed
from tasks.step import Batch, Item, Receipt, Skip, run_log, step

SCENARIO = "by_hand"


@step(PRINT, reports=True)
async def print_once_more(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Print an order's documents in force once more."""
    printed = await print_again(await installation(), order.id)
    return Receipt(reference=", ".join(printed)) if printed else Skip("there is no document to print")


@print_once_more.lookup
async def find_printed(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Say that it may be printed again: the same file comes of it."""
    return None


@dataclass(frozen=True, slots=True)
class Repeated:
    """A step that is done once more: the cause that it has now; changed is False where the same was asked for before.

    waits says why it does not begin at once.
    """

    number: str
    step: str
    cause: str
    changed: bool
    waits: str | None = None


async def repeat(
    opened: Installation,
    number: str,
    step_name: str,
    *,
    channel: str | None,
    author: str,
    because: str,
    gone: bool = False,
) -> Repeated:
    """Make a step of an order due once more; the same person's same words ask for it once.

    gone says that the label of before was cancelled at its carrier. Raises ByHandError.
    """
    said = reason_needed(because)
    actor, step_name = actor_named(opened, author), plain(step_name)
    if gone and step_name != "dispatch":
        raise ByHandError("only a label can be said to be gone; leave that out")
    order_id = await order_named(opened, number, channel)
    async with opened.store.write() as connection:
        now = opened.clock()
        await bars.lock(connection, [order_id])
        order = (await orders.load(connection, [order_id]))[order_id]
        held_out = (await bars.facts(connection, [(order_id, f"order:{order_id}")]))[order_id, f"order:{order_id}"]
        waits = f"the order is held out of automation by {held_out.held_out}" if held_out.held_out else None
        before = await hands.asked(connection, order_id, step_name, author=actor.name, because=said)
        if before is not None:
            return Repeated(order.number, step_name, f"{hands.SUBJECT}:{before}", changed=False, waits=waits)
        last = await hands.last(connection, order_id, step_name)
        of = await _first_cause(connection, last.cause) if last else None
        shipment = await orders.live_shipment(connection, order_id) if gone else None
        stands = await _stands(connection, order, step_name)
        stopped = await _stopped(connection, order, of or f"order:{order_id}")
        if gone and stands is None:
            raise ByHandError(f"order {order.number} has no label that could be gone; leave that out")
        so = Before(last=last.state if last else None, stands=None if gone else stands, stopped=stopped)
        if refused := no_repeat(step_name, order.number, so):
            raise ByHandError(refused)
        if shipment is not None:
            await orders.cancel_shipment(connection, shipment["id"])
        entry = journal.entry(
            actor,
            at=now,
            step=step_name,
            move=hands.ASKED,
            order_id=order_id,
            cause=of,
            reason=said,
            before={"effect": last.id} if last else {},
            after={"gone": shipment["tracking_number"]} if shipment else {},
        )
        id_ = await hands.add(connection, entry)
        await work.add(connection, SCENARIO, hands.SUBJECT, [id_], now=now)
    run_log().info("%s · %s · once more, by hand", order.number, step_name)
    return Repeated(order.number, step_name, f"{hands.SUBJECT}:{id_}", changed=True, waits=waits)


async def _first_cause(connection: AsyncConnection, cause: str) -> str:
    """Return what a step was done for at first, however often it was repeated since."""
    return (await hands.meant(connection, [cause])).get(cause, cause)


async def _stands(connection: AsyncConnection, order: Order, step_name: str) -> str | None:
    """Return what an order has of a step that there is one of at a time, or its documents for printing."""
    if step_name == "dispatch":
        live = await orders.live_shipment(connection, order.id)
        return f"consignment {live['tracking_number']}" if live else None
    if step_name == "stock":
        goods = any(line.sku for line in order.lines)
        return "what was deducted" if goods and await stock.is_deducted(connection, order) else None
    kinds = {
        "invoice": (DocumentKind.INVOICE,),
        "proforma": (DocumentKind.PROFORMA,),
        PRINT: (DocumentKind.INVOICE, DocumentKind.PROFORMA),
    }.get(step_name, ())
    if step_name == "invoice":
        own = (await rules.current(connection))[order.channel].rules.for_customer(
            group=order.customer.group, customer=order.customer.number
        )
        kinds = (*kinds, own.scenario_of(order).invoice.kind)
    for kind in kinds:
        if (document := await documents.live(connection, order.id, kind)) is not None:
            return f"{kind.value} {document['number']}"
    return None


async def _stopped(connection: AsyncConnection, order: Order, cause: str) -> str | None:
    """Return why nothing begins for an order any more for what a step is repeated of."""
    facts = (await bars.facts(connection, [(order.id, cause)]))[order.id, cause]
    if facts.reverting:
        return "it is being taken back to before its payment"
    if facts.taken_off:
        return "the payment that it was done for was taken off it"
    if facts.back:
        return f"its money went back ({facts.back})"
    return f"it is {order.status}" if facts.closed else None


@task(name="repeat", cache_policy=NO_CACHE)
async def repeat_named(
    number: str, step_name: str, *, channel: str | None, author: str, because: str, gone: bool
) -> Repeated:
    """Do that for the form. Raises ByHandError."""
    return await repeat(
        await installation(), number, step_name, channel=channel, author=author, because=because, gone=gone
    )


@task(name="take repeats", cache_policy=NO_CACHE)
async def repeated(ids: Sequence[int]) -> dict[str, Batch]:
    """Return by step the orders for which a person has it repeated."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = await hands.load(connection, ids)
    by_step: dict[str, list[Item]] = {}
    for id_ in ids:
        if (one := found.get(id_)) is None:
            run_log().info("repetition %s · left alone: it is not in the store", id_)
        else:
            by_step.setdefault(one.step, []).append(Item(one.order_id, one.number, f"{hands.SUBJECT}:{id_}"))
    return {step_name: Batch(tuple(items)) for step_name, items in by_step.items()}
