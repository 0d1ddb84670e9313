"""A step of a scenario: claimed, acted and recorded once per order and cause, over a batch, in real Prefect runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Log, TaskRun
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from shop_builders import EMAIL, NAME, Clock, place, placed
from sqlalchemy import text, update
from sqlalchemy.exc import NoResultFound
from step_builders import (
    TEA,
    Office,
    OfficeConnector,
    issuing,
    moves,
    on_hand,
    row_of,
    standing,
    standings,
    states,
    take_one,
)

from connectors.errors import Misconfigured, Rejected, Transient
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.orders import Order
from domain.rules import ChannelRules, Moment
from store import journal, rules, work
from store.effects import EffectState
from store.tables import CustomerRow, StockItem
from tasks.installation import Installation
from tasks.pace import delay
from tasks.step import CONCURRENT, Batch, Entry, Item, Receipt, Skip, Step, Transaction, step


@dataclass
class Desk:
    """The office, the stand-in that serves it, and the step that has it issue papers."""

    office: Office
    system: StandIn
    issue: Step

    @property
    def sent(self) -> list[str]:
        """The keys of all requests for a paper that arrived, carried out or not."""
        return [seen.headers["idempotency-key"] for seen in self.system.requests if seen.method == "POST"]


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Desk]:
    # The step is tried again as often as ever, but at once.
    monkeypatch.setattr("tasks.step.RETRIES_IN_RUN_S", (0.02, 0.02, 0.02))
    office = Office()
    async with StandIn(office.app) as system:
        connector = OfficeConnector(system.url)
        yield Desk(office, system, issuing(connector))
        await connector.aclose()


@dataclass
class Ran:
    """A finished run of a flow."""

    id: UUID
    result: Any


async def in_flow(carry_on: Callable[[], Awaitable[Any]]) -> Ran:
    """Run something as the body of a flow."""

    @flow(name="scenario")
    async def scenario() -> Ran:
        return Ran(UUID(str(flow_run.id)), await carry_on())

    return await scenario()


async def call(made: Step, *batches: Batch) -> Batch:
    """Call a step in a flow of its own."""
    return (await in_flow(lambda: made(*batches))).result


async def task_runs(run: Ran, count: int) -> list[TaskRun]:
    """Return the task runs that Prefect's API has of a run, once there are as many as expected and all have ended."""
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    async with get_client() as client, asyncio.timeout(120):
        while True:
            found = await client.read_task_runs(flow_run_filter=chosen)
            if len(found) >= count and all(one.state and one.state.is_final() for one in found):
                return found
            await asyncio.sleep(0.1)


async def logs(run: Ran) -> list[Log]:
    """Return the lines that Prefect's API has of a run."""
    flushing: Any = APILogHandler.aflush()
    await flushing
    async with get_client() as client:
        return await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)


async def carry_out(made: Step, opened: Installation, batch: Batch) -> dict[str, str]:
    """Carry out a step without Prefect, and return each order's state."""
    attempts = await made.carry_out(opened, batch, owner="worker 1")
    return {attempt.item.number: str(attempt.state) for attempt in attempts}


def only(batch: Batch, number: str) -> Batch:
    return Batch(tuple(item for item in batch.items if item.number == number))


# One order: claim, act, record.


async def test_an_effect_is_claimed_acted_and_recorded(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    run = await in_flow(lambda: desk.issue(batch))
    assert run.result == batch
    assert desk.office.orders == ["CZ5001"]
    found = await standing(opened, batch)
    assert (found.state, found.reference, found.due_at, found.lease_until) == (EffectState.DONE, "P-CZ5001", None, None)


async def test_the_journal_tells_both_moves_with_run_actor_and_rules(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    run = await in_flow(lambda: desk.issue(batch))
    async with opened.store.read() as connection:
        claimed, done = await journal.of_order(connection, batch.items[0].order_id)
        version = (await rules.current(connection))["cz"].version
    for entry in (claimed, done):
        assert (entry["step"], entry["cause"], entry["actor"]) == ("paper", batch.items[0].cause, opened.worker)
        assert (entry["run"], entry["rule_version"]) == (str(run.id), version)
    assert (claimed["move"], claimed["reference"]) == ("intended", None)
    assert (done["move"], done["reference"]) == ("done", "P-CZ5001")
    assert (done["before"], done["after"]) == ({"papers": 0}, {"papers": 1})


async def test_what_is_done_passes_without_acting_again(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    first = await in_flow(lambda: desk.issue(batch))
    second = await in_flow(lambda: desk.issue(batch))
    assert first.result == second.result == batch
    assert desk.office.orders == ["CZ5001"]
    assert await moves(opened, batch.items[0]) == ["intended", "done"]


async def test_two_calls_at_once_act_once(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened, 5)
    run = await in_flow(lambda: asyncio.gather(*(desk.issue(batch) for _ in range(4))))
    assert desk.office.orders == [item.number for item in batch.items]
    assert sorted(len(result) for result in run.result) == [0, 0, 0, 5]


async def test_an_order_that_is_in_a_batch_twice_is_acted_on_once(opened: Installation, desk: Desk) -> None:
    (item,) = (await placed(opened)).items
    run = await in_flow(lambda: desk.issue(Batch((item, item))))
    assert desk.office.orders == ["CZ5001"]
    assert run.result == Batch((item,))


# The key.


async def test_the_key_is_another_one_for_each_order_step_and_cause(opened: Installation) -> None:
    keys: list[str] = []

    async def note(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Note the key."""
        del order
        keys.append(key)
        return Receipt()

    first, second = (await placed(opened, 2)).items
    other_cause = Item(first.order_id, first.number, "payment:99")
    await carry_out(step("paper")(note), opened, Batch((first, second, other_cause)))
    await carry_out(step("stamp")(note), opened, Batch((first,)))
    assert len(set(keys)) == len(keys) == 4


async def test_the_key_is_the_same_on_every_attempt(opened: Installation, desk: Desk, clock: Clock) -> None:
    batch = await placed(opened)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=3)
    for _ in range(4):
        await carry_out(desk.issue, opened, batch)
        clock.forward(days=2)
    assert len(desk.sent) == 4
    assert set(desk.sent) == {(await row_of(opened, "paper", batch.items[0])).key}


# The batch.


async def test_one_bad_order_never_stops_the_rest(opened: Installation) -> None:
    batch = await placed(opened, 7)

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, key: str) -> Receipt | Skip:
        """Go wrong in every way there is."""
        match order.number:
            case "CZ5001":
                raise Rejected("the office wants no such paper")
            case "CZ5002":
                raise Transient("the office is closed")
            case "CZ5003":
                raise ValueError(key)
            case "CZ5004":
                raise Misconfigured("the office doesn't know us")
            case "CZ5005":
                return Skip("the rules want no paper")
            case _:
                return Receipt()

    result = await call(act, batch)
    assert [item.number for item in result.items] == ["CZ5005", "CZ5006", "CZ5007"]
    found = await standings(opened, batch)
    assert states(found) == {
        "CZ5001": "rejected",
        "CZ5002": "intended",
        "CZ5003": "in_doubt",
        "CZ5004": "intended",
        "CZ5005": "skipped",
        "CZ5006": "done",
        "CZ5007": "done",
    }
    due = {one.number for one in found if one.due_at is not None}
    assert due == {"CZ5002", "CZ5003", "CZ5004"}
    reasons = {one.number: one.reason for one in found}
    assert reasons["CZ5001"] == "the office wants no such paper"
    assert reasons["CZ5003"] == "unexpected ValueError in step paper"
    assert reasons["CZ5005"] == "the rules want no paper"


async def test_several_batches_mean_the_orders_that_are_in_all_of_them(opened: Installation, desk: Desk) -> None:
    first, second, third = (await placed(opened, 3)).items
    result = await call(
        desk.issue, Batch((third, second, first)), Batch((first, second)), Batch((second, third, first))
    )
    assert result == Batch((second, first))
    assert desk.office.orders == ["CZ5001", "CZ5002"]


async def test_an_empty_batch_makes_no_run(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)

    async def both() -> tuple[Batch, Batch]:
        return await desk.issue(Batch(), batch), await desk.issue(batch)

    run = await in_flow(both)
    assert run.result == (Batch(), batch)
    assert [one.name for one in await task_runs(run, 1)] == ["paper · CZ5001"]


async def test_a_batch_of_240_is_one_run_and_never_too_many_at_once(opened: Installation) -> None:
    batch = await placed(opened, 240)
    acted: list[str] = []
    active = most = 0

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take a moment, and count how many do so."""
        nonlocal active, most
        acted.append(order.number)
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.001)
        active -= 1
        return Receipt()

    run = await in_flow(lambda: act(batch))
    assert run.result == batch
    assert acted == [item.number for item in batch.items]
    assert most == CONCURRENT
    assert [one.name for one in await task_runs(run, 1)] == ["paper · 240 orders"]


# What a step writes in our own database.


async def test_what_is_written_commits_with_the_record(opened: Installation) -> None:
    batch = await placed(opened)
    before = await on_hand(opened)

    @step("shelf", local=True)
    async def act(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take one from the shelf."""

        async def write(transaction: Transaction) -> Receipt:
            with pytest.raises(NoResultFound):
                await row_of(opened, "shelf", batch.items[0])
            assert (transaction.actor.name, transaction.now) == (opened.worker, opened.clock())
            await take_one(transaction)
            assert await on_hand(opened) == before
            return Receipt(reference="from shelf 4", before={"at": 1}, after={"at": 0})

        return Receipt(reference="from some shelf", before={"at": 9, "kept": 1}, after={"kept": 2}, write=write)

    assert await carry_out(act, opened, batch) == {"CZ5001": "done"}
    assert await on_hand(opened) == before - 1
    row = await row_of(opened, "shelf", batch.items[0])
    assert (row.reference, row.before, row.after) == ("from shelf 4", {"at": 1, "kept": 1}, {"at": 0, "kept": 2})


async def test_a_refused_write_leaves_nothing_and_parks(opened: Installation) -> None:
    batch = await placed(opened, 3)
    before = await on_hand(opened)

    @step("shelf", local=True)
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take one from the shelf, and refuse to have done so for one order."""

        async def write(transaction: Transaction) -> None:
            await take_one(transaction)
            if order.number == "CZ5002":
                raise Rejected("the last packet is not for sale")

        return Receipt(write=write)

    result = await call(act, batch)
    assert [item.number for item in result.items] == ["CZ5001", "CZ5003"]
    assert await on_hand(opened) == before - 2
    found = {one.number: one for one in await standings(opened, batch)}
    assert found["CZ5002"].state is EffectState.REJECTED
    assert (found["CZ5002"].reason, found["CZ5002"].due_at) == ("the last packet is not for sale", None)


async def empty_the_shelf(transaction: Transaction) -> None:
    await take_one(transaction)
    await transaction.connection.execute(update(StockItem).where(StockItem.sku == TEA).values(on_hand=-1))


async def stumble(transaction: Transaction) -> None:
    await take_one(transaction)
    raise KeyError("nobody thought of this")


CANT_BE_WRITTEN = pytest.mark.parametrize("fail", [empty_the_shelf, stumble])


@CANT_BE_WRITTEN
async def test_a_write_that_fails_stops_no_other_order_and_is_tried_again(
    opened: Installation, clock: Clock, fail: Callable[[Transaction], Awaitable[None]]
) -> None:
    batch = await placed(opened, 3)
    before = await on_hand(opened)
    broken = True

    @step("shelf", local=True)
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take one from the shelf."""
        return Receipt(write=fail if broken and order.number == "CZ5002" else take_one)

    assert await carry_out(act, opened, batch) == {"CZ5001": "done", "CZ5002": "intended", "CZ5003": "done"}
    assert await on_hand(opened) == before - 2
    found = {one.number: one for one in await standings(opened, batch)}
    assert (found["CZ5002"].reason or "").startswith("could not be written down")
    assert found["CZ5002"].due_at is not None
    broken = False
    clock.now = found["CZ5002"].due_at
    assert await carry_out(act, opened, batch) == {"CZ5001": "done", "CZ5002": "done", "CZ5003": "done"}
    assert await on_hand(opened) == before - 3
    assert await moves(opened, only(batch, "CZ5002").items[0]) == ["intended", "to retry", "done"]


@CANT_BE_WRITTEN
async def test_what_was_done_outside_and_could_not_be_written_down_is_found_again(
    opened: Installation, clock: Clock, fail: Callable[[Transaction], Awaitable[None]]
) -> None:
    batch = await placed(opened, 2)
    before = await on_hand(opened)
    acted: list[str] = []
    broken = True

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Do something outside and write it down."""
        acted.append(order.number)
        return Receipt(reference="P-1", write=fail if broken else take_one)

    @act.lookup
    async def find(order: Order, _rules: ChannelRules, _key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        return Receipt(reference="P-1", write=take_one) if order.number in acted else None

    assert set((await carry_out(act, opened, batch)).values()) == {"in_doubt"}
    # The reference is all that a person has to look for it outside.
    assert {one.reference for one in await standings(opened, batch)} == {"P-1"}
    broken = False
    clock.forward(minutes=5)
    assert set((await carry_out(act, opened, batch)).values()) == {"done"}
    assert sorted(acted) == ["CZ5001", "CZ5002"]
    assert await on_hand(opened) == before - 2


async def test_a_write_may_find_that_there_is_nothing_to_do(opened: Installation) -> None:
    batch = await placed(opened)

    async def write(_transaction: Transaction) -> Skip:
        return Skip("it was done before")

    @step("shelf", local=True)
    async def act(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Find that there is nothing to do."""
        return Receipt(before={"never": 1}, write=write)

    assert await carry_out(act, opened, batch) == {"CZ5001": "skipped"}
    row = await row_of(opened, "shelf", batch.items[0])
    assert (row.state, row.reason, row.before) == ("skipped", "it was done before", {})


async def test_what_no_database_can_store_concerns_its_own_order_alone(opened: Installation) -> None:
    batch = await placed(opened, 3)

    @step("shelf", local=True)
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Come back with more than text and numbers."""
        match order.number:
            case "CZ5001":
                return Receipt(after={"total": order.total})
            case "CZ5002":
                raise Rejected("the office said \x00 and \udcff")
            case _:
                return Receipt()

    assert await carry_out(act, opened, batch) == {"CZ5001": "intended", "CZ5002": "rejected", "CZ5003": "done"}
    reasons = {one.number: one.reason for one in await standings(opened, batch)}
    assert reasons["CZ5001"] == "unexpected TypeError in step shelf"
    assert reasons["CZ5002"] == "the office said ? and ?"


# Transient failures.


async def test_a_single_order_is_tried_again_within_its_run(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=2)
    run = await in_flow(lambda: desk.issue(batch))
    assert run.result == batch
    assert desk.office.orders == ["CZ5001"]
    assert len(desk.sent) == 3
    assert len(set(desk.sent)) == 1
    (one,) = await task_runs(run, 1)
    assert (one.run_count, one.state_name) == (3, "Completed")
    assert await moves(opened, batch.items[0]) == ["intended", "to retry", "to retry", "done"]


async def test_the_first_retry_within_a_run_comes_after_about_a_second(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.RETRIES_IN_RUN_S", (1, 600, 600))
    moments: list[float] = []

    @step("paper")
    async def act(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Fail once."""
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise Transient("the office is closed")
        return Receipt()

    batch = await placed(opened)
    assert await call(act, batch) == batch
    assert 0.6 < moments[1] - moments[0] < 300


async def test_after_its_last_retry_a_single_order_is_due_again_a_minute_later(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=None)
    run = await in_flow(lambda: desk.issue(batch))
    assert run.result == Batch()
    assert len(desk.sent) == 4
    (one,) = await task_runs(run, 1)
    assert one.state_name == "Completed"
    waits: list[timedelta] = []
    for _ in range(3):
        found = await standing(opened, batch)
        assert found.state is EffectState.INTENDED
        assert found.due_at is not None
        waits.append(found.due_at - clock.now)
        clock.now = found.due_at
        await call(desk.issue, batch)
    # A run of its own makes four attempts, and counts as one when it comes to how long to wait.
    expected = [timedelta(minutes=minutes) for minutes in (1, 5, 30)]
    assert all(least * 0.8 <= wait <= least for wait, least in zip(waits, expected, strict=True))
    assert len(set(desk.sent)) == 1


async def test_in_a_larger_batch_what_fails_drops_out_at_once(opened: Installation, desk: Desk, clock: Clock) -> None:
    batch = await placed(opened, 3)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=1)
    run = await in_flow(lambda: desk.issue(batch))
    assert len(run.result) == 2
    assert len(desk.sent) == 3
    (one,) = await task_runs(run, 1)
    assert one.run_count == 1
    (late,) = [found for found in await standings(opened, batch) if found.state is EffectState.INTENDED]
    assert late.due_at is not None
    assert timedelta(seconds=48) <= late.due_at - clock.now <= timedelta(seconds=60)
    clock.now = late.due_at - timedelta(seconds=1)
    assert len(await call(desk.issue, batch)) == 2
    assert len(desk.sent) == 3
    clock.now = late.due_at
    assert await call(desk.issue, batch) == batch
    assert len(desk.sent) == 4


def test_delays_grow_to_a_day_with_jitter() -> None:
    for attempts, minutes in enumerate((1, 5, 30, 120, 360, 1440, 1440, 1440), start=1):
        waits = [delay(attempts) for _ in range(50)]
        assert min(waits) >= timedelta(minutes=minutes) * 0.8
        assert max(waits) <= timedelta(minutes=minutes)
        assert len(set(waits)) > 1


def test_a_delay_is_at_least_what_the_system_asked_for() -> None:
    assert delay(1, 7200) == timedelta(hours=2)
    assert delay(6, 1) > timedelta(hours=19)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_system_that_says_when_is_left_alone_until_then(
    opened: Installation, desk: Desk, clock: Clock, count: int
) -> None:
    batch = await placed(opened, count)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, retry_after=7200, times=count)
    assert await call(desk.issue, batch) == Batch()
    assert len(desk.sent) == count
    assert {one.due_at for one in await standings(opened, batch)} == {clock.now + timedelta(hours=2)}
    clock.forward(hours=1.9)
    assert await call(desk.issue, batch) == Batch()
    assert len(desk.sent) == count
    clock.forward(hours=0.1)
    assert await call(desk.issue, batch) == batch


async def test_a_system_that_asks_for_less_than_the_next_retry_is_asked_within_the_run(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.RETRIES_IN_RUN_S", (0.5, 0.5, 0.5))
    tries: list[str] = []

    @step("paper")
    async def act(_order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Fail once, and ask for a moment."""
        tries.append(key)
        if len(tries) == 1:
            raise Transient("the office is busy", retry_after=0.1)
        return Receipt()

    batch = await placed(opened)
    assert await call(act, batch) == batch


# In doubt, within a run.


async def test_a_single_order_in_doubt_is_asked_about_within_its_run(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    desk.system.misbehave(Misbehavior.CUT_AFTER)
    assert await call(desk.issue, batch) == batch
    assert desk.office.orders == ["CZ5001"]
    assert [seen.method for seen in desk.system.requests] == ["POST", "GET"]
    assert await moves(opened, batch.items[0]) == ["intended", "in_doubt", "done"]


# Misconfigured.


async def test_a_misconfigured_system_is_an_error_in_the_log_and_due_again(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=401)
    run = await in_flow(lambda: desk.issue(batch))
    assert run.result == Batch()
    assert len(desk.sent) == 1
    errors = [line.message for line in await logs(run) if line.level >= 40]
    assert errors == ["CZ5001 · paper · not yet · misconfigured: office: answered 401"]
    (one,) = await task_runs(run, 1)
    assert one.run_count == 1
    found = await standing(opened, batch)
    assert (found.state, found.reason) == (EffectState.INTENDED, "misconfigured: office: answered 401")
    assert found.due_at is not None
    clock.now = found.due_at
    assert await call(desk.issue, batch) == batch


# Rules.


async def test_rules_come_without_messages_for_a_quiet_cause(opened: Installation) -> None:
    paid, quiet_payment, quiet_order = (await placed(opened, 3)).items
    quiet_order = Item(quiet_order.order_id, quiet_order.number, f"order:{quiet_order.order_id}")
    async with opened.store.write() as connection:
        for scenario, subject, item in (("card", "payment", quiet_payment), ("dispatch_unpaid", "order", quiet_order)):
            await work.add(connection, scenario, subject, [item.order_id], now=opened.clock(), quiet=True)
    messages: dict[str, bool] = {}

    @step("paper")
    async def act(order: Order, rules: ChannelRules, _key: str) -> Receipt:
        """Note whether there would be a message."""
        messages[order.number] = rules.scenarios.of(order.method).message(Moment.PAID) is not None
        return Receipt()

    await carry_out(act, opened, Batch((paid, quiet_payment, quiet_order)))
    assert messages == {"CZ5001": True, "CZ5002": False, "CZ5003": False}


async def test_the_rules_are_those_of_the_orders_customer(opened: Installation) -> None:
    order_id = await place(
        opened,
        "CZ5001",
        method="bank_transfer",
        customer={"number": "C0901", "name": NAME, "email": EMAIL, "group": "velkoobchod"},
    )
    statuses: list[str] = []

    @step("paper")
    async def act(order: Order, rules: ChannelRules, _key: str) -> Receipt:
        """Note the status that the rules give."""
        statuses.append(rules.scenarios.of(order.method).status)
        return Receipt()

    await carry_out(act, opened, Batch((Item(order_id, "CZ5001", "payment:1"),)))
    assert statuses == ["processing"]


# Taking back.


@dataclass
class Drawer:
    """A step that puts papers into a drawer, and takes them back."""

    file: Step
    acts: list[str]


@pytest.fixture
def drawer() -> Drawer:
    acts: list[str] = []

    @step("file")
    async def put(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Put a paper into the drawer."""
        acts.append(f"put {order.number}")
        return Receipt(reference="drawer 3", before={"drawer": None}, after={"drawer": 3})

    @put.undo
    async def take(order: Order, entry: Entry, key: str) -> Receipt:  # pyright: ignore[reportUnusedFunction] - registered
        acts.append(f"take {order.number} from {entry.reference} with {key[:5]}")
        return Receipt(reference="drawer 3", before=entry.after, after=entry.before)

    return Drawer(put, acts)


async def entry_of(opened: Installation, made: Step, item: Item) -> Entry:
    row = await row_of(opened, made.name, item)
    async with opened.store.read() as connection:
        channel = (await rules.current(connection))["cz"].rules
    return Entry(
        effect_id=row.id,
        order_id=item.order_id,
        number=item.number,
        reference=row.reference,
        before=row.before,
        after=row.after,
        rules=channel,
    )


async def test_an_effect_is_taken_back_once_by_an_effect_that_points_at_it(
    opened: Installation, drawer: Drawer
) -> None:
    batch = await placed(opened)
    await carry_out(drawer.file, opened, batch)
    entry = await entry_of(opened, drawer.file, batch.items[0])
    assert drawer.file.reversible
    first = await drawer.file.take_back(opened, entry, owner="keeper 1")
    second = await drawer.file.take_back(opened, entry, owner="keeper 2")
    assert (first.state, second.state) == (EffectState.DONE, EffectState.DONE)
    assert drawer.acts == ["put CZ5001", "take CZ5001 from drawer 3 with kvit-"]
    undone = await row_of(opened, "undo file", batch.items[0]._replace(cause=f"undo:{entry.effect_id}"))
    assert undone.reverses_id == entry.effect_id
    assert (undone.before, undone.after) == ({"drawer": 3}, {"drawer": None})
    # What was done stays in the history as it was.
    assert (await row_of(opened, "file", batch.items[0])).state == "done"
    assert await moves(opened, batch.items[0]) == ["intended", "done", "intended", "done"]


async def test_taking_back_twice_at_once_takes_back_once(opened: Installation, drawer: Drawer) -> None:
    batch = await placed(opened)
    await carry_out(drawer.file, opened, batch)
    entry = await entry_of(opened, drawer.file, batch.items[0])
    await asyncio.gather(*(drawer.file.take_back(opened, entry, owner=f"keeper {n}") for n in range(4)))
    assert len(drawer.acts) == 2


async def test_a_step_without_undo_refuses_to_be_taken_back(opened: Installation, desk: Desk) -> None:
    batch = await placed(opened)
    await carry_out(desk.issue, opened, batch)
    assert not desk.issue.reversible
    entry = await entry_of(opened, desk.issue, batch.items[0])
    with pytest.raises(Misconfigured, match="step paper can't be taken back"):
        await desk.issue.take_back(opened, entry, owner="keeper")
    assert await moves(opened, batch.items[0]) == ["intended", "done"]


# The log.


async def test_the_log_has_one_line_per_order_and_step_with_its_reference(
    opened: Installation, desk: Desk, drawer: Drawer
) -> None:
    batch = await placed(opened, 3)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=422, skip=0)

    async def scenario() -> None:
        issued = await desk.issue(batch)
        await drawer.file(issued)
        await desk.issue(issued)

    run = await in_flow(scenario)
    said = [line for entry in await logs(run) for line in entry.message.splitlines()]
    lines = [line for line in said if line.startswith("CZ")]
    refused = next(one.number for one in await standings(opened, batch) if one.state is EffectState.REJECTED)
    others = [item.number for item in batch.items if item.number != refused]
    assert sorted(lines) == sorted(
        [f"{refused} · paper · parked for a person · office: answered 422"]
        + [f"{number} · paper · done · P-{number}" for number in others]
        + [f"{number} · file · done · drawer 3" for number in others]
        + [f"{number} · paper · done before · P-{number}" for number in others]
    )
    names = sorted(one.name for one in await task_runs(run, 3))
    assert names == ["file · 2 orders", "paper · 2 orders", "paper · 3 orders"]


async def test_nothing_personal_reaches_any_log(opened: Installation, caplog: pytest.LogCaptureFixture) -> None:
    batch = await placed(opened, 5)

    async def spoil(transaction: Transaction) -> None:
        await transaction.connection.execute(update(CustomerRow).values(name=NAME, email=EMAIL, number=None))

    async def stumble_over(_transaction: Transaction) -> None:
        raise KeyError(EMAIL)

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Stumble over the customer in several ways."""
        match order.number:
            case "CZ5001":
                raise ValueError(f"can't write to {order.customer.email} ({order.customer.name})")
            case "CZ5002":
                return Receipt(write=spoil)
            case "CZ5003":
                return Receipt(write=stumble_over)
            case "CZ5004":
                raise Transient("the office is closed")
            case _:
                return Receipt(reference="P-5")

    async def scenario() -> None:
        await act(batch)
        await act(only(batch, "CZ5001"))

    run = await in_flow(scenario)
    said = [line.message for line in await logs(run)]
    async with get_client() as client:
        shown = [await client.read_flow_run(run.id), *await task_runs(run, 2)]
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        artifacts = await client.read_artifacts(artifact_filter=of_run)
    everything = "\n".join([*said, caplog.text, *(one.model_dump_json() for one in (*shown, *artifacts))])
    assert "unexpected ValueError in step paper" in everything
    assert "test_step.py" in caplog.text  # the place of a defect is told
    assert "CZ5005 · paper · done · P-5" in everything
    for personal in (NAME, "Božena", "Bo\\u017eena", EMAIL, "pokorna", "Pokorn"):
        assert personal not in everything


async def test_a_database_that_fails_is_tried_again_and_its_words_reach_no_log(
    opened: Installation, desk: Desk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    batch = await placed(opened, 2)

    async def full_disk(*, on: bool) -> None:
        fail = "BEFORE UPDATE ON effects WHEN NEW.state = 'done' BEGIN SELECT RAISE(ABORT, 'full'); END"
        async with opened.store.write() as connection:
            await connection.execute(text(f"CREATE TRIGGER full {fail}" if on else "DROP TRIGGER full"))

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Have a paper issued, and say more in the receipt than is good."""
        await desk_office.issue(order.number, key)
        return Receipt(after={"for": EMAIL})

    desk_office = OfficeConnector(desk.system.url)
    act.lookup(lambda _order, _rules, key: found(key))

    async def found(key: str) -> Receipt | None:
        reference = await desk_office.find(key)
        return Receipt(reference=reference) if reference else None

    await full_disk(on=True)
    run = await in_flow(lambda: act(batch))
    assert run.result == Batch()
    (one,) = await task_runs(run, 1)
    assert one.run_count == 2
    everything = "\n".join([caplog.text, *(line.message for line in await logs(run))])
    assert "step paper: the database failed (IntegrityError)" in everything
    assert EMAIL not in everything
    await full_disk(on=False)
    clock.forward(minutes=2)
    assert await call(act, batch) == batch
    assert desk.office.orders == ["CZ5001", "CZ5002"]
    await desk_office.aclose()
