"""Status: the order's status after payment, or after it was placed, by the channel's rules."""

from __future__ import annotations

from connectors.errors import Rejected
from domain.orders import Move, Order, Status, transition
from domain.rules import ChannelRules
from store import orders
from tasks.called_off import called_off
from tasks.installation import installation
from tasks.step import Entry, Receipt, Skip, Transaction, step
from tasks.tell import tell_later


def move_to(order: Order, rules: ChannelRules, target: str, reason: str) -> Receipt:
    """Return the receipt whose writing gives an order a status, where its lifecycle allows that."""
    meant = rules.standard(target)

    async def write(transaction: Transaction) -> Receipt | Skip:
        now, standard = await orders.lock_status(transaction.connection, order.id)
        move = transition(standard, meant)
        # A status of the channel's own may stand for the standard one that the order has already.
        if move is Move.ALREADY and (now == target or standard != meant):
            return Skip(f"the order is {now} already")
        if move is Move.FORBIDDEN:
            raise Rejected(f"an order that is {now} can't become {target}; decide by hand what to do with it")
        await orders.set_status(
            transaction.connection,
            order.id,
            after=target,
            standard=meant,
            reason=reason,
            actor=transaction.actor,
            now=transaction.now,
            effect_id=transaction.effect_id,
        )
        return Receipt(
            reference=f"{now} → {target}",
            before={"status": now, "standard": standard.value},
            after={"status": target, "standard": meant.value},
        )

    return Receipt(write=write)


@step("status", local=True)
async def set_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the order's status after payment."""
    scenario = rules.scenarios.of(order.method)
    if not scenario.change_status:
        return Skip(f"the rules of {rules.channel} leave the status to a person")
    made = move_to(order, rules, scenario.status, "the order is paid")

    async def write(transaction: Transaction) -> Receipt | Skip | None:
        if order.reserved_until or order.due_on:
            said = "the order is paid"
            await called_off(transaction.connection, order.id, transaction.actor, because=said, now=transaction.now)
        return await made.write(transaction) if made.write else None

    return Receipt(write=write)


@set_status.undo
async def restore_status(order: Order, entry: Entry, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Put the order back to the status before the payment, unless somebody changed it since."""

    async def write(transaction: Transaction) -> Receipt | Skip:
        now, _ = await orders.lock_status(transaction.connection, order.id)
        if now != entry.after.get("status"):
            return Skip(f"the order was made {now} since")
        history_id = await orders.set_status(
            transaction.connection,
            order.id,
            after=entry.before["status"],
            standard=Status(entry.before["standard"]),
            reason="taken back",
            actor=transaction.actor,
            now=transaction.now,
            effect_id=transaction.effect_id,
        )
        await tell_later(transaction.connection, await installation(), order, history_id)
        return Receipt(reference=f"{now} → {entry.before['status']}", before=entry.after, after=entry.before)

    return Receipt(write=write)


@step("placed status", local=True)
async def set_placed_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the status of an order that was placed, before any money."""
    placed = rules.placed.of(order.method)
    target = placed.status if order.due_on is None else placed.deferred_status
    if target is None:
        return Skip(f"the rules of {rules.channel} leave a placed order's status as it is")
    return move_to(order, rules, target, "the order was placed")


set_placed_status.undo(restore_status)
