"""Plan backfill: what a backfill would do, counted by step, before it does anything; nobody's name or address in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from prefect.artifacts import acreate_table_artifact
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.planned import Totals, steps_of
from domain.rules import ChannelRules, Moment, Way
from domain.scenarios import cause_of, message_step
from store import effects, orders, payments, rules
from store.sql import chunks
from tasks.backfill import Planned
from tasks.catalogue import STEPS as MADE
from tasks.cells import cells
from tasks.installation import Installation
from tasks.step import Begun, unneeded

_AT_ONCE = 500

_Carried = tuple[Planned, int, str, bool]
"""A piece of work, an order that it carries on, the cause, and whether the order's money has all come by it."""


async def plan_totals(opened: Installation, planned: Sequence[Planned], *, notify: bool) -> Totals:
    """Count what would become of each step of chosen work, by the rules and the orders as they are now."""
    totals = Totals()
    async with opened.store.read() as connection:
        versions = {channel: one.rules for channel, one in (await rules.current(connection)).items()}
        for some in chunks(list(planned), _AT_ONCE):
            await _count(connection, totals, some, versions, notify=notify)
    return totals


async def _count(
    connection: AsyncConnection,
    totals: Totals,
    planned: Sequence[Planned],
    versions: dict[str, ChannelRules],
    *,
    notify: bool,
) -> None:
    carried = await _carried(connection, planned)
    found = await orders.load(connection, sorted({order_id for _, order_id, _, _ in carried}))
    begun: list[Begun] = [(order_id, cause) for _, order_id, cause, _ in carried]
    spared = await unneeded(connection, begun)
    known = {
        (one.order_id, one.cause, one.step): one.state.value
        for one in await effects.of_causes(connection, sorted({cause for _, cause in begun}))
    }
    on_its_way = {(order_id, cause) for order_id, cause, _ in known}
    for item, order_id, cause, whole in carried:
        order = found[order_id]
        own = versions[order.channel].for_customer(group=order.customer.group, customer=order.customer.number)
        # What is on its way keeps its messages, as the backfill leaves them.
        quiet = not notify and (item.finished or (order_id, cause) not in on_its_way)
        steps = [
            (step, known.get((order_id, cause, step)))
            for step in (steps_of(item.due.scenario) if whole else _INCOMPLETE)
            if step not in spared[order_id, cause] and step in MADE
        ]
        totals.add(steps, order, own, quiet=quiet)


_INCOMPLETE = [message_step(Moment.INCOMPLETE, by) for by in get_args(Way)]
"""What a payment does for an order of which money is still missing."""


async def _carried(connection: AsyncConnection, planned: Sequence[Planned]) -> list[_Carried]:
    ids = sorted({item.due.subject_id for item in planned if item.due.subject == "payment"})
    rows = await payments.by_ids(connection, ids)
    allocated = await payments.allocated(connection, ids)
    found: list[_Carried] = []
    for item in planned:
        id_ = item.due.subject_id
        if item.due.subject != "payment":
            found.append((item, item.order_id, cause_of(item.due.subject, id_), True))
            continue
        cause = cause_of("payment", id_, rows[id_]["round"])
        parts = [part for part in allocated.get(id_, []) if part["order_id"] is not None]
        found += [(item, part["order_id"], cause, bool(part["completes"])) for part in parts]
    return found


async def show_totals(totals: Totals) -> None:
    """Show the counts as tables in the run: steps, why some would be left out, and the messages by moment."""
    await acreate_table_artifact(
        key="backfill-plan-steps", table=cells(totals.rows()), description="What would become of each step"
    )
    await acreate_table_artifact(
        key="backfill-plan-reasons",
        table=cells({"Step": step, "Why": why, "Orders": n} for (step, why), n in totals.reasons.most_common()),
        description="Why steps would be left out",
    )
    await acreate_table_artifact(
        key="backfill-plan-messages",
        table=cells({"Moment": moment, "By": by, "Messages": n} for (moment, by), n in totals.messages.most_common()),
        description=f"{totals.messages.total()} messages would go to customers",
    )
