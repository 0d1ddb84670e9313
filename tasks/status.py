"""Status: the order's status after payment, or after it was placed, by the channel's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectors.errors import Rejected
from domain.orders import Move, Order, Status, transition
from domain.rules import ChannelRules
from store import orders
from tasks.called_off import called_off
from tasks.installation import installation
from tasks.step import Entry, Receipt, Skip, Transaction, step
from tasks.tell import tell_later


@dataclass(frozen=True, slots=True)
class _Change:
    """The status that an order is to get, what it stands for, and why; freed: nothing waits for it any more."""

    order_id: int
    target: str
    meant: Status
    reason: str
    freed: bool = False


async def _write_all(wanted: Sequence[tuple[Transaction, _Change]]) -> list[Receipt | Skip | Rejected]:
    """Give orders their statuses, where their lifecycle allows that."""
    connection = wanted[0][0].connection
    locked = await orders.lock_statuses(connection, [change.order_id for _, change in wanted])
    results: list[Receipt | Skip | Rejected] = []
    rows: list[orders.NewStatus] = []
    for transaction, change in wanted:
        if change.freed:
            because = change.reason
            await called_off(connection, change.order_id, transaction.actor, because=because, now=transaction.now)
        now, standard = locked[change.order_id]
        move = transition(standard, change.meant)
        # A status of the channel's own may stand for the standard one that the order has already.
        if move is Move.ALREADY and (now == change.target or standard != change.meant):
            results.append(Skip(f"the order is {now} already"))
        elif move is Move.FORBIDDEN:
            said = f"an order that is {now} can't become {change.target}; decide by hand what to do with it"
            results.append(Rejected(said))
        else:
            rows.append(
                orders.NewStatus(
                    change.order_id, now, change.target, change.meant, change.reason, transaction.effect_id
                )
            )
            results.append(
                Receipt(
                    reference=f"{now} → {change.target}",
                    before={"status": now, "standard": standard.value},
                    after={"status": change.target, "standard": change.meant.value},
                )
            )
            locked[change.order_id] = change.target, change.meant  # an order can be there for two causes
    await orders.set_statuses(connection, rows, actor=wanted[0][0].actor, now=wanted[0][0].now)
    return results


def move_to(order: Order, rules: ChannelRules, target: str, reason: str, *, freed: bool = False) -> Receipt:
    """Return the receipt whose writing gives an order a status, where its lifecycle allows that."""
    change = _Change(order.id, target, rules.standard(target), reason, freed)
    return Receipt(write_all=_write_all, subject=change)


@step("status", local=True)
async def set_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the order's status after payment."""
    scenario = rules.scenario_of(order)
    if not scenario.change_status:
        return Skip(f"the rules of {rules.channel} leave the status to a person")
    freed = order.reserved_until is not None or order.due_on is not None
    return move_to(order, rules, scenario.status, "the order is paid", freed=freed)


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
