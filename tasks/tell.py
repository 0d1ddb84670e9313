"""Tell: the shop and the CRM are told how an order stands now, and the CRM each payment of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.roles import Crm, Income, Shop
from domain.orders import Order
from domain.rules import ChannelRules
from domain.scenarios import cause_of
from store import effects, orders, payments, rules, work
from tasks.installation import Installation, installation
from tasks.step import Batch, Item, Receipt, Skip, prepared, run_log, step

_TRACKING = {
    "cs": "Číslo zásilky: {}",
    "ro": "Numărul expediției: {}",
    "uk": "Номер відправлення: {}",
    "ru": "Номер отправления: {}",
    "en": "Tracking number: {}",
}


def _has_shop(rules: ChannelRules) -> bool:
    return bool(rules.connectors.shop)


def _has_crm(rules: ChannelRules) -> bool:
    return bool(rules.connectors.crm)


def _notes_dispatch(rules: ChannelRules) -> bool:
    return _has_shop(rules) and any(part.dispatch.note for part in rules.possible_scenarios())


@dataclass(frozen=True, slots=True)
class _Standing:
    """An order as it was read, and the payments that its card did not have then, as `payments.incomes` gives them."""

    order: Order
    untold: list[dict[str, Any]]


_FRESH_S = 1.0
"""For how long what was read for a whole batch is told; where one request a second is let, a batch takes minutes."""


async def _read(opened: Installation, ids: Sequence[int]) -> dict[int, _Standing]:
    async with opened.store.read() as connection:
        found = await orders.load(connection, ids)
        came = await payments.incomes_of_all(connection, ids)
        told = await effects.done_after_all(connection, ids, "crm")
    known = {id_: {one for after in some for one in after.get("incomes", [])} for id_, some in told.items()}
    untold = {id_: [income for income in came[id_] if income["reference"] not in known[id_]] for id_ in ids}
    return {id_: _Standing(found[id_], untold[id_]) for id_ in ids}


class Standings:
    """How a batch's orders stand now, read for all of them at once, and anew for those to come when that is stale."""

    def __init__(self, opened: Installation, ids: Iterable[int], *, fresh_s: float = _FRESH_S) -> None:
        """fresh_s says for how many seconds what was read is told."""
        self._opened = opened
        self._fresh_s = fresh_s
        self._coming = set(ids)
        self._known: dict[int, _Standing] = {}
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Read how all that are to come stand."""
        self._read_at = time.monotonic()
        self._known = await _read(self._opened, sorted(self._coming))

    async def of(self, order_id: int) -> _Standing:
        """Return how one stands; it may have moved on since its step was claimed."""
        async with self._reading:
            self._coming.add(order_id)
            if order_id not in self._known or time.monotonic() - self._read_at > self._fresh_s:
                await self.read()
            self._coming.discard(order_id)
            return self._known[order_id]


async def _standing_of_all(opened: Installation, orders_: Sequence[Order]) -> dict[int, Standings]:
    standings = Standings(opened, [order.id for order in orders_])
    await standings.read()
    return {order.id: standings for order in orders_}


async def _as_it_stands(opened: Installation, order: Order) -> _Standing:
    standings: Standings | None = prepared(order)
    return await (standings or Standings(opened, [])).of(order.id)


@step("shop", system=lambda rules: rules.connectors.shop, one_per_order=True, reports=True, when=_has_shop)
async def tell_shop(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Bring the shop's order to the status that the order has here."""
    name = rules.connectors.shop
    opened = await installation()
    order = (await _as_it_stands(opened, order)).order
    status = rules.tells.get(name, {}).get(order.status)
    if status is None:
        return Skip(f"the rules of {rules.channel} tell {name} nothing of an order that is {order.status}")
    reference = await opened.connector(name, Shop).set_status(order, status, key)
    return Receipt(reference=f"{reference} → {status}", after={"status": status})


tell_shop.prepare(_standing_of_all)


@tell_shop.lookup
async def find_told_shop(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Say that the shop may be told again: the same status a second time changes nothing."""
    return None


@step("shop note", system=lambda rules: rules.connectors.shop, when=_notes_dispatch)
async def note_dispatch(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Put the tracking number into a note that the shop sends to the customer."""
    opened = await installation()
    text = await _tracking(opened, order, rules)
    if text is None:
        return Skip("nothing was dispatched")
    # An order on credit is dispatched once, and paid later: that is no news of its parcel.
    async with opened.store.read() as connection:
        again = await effects.is_repeat(connection, order.id, key)
        noted = [] if again else await effects.done_after(connection, order.id, "shop note")
    if any(after.get("note") == text for after in noted):
        return Skip("it was noted before")
    shop = opened.connector(rules.connectors.shop, Shop)
    return Receipt(reference=await shop.add_note(order, text, key, to_customer=True), after={"note": text})


@note_dispatch.unless
def without_note(order: Order, rules: ChannelRules) -> Skip | None:
    """Say that the rules have no note in the order's scenario."""
    if rules.scenario_of(order).dispatch.note:
        return None
    return Skip(f"the rules of {rules.channel} leave no note in the shop")


@note_dispatch.lookup
async def find_note(order: Order, rules: ChannelRules, key: str) -> Receipt | None:
    """Look whether the note is there."""
    opened = await installation()
    text = await _tracking(opened, order, rules)
    if text is None:
        return None
    found = await opened.connector(rules.connectors.shop, Shop).find_note(order, text, key)
    return Receipt(reference=found, after={"note": text}) if found else None


async def _tracking(opened: Installation, order: Order, rules: ChannelRules) -> str | None:
    async with opened.store.read() as connection:
        shipment = await orders.live_shipment(connection, order.id)
    language = order.customer.language or rules.language
    return _TRACKING[language].format(shipment["tracking_number"]) if shipment else None


@step("crm", system=lambda rules: rules.connectors.crm, one_per_order=True, reports=True, when=_has_crm)
async def tell_crm(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Bring the order's card up to date: status, to pay, paid, difference, and each payment that it hasn't yet."""
    name = rules.connectors.crm
    opened = await installation()
    crm = opened.connector(name, Crm)
    standing = await _as_it_stands(opened, order)
    order = standing.order
    status = rules.tells.get(name, {}).get(order.status)
    # The status first: somebody waits for it, and to note an income takes several requests where one a second is let.
    reference = await crm.tell(order, status, key)
    incomes = [Income(**income) for income in standing.untold]
    for income in incomes:
        await crm.add_income(order, income, f"{key[:40]}-{income.reference.replace(':', '-')[:20]}")
    after = {
        "status": status,
        "paid": str(order.paid),
        "to_pay": str(order.to_pay),
        "incomes": [income.reference for income in incomes],
    }
    return Receipt(reference=reference, after=after)


tell_crm.prepare(_standing_of_all)


@tell_crm.lookup
async def find_told_crm(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Say that the CRM may be told again: it looks first whether it has an income, and all else is told as it is."""
    return None


async def tell_later(connection: AsyncConnection, opened: Installation, order: Order, history_id: int) -> None:
    """Make it due that the other systems are told of a status which no payment brought about."""
    versions = await rules.current(connection)
    own = versions[order.channel].rules.for_customer(group=order.customer.group, customer=order.customer.number)
    if _has_shop(own) or _has_crm(own) or own.holds.second_receipt != "never":
        await work.add(connection, "status_changed", "status", [history_id], now=opened.clock())


@task(name="take changes", cache_policy=NO_CACHE)
async def changed_orders(ids: Sequence[int]) -> Batch:
    """Take the orders whose status changed; ids are rows of the history of statuses.

    A status may have to be told more than once: again in a round of its own, whenever somebody set a card back.
    """
    opened = await installation()
    async with opened.store.read() as connection:
        found = await orders.of_history(connection, ids)
        rounds = await effects.rounds(connection, "status", [order_id for order_id, _ in found.values()])
    log = run_log()
    items: list[Item] = []
    for id_ in ids:
        if (known := found.get(id_)) is None:
            log.info("change %s · left alone: it is not in the store", id_)
        else:
            last, ended = rounds.get(id_, (0, True))
            items.append(Item(*known, cause_of("status", id_, last + 1 if ended else last)))
    return Batch(tuple(items))
