"""Run a scenario: a person has an order carried on in one; what is done is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from domain.orders import Order
from domain.planned import ENDED, planned_step, steps_of
from domain.rules import ChannelRules
from domain.scenarios import STEPS, beginning_of, cause_of
from domain.wording import listed
from store import effects, hands, held_out, journal, orders, rules, work
from tasks.catalogue import STEPS as MADE
from tasks.cells import cells
from tasks.installation import Installation, installation
from tasks.named import actor_named, order_named, plain, reason_given, reason_needed
from tasks.step import run_log, unneeded

_INSTEAD = {
    "by_hand": "a step is repeated with `kvit orders repeat {number} STEP`",
    "capture": "held money is taken with `kvit hold capture {number}`",
    "release": "held money is let go with `kvit hold release {number}`",
    "authorization": "held money shows itself; `kvit hold show` lists it",
    "expire": "an order is ended with `kvit orders status {number} cancelled`",
    "status_changed": "other systems are told once more with `kvit orders repeat {number} shop`",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """What would become of one step of an order, why, and for what it is done."""

    step: str
    cause: str
    would: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """A scenario that is due for an order; changed is False for a plan, and where every step had ended.

    waits says why it does not begin at once.
    """

    number: str
    scenario: str
    lines: tuple[Planned, ...]
    changed: bool
    waits: str | None = None

    @property
    def open(self) -> int:
        """How many steps have not ended."""
        return sum(line.would not in ENDED for line in self.lines)


async def run_scenario(
    opened: Installation,
    number: str,
    scenario: str,
    *,
    channel: str | None,
    author: str,
    because: str,
    plan: bool = False,
) -> Ran:
    """Make an order due in a scenario, by itself or by its payments; with plan only say what would be done.

    Raises ByHandError.
    """
    said, actor = reason_given(because) if plan else reason_needed(because), actor_named(opened, author)
    scenario = plain(scenario).replace(" ", "_").casefold()
    order_id = await order_named(opened, number, channel)
    async with opened.store.write() as connection:
        now = opened.clock()
        order = (await orders.load(connection, [order_id]))[order_id]
        own = (await rules.current(connection))[order.channel].rules.for_customer(
            group=order.customer.group, customer=order.customer.number
        )
        ways = await _ways(connection, order, scenario)
        lines = await _lines(connection, order, own, scenario, ways)
        by = await held_out.by(connection, order_id)
        ran = Ran(
            order.number, scenario, lines, changed=False, waits=f"it is held out of automation by {by}" if by else None
        )
        if plan or not ran.open:
            return ran
        entry = journal.entry(
            actor,
            at=now,
            step="run",
            move="due",
            order_id=order_id,
            reference=scenario.replace("_", " "),
            reason=said,
            after={"causes": [cause for _, _, cause in ways]},
        )
        await journal.append(connection, [entry])
        for subject, id_, _ in ways:
            await work.add(connection, scenario, subject, [id_], now=now)
    run_log().info("%s · %s is due, by hand", order.number, scenario)
    return Ran(ran.number, scenario, lines, changed=True, waits=ran.waits)


async def _ways(connection: AsyncConnection, order: Order, scenario: str) -> list[tuple[str, int, str]]:
    """Return what is due when an order is carried on in a scenario: (subject, id, cause). Raises ByHandError."""
    if instead := _INSTEAD.get(scenario):
        raise ByHandError(f"scenario {scenario} is not run by hand: {instead.format(number=order.number)}")
    known = await hands.ways(connection, order.id)
    found = [(subject, id_, cause) for of, subject, id_, cause in known if of == scenario]
    if not found and scenario == _first(order):
        found = [("order", order.id, cause_of("order", order.id))]
    if found:
        return found
    there = dict.fromkeys([_first(order), *(one[0] for one in known)])
    mine = listed([of.replace("_", " ") for of in there if of not in _INSTEAD])
    what = "carries" if scenario in STEPS else "is known, so none carries"
    raise ByHandError(f"no scenario {scenario.replace('_', ' '):.60} {what} order {order.number} on; there is {mine}")


def _first(order: Order) -> str:
    """Return the scenario with which an order begins."""
    return beginning_of(order.method, on_credit=order.due_on is not None)


async def _lines(
    connection: AsyncConnection,
    order: Order,
    own: ChannelRules,
    scenario: str,
    ways: Sequence[tuple[str, int, str]],
) -> tuple[Planned, ...]:
    known = {(row["step"], row["cause"]): row for row in await effects.of_order(connection, order.id)}
    spared = await unneeded(connection, [(order.id, cause) for *_, cause in ways])
    lines: list[Planned] = []
    for subject, id_, cause in ways:
        quiet = id_ in await work.quiet_ones(connection, subject, [id_])
        for step in steps_of(scenario):
            if step in spared[order.id, cause] or step not in MADE:
                continue
            row = known.get((step, cause))
            would, why = planned_step(step, row["state"] if row else None, order, own, quiet=quiet)
            told = (row["reason"] or row["reference"] or "") if row else why
            lines.append(Planned(step, cause, would, told))
    return tuple(lines)


@task(name="run scenario", cache_policy=NO_CACHE)
async def run_named(number: str, scenario: str, *, channel: str | None, author: str, because: str, plan: bool) -> Ran:
    """Do that for the form, and show each step in a table. Raises ByHandError."""
    ran = await run_scenario(
        await installation(), number, scenario, channel=channel, author=author, because=because, plan=plan
    )
    table: list[dict[str, Any]] = [
        {"Step": line.step, "For": line.cause, "Then": line.would, "Why": line.why} for line in ran.lines
    ]
    await acreate_table_artifact(key="steps", table=cells(table), description=f"{ran.number}: {scenario}, step by step")
    return ran
