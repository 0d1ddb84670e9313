"""Close: what a run says when it ends — in its name, its state, its table, and in what is due again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from prefect import State, get_client
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Completed
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import HoldState
from domain.money import Money
from domain.payments import Outcome
from domain.rules import Policy
from domain.scenarios import DECIDED, STEPS, TIMED, cause_of, cause_of_decision
from store import bars, effects, holds, orders, payments, work
from store.effects import EffectState, Standing
from tasks.cells import TABLE_ROWS, cells
from tasks.ends import needs_person
from tasks.installation import Installation, installation
from tasks.invoice import print_documents
from tasks.log_entries import FOR_A_PERSON
from tasks.pace import LEASE, PATIENCE
from tasks.step import MISCONFIGURED, run_log, unneeded

Subject = Literal["payment", "order", "hold", "status", "hand"]
_PLURALS: dict[Subject, str] = {
    "payment": "payments",
    "order": "orders",
    "hold": "holds",
    "status": "statuses",
    "hand": "repeats",
}
_NUMBER_SHOWN = 40
_TODO_SHOWN = 20
_SOON = timedelta(seconds=15)


def run_name() -> str:
    """Name a scenario's run by what it carries on: `card · payment 17`, `card · 240 payments`."""
    parameters: dict[str, Any] = flow_run.parameters or {}
    plurals = {**_PLURALS, "revert": "reverts", "entry": "entries"}
    subject = next((kind for kind, name in plurals.items() if name in parameters), "payment")
    ids: list[int] = parameters.get(plurals[subject]) or []
    label = str(flow_run.flow_name).replace(" payment", "")
    return f"{label} · {subject} {ids[0]}" if len(ids) == 1 else f"{label} · {len(ids)} {plurals[subject]}"


def name_by_orders() -> str:
    """Name an operator's run by the orders that its form names: `revert · CZ1042`, `revert · 3 orders`."""
    parameters: dict[str, Any] = flow_run.parameters or {}
    numbers: list[str] = parameters.get("orders") or [parameters.get("order") or "no order"]
    which = numbers[0][:_NUMBER_SHOWN] if len(numbers) == 1 else f"{len(numbers)} orders"
    return f"{flow_run.flow_name} · {which}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one payment or order ended in a run.

    person says what somebody must look at, about is that in a word or two, and todo how to settle it, where that takes
    a person's word. due_at is when it goes on, and waits says what that is for.
    """

    id: int
    person: str | None = None
    about: str | None = None
    todo: str | None = None
    waits: str | None = None
    due_at: datetime | None = None
    outcome: Outcome | None = None


def _ended(
    subject: Subject,
    subject_id: int,
    standings: Sequence[Standing],
    outcome: Outcome | None,
    policy: Policy | None,
    reason: str,
    *,
    surplus: Money | None,
    cut_short: bool,
    now: datetime,
) -> Ended:
    parked = [s for s in standings if s.state is EffectState.REJECTED]
    unclear = [s for s in standings if s.state in effects.OPEN and _is_stuck(s, now)]
    going = [(at, s) for s in standings if s.state in effects.OPEN and (at := s.due_at or s.lease_until)]
    due_at, first = min(going, key=lambda one: one[0], default=(None, None))
    if due_at is not None and due_at <= now:
        due_at = now + _SOON  # this run has left it alone, and the next one may: that is not to go round and round
    waits = f"{first.number} · {first.step}: {first.reason or 'another run is at it'}" if first else None
    if due_at is None and cut_short:
        due_at, waits = now + LEASE, "another run was at the same order, and some steps have not begun"
    if parked or unclear:
        first = (parked + unclear)[0]
        said = f"{first.number} · {first.step}: {first.reason or 'in doubt'}"
        if first.doubt:
            said += f" ({first.doubt})"
        if first.state in effects.OPEN and first.due_at and first.created_at <= now - PATIENCE:
            said += f" (open since {first.created_at.day} {first.created_at:%B, %H:%M} UTC; it goes on being tried)"
        tried = first.state in effects.OPEN and first.due_at is not None
        todo = (
            None if tried else _by_hand(f"kvit resolve step {shlex.join([first.number, first.step])}", "resolve step")
        )
        return Ended(subject_id, said, first.step, todo, due_at=due_at, outcome=outcome)
    todo = _by_hand(f"kvit resolve {subject_id}", "resolve payment") if subject == "payment" else "see kvit hold show"
    if policy is Policy.OPERATOR:
        about = (outcome or Outcome.UNKNOWN).replace("_", " ")
        return Ended(subject_id, f"{about}: {reason}", about, todo, due_at=due_at, outcome=outcome)
    if surplus:
        said = f"over: {surplus} is too much; decide where it goes"
        return Ended(subject_id, said, "over", todo, due_at=due_at, outcome=outcome)
    return Ended(subject_id, waits=waits, due_at=due_at, outcome=outcome)


def _by_hand(command: str, form: str) -> str:
    return f"{command}, or the form “{form}”"


def _is_stuck(standing: Standing, now: datetime) -> bool:
    """Say whether an open effect needs a person.

    Nothing will carry it on, nothing but a setting can help it, or it has been tried or has waited for too long.
    """
    held = standing.lease_until is not None and standing.lease_until > now
    given_up = standing.due_at is None and not held
    return given_up or (standing.reason or "").startswith(MISCONFIGURED) or standing.created_at <= now - PATIENCE


def _cut_short(
    scenario: str,
    cause: str,
    order_ids: Sequence[int],
    standings: Sequence[Standing],
    spared: Mapping[tuple[int, str], set[str]],
) -> bool:
    """Say whether an order has ended all that it began, and yet not begun every step of its scenario.

    Of two runs at once, each can find a step held by the other; what comes after both then begins in neither. spared
    are steps that an order doesn't have by the rules that it goes by for the cause.
    """
    for order_id in order_ids:
        steps = set(STEPS[scenario]) - {"match"} - spared.get((order_id, cause), set())
        mine = [standing for standing in standings if standing.order_id == order_id]
        ended = {s.step for s in mine if s.state in (EffectState.DONE, EffectState.SKIPPED)}
        if len(ended) == len(mine) and not steps <= ended:
            return True
    return False


_RESULTS = {
    EffectState.DONE: "done",
    EffectState.SKIPPED: "skipped",
    EffectState.REJECTED: "needs a person",
    EffectState.IN_DOUBT: "in doubt",
    EffectState.INTENDED: "will be tried again",
}


def _table(
    subject: Subject,
    matched: dict[int, dict[str, Any]],
    numbers: dict[int, str],
    standings: Sequence[Standing],
) -> list[dict[str, str]]:
    rows = [
        {
            "Order": numbers.get(id_, "—"),
            "Step": f"match {subject} {id_}",
            "Result": str(row["outcome"] or "not yet").replace("_", " "),
            "Reference": f"{subject} {id_}",
            "Why": row["reason"] or "",
        }
        for id_, row in matched.items()
    ]
    rows += [
        {
            "Order": standing.number,
            "Step": standing.step,
            "Result": _RESULTS[standing.state],
            "Reference": standing.reference or "",
            "Why": "; ".join(filter(None, (standing.reason, standing.doubt))),
        }
        for standing in standings
    ]
    return rows[:TABLE_ROWS]


def _state(subject: Subject, ended: Sequence[Ended]) -> State[Any]:
    persons = [end for end in ended if end.person]
    later = [end for end in ended if end.due_at and not end.person]
    counts = Counter(str(end.outcome).replace("_", " ") for end in ended if end.outcome)
    said = (
        ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        or f"{len(ended)} {_PLURALS[subject]}"
    )
    if len(ended) == 1 and persons:
        said = persons[0].person or ""
    elif len(ended) == 1 and later:
        said = later[0].waits or said
    elif persons:
        said += f"; {len(persons)} need a person"
    data = {_PLURALS[subject]: len(ended), "need a person": len(persons)}
    if persons:
        return needs_person(said, data=data)
    if later:
        first = min(end.due_at for end in later if end.due_at)
        return Completed(name="Will go on", message=f"{said}; goes on at {first:%H:%M} UTC", data=data)
    names = {Outcome.SHORT: "Waits for the rest", Outcome.OUTGOING: "Nothing to do"}
    outcomes = {end.outcome for end in ended}
    name = names.get(next(iter(outcomes)) or Outcome.EXACT, "Done") if len(outcomes) == 1 else "Done"
    return Completed(name=name, message=said, data=data)


def _tell_persons(subject: Subject, ended: Sequence[Ended]) -> None:
    """Say in the run's log what somebody must look at, and how it is settled."""
    persons = [end for end in ended if end.person]
    for end in persons[:_TODO_SHOWN]:
        todo = f" · to do: {end.todo}" if end.todo else ""
        run_log().warning("%s %s needs a person · %s%s", subject, end.id, end.person, todo, extra=FOR_A_PERSON)
    if len(persons) > _TODO_SHOWN:
        more = len(persons) - _TODO_SHOWN
        run_log().warning("%s more need a person; see the artifact orders-and-steps", more, extra=FOR_A_PERSON)


async def _rename(numbers: Sequence[str], about: str | None) -> None:
    """Put what is known now into the name of a run for a single payment: its order's number, what needs a person."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    label, _, subject = context.flow_run.name.partition(" · ")
    parts = [label, numbers[0] if len(set(numbers)) == 1 else subject, *filter(None, [about])]
    if (name := " · ".join(parts)) != context.flow_run.name:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=name)


async def _carried_on(
    connection: AsyncConnection, scenario: str, allocated: dict[int, list[dict[str, Any]]]
) -> dict[int, list[int]]:
    """Return by payment the orders that its scenario's steps are for."""
    found = {
        id_: [part["order_id"] for part in parts if part["completes"] and part["order_id"]]
        for id_, parts in allocated.items()
    }
    if scenario != "money_back":
        return found
    # When only some of an order's money went back, nothing is undone.
    gone = await bars.gone_back(connection, sorted({order_id for some in found.values() for order_id in some}))
    return {id_: [order_id for order_id in some if order_id in gone] for id_, some in found.items()}


async def _close(opened: Installation, scenario: str, subject: Subject, ids: Sequence[int]) -> State[Any]:
    async with opened.store.read() as connection:
        rows = await payments.by_ids(connection, ids) if subject == "payment" else {}
        rounds = {id_: row["round"] for id_, row in rows.items()}
        if scenario in TIMED:
            rounds = {id_: order.extended + 1 for id_, order in (await orders.load(connection, ids)).items()}
        if subject == "status":
            changed = [order_id for order_id, _ in (await orders.of_history(connection, ids)).values()]
            rounds = {id_: last for id_, (last, _) in (await effects.rounds(connection, subject, changed)).items()}
        causes = {id_: cause_of(subject, id_, rounds.get(id_, 1)) for id_ in ids}
        if scenario in DECIDED:
            causes = {id_: cause_of_decision(id_) for id_ in ids}
        standings = await effects.of_causes(connection, list(causes.values()))
        allocated = await payments.allocated(connection, ids) if subject == "payment" else {}
        carried_on = await _carried_on(connection, scenario, allocated)
        if subject == "hold":
            rows = await _of_holds(connection, ids)
        spared = await unneeded(connection, sorted({(standing.order_id, standing.cause) for standing in standings}))
    if scenario in TIMED:
        # What else was done for the order is not this day's.
        standings = [one for one in standings if one.step.replace("sms", "message") in STEPS[scenario]]
    by_cause: dict[str, list[Standing]] = {cause: [] for cause in causes.values()}
    for standing in standings:
        by_cause[standing.cause].append(standing)
    ended: list[Ended] = []
    for id_ in ids:
        row = rows.get(id_, {})
        outcome = Outcome(row["outcome"]) if row.get("outcome") else None
        policy = Policy(row["policy"]) if row.get("policy") else None
        reason = row.get("reason") or ""
        mine = by_cause[causes[id_]]
        going = carried_on.get(id_, []) if subject == "payment" else sorted({s.order_id for s in mine})
        cut_short = _cut_short(scenario, causes[id_], going, mine, spared)
        surplus = Money(row["surplus_left_minor"], row["currency"]) if row.get("surplus_left_minor") else None
        ended.append(
            _ended(
                subject, id_, mine, outcome, policy, reason, surplus=surplus, cut_short=cut_short, now=opened.clock()
            )
        )
    async with opened.store.write() as connection:
        ends = [(end.id, end.due_at, end.person or end.waits) for end in ended]
        await work.finish(connection, scenario, subject, ends, now=opened.clock())
    await print_documents(opened, sorted({standing.order_id for standing in standings}))
    numbers = {id_: ", ".join(part["number"] or "—" for part in parts) for id_, parts in allocated.items()}
    await acreate_table_artifact(
        key="orders-and-steps",
        table=cells(_table(subject, rows, numbers, standings)),
        description=f"What this run did: {_PLURALS[subject]}, orders and steps",
    )
    if len(ids) == 1:
        await _rename([standing.number for standing in standings] or list(numbers.values()), ended[0].about)
    _tell_persons(subject, ended)
    return _state(subject, ended)


async def _of_holds(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what is to be said of holds whose order was not found: a person must look."""
    return {
        id_: {
            "outcome": Outcome.UNKNOWN,
            "policy": Policy.OPERATOR,
            "reason": stored.reason or "its order is not known",
        }
        for id_, stored in (await holds.load(connection, ids)).items()
        if stored.order_id is None and stored.hold.state is HoldState.HELD
    }


async def close(
    scenario: str,
    *,
    payments: Sequence[int] = (),
    orders: Sequence[int] = (),
    holds: Sequence[int] = (),
    statuses: Sequence[int] = (),
    repeats: Sequence[int] = (),
) -> State[Any]:
    """End a scenario's run: say what is due again, show what was done, and return the run's state in words."""
    opened = await installation()
    if orders:
        return await _close(opened, scenario, "order", orders)
    if holds:
        return await _close(opened, scenario, "hold", holds)
    if statuses:
        return await _close(opened, scenario, "status", statuses)
    if repeats:
        return await _close(opened, scenario, "hand", repeats)
    return await _close(opened, scenario, "payment", payments)
