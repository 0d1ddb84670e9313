"""A step against all that can go wrong: workers that race, die or stall, and outside systems that don't answer.

What is looked at in the end is always the outside system: every order got its paper, and no order got two.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from shop_builders import NOW, Clock, placed, shop, stock_up
from sqlalchemy.engine import make_url
from starlette.exceptions import HTTPException
from starlette.requests import Request
from step_builders import (
    Office,
    OfficeConnector,
    issuing,
    moves,
    on_hand,
    postgres,
    row_of,
    standing,
    standings,
    states,
    take_one,
)

from connectors.errors import Misconfigured, Rejected, Transient
from connectors.http import Client, Limits
from connectors.pacing import Turns
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.orders import Order
from domain.rules import ChannelRules
from store.effects import EffectState, Verdict
from tasks.installation import Installation
from tasks.pace import LEASE
from tasks.step import ACT_LIMIT_S, RENEW_S, Batch, Item, Receipt, Skip, Step, Transaction, step

ROOT = Path(__file__).parent.parent.parent
EITHER_DATABASE = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="module")
def new_postgres() -> Generator[Callable[[], str]]:
    with postgres() as new:
        yield new


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a SQLite database with rules and stock once, to be copied."""
    home = tmp_path_factory.mktemp("stocked")

    async def make() -> None:
        async with shop(home) as opened:
            await stock_up(opened)

    asyncio.run(make())
    return home / "kvit.sqlite"


@pytest.fixture
def url(request: pytest.FixtureRequest, stocked: Path, tmp_path: Path) -> str:
    """Return the address of this test's database: SQLite unless the test is for either."""
    if getattr(request, "param", "sqlite") == "postgresql":
        new: Callable[[], str] = request.getfixturevalue("new_postgres")
        return new()
    shutil.copy(stocked, tmp_path / "kvit.sqlite")
    return f"sqlite:///{tmp_path / 'kvit.sqlite'}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def opened(url: str, tmp_path: Path, clock: Clock) -> AsyncGenerator[Installation]:
    async with shop(tmp_path / "one", url=url, clock=clock) as working:
        if url.startswith("postgresql"):
            await stock_up(working)
        yield working


@pytest.fixture
async def other(url: str, tmp_path: Path, clock: Clock, opened: Installation) -> AsyncGenerator[Installation]:
    """Open the same database once more, as another process does."""
    del opened
    async with shop(tmp_path / "other", url=url, clock=clock) as working:
        yield working


@dataclass
class Desk:
    """The office, the stand-in that serves it, and what speaks to it."""

    office: Office
    system: StandIn
    connector: OfficeConnector

    @property
    def asked(self) -> list[str]:
        """The methods of all requests that arrived: POST has a paper issued, GET looks for one."""
        return [seen.method for seen in self.system.requests]


@asynccontextmanager
async def staffed(office: Office, *, timeout_s: float = 30.0) -> AsyncGenerator[Desk]:
    async with StandIn(office.app) as system:
        connector = OfficeConnector(system.url, timeout_s=timeout_s)
        yield Desk(office, system, connector)
        await connector.aclose()


@pytest.fixture
async def desk() -> AsyncGenerator[Desk]:
    async with staffed(Office()) as made:
        yield made


@pytest.fixture
async def impatient() -> AsyncGenerator[Desk]:
    """Return a desk that waits for no answer longer than a second; all but a silent system answer within that."""
    async with staffed(Office(), timeout_s=1.0) as made:
        yield made


async def carry_out(made: Step, opened: Installation, batch: Batch, owner: str = "worker 1") -> dict[str, str]:
    """Carry out a step, and return each order's state."""
    return {a.item.number: str(a.state) for a in await made.carry_out(opened, batch, owner=owner)}


async def due_now(opened: Installation, clock: Clock, batch: Batch) -> None:
    """Move the clock to when everything of a batch is due again."""
    moments = [one.due_at for one in await standings(opened, batch)]
    assert all(moments)
    clock.now = max(moment for moment in moments if moment is not None)


# Workers that race.


@EITHER_DATABASE
async def test_workers_that_race_for_the_same_orders_act_once(
    opened: Installation, other: Installation, desk: Desk
) -> None:
    batch = await placed(opened, 20)
    issue = issuing(desk.connector)
    backwards = Batch(batch.items[::-1])
    results = await asyncio.gather(
        *(
            carry_out(issue, worker, some, f"worker {number}")
            for number, (worker, some) in enumerate([(opened, batch), (other, backwards)] * 3)
        )
    )
    numbers = [item.number for item in batch.items]
    assert desk.office.orders == numbers
    assert sum(list(result.values()).count("done") for result in results) >= len(numbers)
    assert states(await standings(opened, batch)) == dict.fromkeys(numbers, "done")
    for item in batch.items:
        assert await moves(opened, item) == ["intended", "done"]


@EITHER_DATABASE
async def test_workers_that_race_for_the_same_shelf_take_from_it_once(
    opened: Installation, other: Installation
) -> None:
    batch = await placed(opened, 5)
    before = await on_hand(opened)

    @step("shelf", local=True)
    async def act(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take one from the shelf."""
        return Receipt(write=take_one)

    await asyncio.gather(
        *(carry_out(act, worker, batch, f"worker {n}") for n, worker in enumerate([opened, other] * 3))
    )
    assert await on_hand(opened) == before - 5


def labelling(desk: Desk) -> Step:
    """Make a step that an order has once, whatever the cause: it looks whether there is one, then orders one."""

    @step("label", one_per_order=True)
    async def order_label(order: Order, _rules: ChannelRules, key: str) -> Receipt | Skip:
        """Have the office issue a label, unless the order has one."""
        if order.number in desk.office.orders:
            return Skip("there is one")
        return Receipt(reference=await desk.connector.issue(order.number, key))

    @order_label.lookup
    async def find(_order: Order, _rules: ChannelRules, key: str) -> Receipt | None:
        reference = await desk.connector.find(key)
        return Receipt(reference=reference) if reference else None

    del find
    return order_label


def for_other_payments(batch: Batch) -> Batch:
    return Batch(tuple(Item(item.order_id, item.number, f"payment:{item.order_id + 1000}") for item in batch.items))


@EITHER_DATABASE
async def test_while_it_goes_on_for_one_cause_it_does_not_begin_for_another(
    opened: Installation, other: Installation, clock: Clock
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()
    labels: list[str] = []

    @step("label", one_per_order=True)
    async def order_label(order: Order, _rules: ChannelRules, _key: str) -> Receipt | Skip:
        """Order a label, slowly at first, unless the order has one."""
        if labels:
            return Skip("there is one")
        if not begun.is_set():
            begun.set()
            await goes_on.wait()
        labels.append(order.number)
        return Receipt()

    first = await placed(opened)
    second = for_other_payments(first)
    slow = asyncio.create_task(carry_out(order_label, opened, first, "worker 1"))
    await begun.wait()
    assert await carry_out(order_label, other, second, "worker 2") == {"CZ5001": "intended"}
    goes_on.set()
    assert await slow == {"CZ5001": "done"}
    await due_now(opened, clock, second)
    assert await carry_out(order_label, other, second, "worker 2") == {"CZ5001": "skipped"}
    assert labels == ["CZ5001"]


@EITHER_DATABASE
async def test_of_two_causes_in_one_batch_the_later_one_waits(opened: Installation, desk: Desk, clock: Clock) -> None:
    first = await placed(opened, 3)
    second = for_other_payments(first)
    label = labelling(desk)
    both = Batch(second.items + first.items)
    await carry_out(label, opened, both)
    assert desk.office.orders == [item.number for item in first.items]
    clock.forward(minutes=5)
    await carry_out(label, opened, both)
    assert desk.office.orders == [item.number for item in first.items]
    ended = [one.state for one in await standings(opened, both)]
    assert (ended.count(EffectState.DONE), ended.count(EffectState.SKIPPED)) == (3, 3)


@EITHER_DATABASE
@pytest.mark.parametrize("kind", [Misbehavior.CUT_AFTER, Misbehavior.CUT_BEFORE])
async def test_while_it_is_in_doubt_for_one_cause_it_does_not_begin_for_another(
    opened: Installation, desk: Desk, clock: Clock, kind: Misbehavior
) -> None:
    first = await placed(opened)
    second = for_other_payments(first)
    label = labelling(desk)
    desk.system.misbehave(kind)
    assert await carry_out(label, opened, first) == {"CZ5001": "in_doubt"}
    assert await carry_out(label, opened, second) == {"CZ5001": "intended"}
    waiting = await standing(opened, second)
    assert waiting.reason == f"waits until it is known what came of this step for {first.items[0].cause}"
    assert desk.asked == ["POST"]
    await due_now(opened, clock, Batch(first.items + second.items))
    assert await carry_out(label, opened, second) == {"CZ5001": "intended"}
    assert await carry_out(label, opened, first) == {"CZ5001": "done"}
    await due_now(opened, clock, second)
    assert await carry_out(label, opened, second) == {"CZ5001": "skipped"}
    assert desk.office.orders == ["CZ5001"]


# Outside systems that don't answer.

ACTED = [
    Misbehavior.HANG_AFTER,
    Misbehavior.STATUS_AFTER,
    Misbehavior.CUT_AFTER,
    Misbehavior.CUT_MIDWAY,
    Misbehavior.GARBAGE,
]
NOT_ACTED = [Misbehavior.HANG_BEFORE, Misbehavior.STATUS_BEFORE, Misbehavior.CUT_BEFORE]


@pytest.mark.parametrize("kind", ACTED + NOT_ACTED)
async def test_what_may_have_happened_is_asked_about_before_anything_is_sent_again(
    opened: Installation, impatient: Desk, clock: Clock, kind: Misbehavior
) -> None:
    batch = await placed(opened)
    issue = issuing(impatient.connector)
    impatient.system.misbehave(kind)
    assert await carry_out(issue, opened, batch) == {"CZ5001": "in_doubt"}
    found = await standing(opened, batch)
    assert found.state is EffectState.IN_DOUBT
    assert found.reason
    assert await carry_out(issue, opened, batch) == {"CZ5001": "in_doubt"}
    assert impatient.asked == ["POST"]  # it is not due yet
    await due_now(opened, clock, batch)
    assert await carry_out(issue, opened, batch) == {"CZ5001": "done"}
    assert impatient.asked == ["POST", "GET"] + (["POST"] if kind in NOT_ACTED else [])
    assert impatient.office.issued == [("CZ5001", (await row_of(opened, "paper", batch.items[0])).key)]
    assert len({seen.headers["idempotency-key"] for seen in impatient.system.requests if seen.method == "POST"}) == 1
    assert (await standing(opened, batch)).reference == "P-CZ5001"
    assert await moves(opened, batch.items[0]) == ["intended", "in_doubt", "done"]


async def test_a_system_that_never_got_the_request_is_simply_asked_again(
    opened: Installation, clock: Clock, desk: Desk
) -> None:
    batch = await placed(opened)
    closed = OfficeConnector("http://127.0.0.1:9")
    assert await carry_out(issuing(closed), opened, batch) == {"CZ5001": "intended"}
    await closed.aclose()
    await due_now(opened, clock, batch)
    assert await carry_out(issuing(desk.connector), opened, batch) == {"CZ5001": "done"}
    assert desk.asked == ["POST"]


async def test_in_doubt_it_stays_while_the_question_is_not_answered(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    issue = issuing(desk.connector)
    desk.system.misbehave(Misbehavior.CUT_AFTER)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=503)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=429)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=401)
    await carry_out(issue, opened, batch)
    for _ in range(3):
        await due_now(opened, clock, batch)
        assert await carry_out(issue, opened, batch) == {"CZ5001": "in_doubt"}
    await due_now(opened, clock, batch)
    assert await carry_out(issue, opened, batch) == {"CZ5001": "done"}
    assert desk.asked == ["POST", "GET", "GET", "GET", "GET"]
    assert desk.office.orders == ["CZ5001"]


async def test_a_question_that_is_refused_leaves_it_in_doubt_for_a_person(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    issue = issuing(desk.connector)
    desk.system.misbehave(Misbehavior.CUT_AFTER)
    desk.system.misbehave(Misbehavior.STATUS_BEFORE, status=422)
    await carry_out(issue, opened, batch)
    await due_now(opened, clock, batch)
    assert await carry_out(issue, opened, batch) == {"CZ5001": "in_doubt"}
    found = await standing(opened, batch)
    assert (found.due_at, found.lease_until) == (None, None)
    assert (found.reason or "").endswith("whether it happened can't be looked up: office: answered 422")


async def test_what_nobody_can_tell_waits_for_a_person_and_is_never_sent_again(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    issue = issuing(desk.connector, can_look_up=False)
    desk.system.misbehave(Misbehavior.CUT_BEFORE)
    await carry_out(issue, opened, batch)
    await due_now(opened, clock, batch)
    reasons: list[str | None] = []
    for _ in range(3):
        assert await carry_out(issue, opened, batch) == {"CZ5001": "in_doubt"}
        found = await standing(opened, batch)
        assert (found.state, found.due_at, found.lease_until) == (EffectState.IN_DOUBT, None, None)
        reasons.append(found.reason)
        clock.forward(days=2)
    assert desk.asked == ["POST"]
    assert len(set(reasons)) == 1
    assert (reasons[0] or "").endswith("; whether it happened can't be looked up")


async def never(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
    await asyncio.Event().wait()
    return Receipt()


async def stumble(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
    raise KeyError("nobody thought of this")


async def get_no_answer(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
    raise Transient("no answer", in_doubt=True)


@pytest.mark.parametrize("act", [never, stumble, get_no_answer])
async def test_what_puts_an_outside_effect_in_doubt_leaves_one_in_our_own_database_as_it_was(
    opened: Installation,
    act: Callable[[Order, ChannelRules, str], Awaitable[Receipt]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.step.ACT_LIMIT_S", 0.1)
    batch = await placed(opened)
    assert await carry_out(step("shelf", local=True)(act), opened, batch) == {"CZ5001": "intended"}
    assert await carry_out(step("paper")(act), opened, batch) == {"CZ5001": "in_doubt"}


async def test_an_attempt_that_never_ends_is_cut_off_and_in_doubt(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.ACT_LIMIT_S", 0.2)
    batch = await placed(opened, 3)

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Never come to an end for one order."""
        if order.number == "CZ5002":
            await asyncio.Event().wait()
        return Receipt()

    assert await carry_out(act, opened, batch) == {"CZ5001": "done", "CZ5002": "in_doubt", "CZ5003": "done"}
    reasons = {one.number: one.reason for one in await standings(opened, batch)}
    assert reasons["CZ5002"] == "no end after 0.2 seconds"


# What waits in line for a system that takes few requests.


@asynccontextmanager
async def asking(desk: Desk, times: int, **limits: float) -> AsyncGenerator[Step]:
    """Make a step that asks the office so many times for an order, within limits, one order at a time by its number."""
    client = Client("office", desk.system.url, Limits.model_validate(limits))
    alone = Turns("office")

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Ask the office."""
        async with alone.of(order.number):
            for _ in range(times):
                await client.request("GET", f"/papers/{key}")
        return Receipt()

    yield act
    await client.aclose()


async def test_what_a_large_batch_waits_for_a_slow_system_is_not_taken_off_the_time_of_its_orders(
    opened: Installation, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.ACT_LIMIT_S", 2.0)
    batch = await placed(opened, 4)
    twice = Batch(batch.items + tuple(item._replace(cause=f"{item.cause}#2") for item in batch.items))
    # The last of 24 requests is begun after 2.3 seconds, and half of the orders wait for the other half.
    async with asking(desk, times=3, per_second=10) as act:
        attempts = await act.carry_out(opened, twice, owner="worker 1")
    assert [(str(one.state), one.reason) for one in attempts] == [("done", None)] * 8
    assert len(desk.asked) == 24


async def test_what_gets_no_turn_is_not_sent_and_tried_again(
    opened: Installation, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.pacing.LINE_LIMIT_S", 0.1)
    batch = await placed(opened, 2)
    desk.system.misbehave(Misbehavior.HANG_BEFORE)
    async with asking(desk, times=1, concurrent=1, timeout=1.0) as act:
        assert await carry_out(act, opened, batch) == {"CZ5001": "in_doubt", "CZ5002": "intended"}
    assert desk.asked == ["GET"]
    _, second = await standings(opened, batch)
    assert second.reason == "office: not sent: its turn did not come in 0.1 seconds"


async def test_what_comes_to_its_turn_when_its_lease_has_run_out_is_not_sent(
    opened: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened, 2)
    desk.office.on_look = lambda _: clock.forward(seconds=LEASE.total_seconds())
    async with asking(desk, times=1, concurrent=1) as act:
        assert await carry_out(act, opened, batch) == {"CZ5001": "done", "CZ5002": "intended"}
    assert desk.asked == ["GET"]


# Leases.


@dataclass
class Gate:
    """A step that says when it has begun, and comes back with what it is given."""

    step: Step
    entered: asyncio.Event
    opened: asyncio.Future[Receipt | Skip]
    acts: list[str]


def gate() -> Gate:
    entered, acts = asyncio.Event(), list[str]()
    opened: asyncio.Future[Receipt | Skip] = asyncio.get_running_loop().create_future()

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt | Skip:
        """Wait at the gate."""
        acts.append(order.number)
        entered.set()
        return await asyncio.shield(opened)

    return Gate(act, entered, opened, acts)


async def renewed(opened: Installation, clock: Clock, batch: Batch) -> None:
    """Let most of a lease go by, and wait until its owner has renewed it."""
    clock.now += LEASE * 0.8
    async with asyncio.timeout(120):
        while True:
            if (await standing(opened, batch)).lease_until == clock.now + LEASE:
                return
            await asyncio.sleep(0.02)


@EITHER_DATABASE
async def test_a_lease_is_renewed_while_its_owner_works(
    opened: Installation, other: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.RENEW_S", 0.05)
    batch = await placed(opened)
    slow = gate()
    working = asyncio.create_task(carry_out(slow.step, opened, batch, "worker 1"))
    await slow.entered.wait()
    for _ in range(3):
        await renewed(opened, clock, batch)
        (attempt,) = await slow.step.carry_out(other, batch, owner="worker 2")
        assert attempt.claim.verdict is Verdict.STOP
    slow.opened.set_result(Receipt(reference="P-1"))
    assert await working == {"CZ5001": "done"}
    assert slow.acts == ["CZ5001"]
    assert (await standing(opened, batch)).attempts == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_lease_is_renewed_again_after_the_database_was_away(
    url: str, other: Installation, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.RENEW_S", 0.05)
    # The server is reached by way of a link, so that it can be gone for a while and come back.
    address = make_url(url)
    link, away = tmp_path / "pg", tmp_path / "away"
    link.symlink_to(str(address.query["host"]))
    linked = address.set(query={"host": str(link)}).render_as_string(hide_password=False)
    batch = await placed(other)
    async with shop(tmp_path / "linked", url=linked, clock=clock) as opened:
        slow = gate()
        working = asyncio.create_task(carry_out(slow.step, opened, batch, "worker 1"))
        await slow.entered.wait()
        link.rename(away)
        await opened.store.close()  # no connection is left over
        with pytest.raises(OSError, match="No such file"):
            await standing(opened, batch)
        await asyncio.sleep(0.3)  # some renewals fail
        away.rename(link)
        await renewed(other, clock, batch)
        slow.opened.set_result(Receipt())
        assert await working == {"CZ5001": "done"}


def test_an_attempt_may_begin_at_any_time_and_is_over_before_its_lease() -> None:
    assert timedelta(seconds=RENEW_S + ACT_LIMIT_S) < LEASE


async def test_a_worker_that_lost_its_lease_begins_nothing_more(
    opened: Installation, other: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.CONCURRENT", 1)
    monkeypatch.setattr("tasks.step.RENEW_S", 0.05)
    batch = await placed(opened, 3)
    slow = gate()
    working = asyncio.create_task(slow.step.carry_out(opened, batch, owner="worker 1"))
    await slow.entered.wait()
    clock.now += LEASE  # such as a computer that slept
    made_up_for: list[str] = []

    @step("paper")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Note who was made up for."""
        made_up_for.append(order.number)
        return Receipt(reference="by worker 2")

    @act.lookup
    async def find(order: Order, _rules: ChannelRules, _key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        return Receipt(reference="found") if order.number in slow.acts else None

    assert set((await carry_out(act, other, batch, "worker 2")).values()) == {"done"}
    slow.opened.set_result(Receipt(reference="by worker 1"))
    await working
    assert slow.acts == ["CZ5001"]
    assert made_up_for == ["CZ5002", "CZ5003"]


async def test_what_could_not_begin_in_time_is_due_again_and_not_in_doubt(
    opened: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.step.CONCURRENT", 1)
    batch = await placed(opened, 2)
    slow = gate()
    working = asyncio.create_task(carry_out(slow.step, opened, batch))
    await slow.entered.wait()
    clock.now += LEASE * 0.5
    slow.opened.set_result(Receipt())
    assert await working == {"CZ5001": "done", "CZ5002": "intended"}
    late = (await standings(opened, batch))[1]
    assert late.reason == "not begun: the lease could not be kept"
    assert late.due_at is not None
    clock.now = late.due_at
    assert await carry_out(slow.step, opened, batch) == {"CZ5001": "done", "CZ5002": "done"}


@EITHER_DATABASE
async def test_what_a_worker_did_after_its_lease_ran_out_is_recorded_once(
    opened: Installation, other: Installation, clock: Clock
) -> None:
    batch = await placed(opened)
    slow = gate()

    @slow.step.lookup
    async def find(_order: Order, _rules: ChannelRules, _key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        return Receipt(reference="found")

    working = asyncio.create_task(slow.step.carry_out(opened, batch, owner="worker 1"))
    await slow.entered.wait()
    clock.forward(minutes=2)
    assert await carry_out(slow.step, other, batch, "worker 2") == {"CZ5001": "done"}
    slow.opened.set_result(Receipt(reference="late"))
    (late,) = await working
    assert late.state is EffectState.DONE
    assert late.receipt is not None
    assert late.receipt.reference == "found"
    assert slow.acts == ["CZ5001"]
    assert (await standing(opened, batch)).reference == "found"
    assert await moves(opened, batch.items[0]) == ["intended", "in_doubt", "done"]


@EITHER_DATABASE
async def test_a_worker_that_lost_its_lease_still_knows_what_it_has_done(
    opened: Installation, other: Installation, clock: Clock
) -> None:
    batch = await placed(opened)
    slow = gate()
    asking, answer = asyncio.Event(), asyncio.Event()

    @slow.step.lookup
    async def find(_order: Order, _rules: ChannelRules, _key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        asking.set()
        await answer.wait()
        raise Transient("the office is closed")

    first = asyncio.create_task(slow.step.carry_out(opened, batch, owner="worker 1"))
    await slow.entered.wait()
    clock.forward(minutes=2)
    second = asyncio.create_task(slow.step.carry_out(other, batch, owner="worker 2"))
    await asking.wait()
    slow.opened.set_result(Receipt(reference="late"))
    (late,) = await first
    assert late.state is EffectState.DONE
    answer.set()
    (asked,) = await second
    # The new owner learned nothing; that it is done stands.
    assert (asked.state, asked.retry) == (EffectState.DONE, False)
    found = await standing(opened, batch)
    assert (found.state, found.reference, found.due_at) == (EffectState.DONE, "late", None)
    assert await moves(opened, batch.items[0]) == ["intended", "in_doubt", "done"]


@pytest.mark.parametrize(
    "ending",
    [
        Transient("the office is closed"),
        Transient("no answer", in_doubt=True),
        Rejected("the office wants no such paper"),
        Misconfigured("the office doesn't know us"),
        KeyError("nobody thought of this"),
        Skip("the rules changed meanwhile"),
    ],
    ids=lambda ending: type(ending).__name__ + ("-in-doubt" if getattr(ending, "in_doubt", False) else ""),
)
async def test_a_worker_that_lost_its_lease_and_did_nothing_leaves_it_to_the_new_owner(
    opened: Installation, other: Installation, clock: Clock, ending: Exception | Skip
) -> None:
    batch = await placed(opened)
    slow = gate()
    asking, answer = asyncio.Event(), asyncio.Event()

    @slow.step.lookup
    async def find(_order: Order, _rules: ChannelRules, _key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        asking.set()
        await answer.wait()
        return Receipt(reference="found")

    first = asyncio.create_task(slow.step.carry_out(opened, batch, owner="worker 1"))
    await slow.entered.wait()
    clock.forward(minutes=2)
    second = asyncio.create_task(slow.step.carry_out(other, batch, owner="worker 2"))
    await asking.wait()
    if isinstance(ending, Skip):
        slow.opened.set_result(ending)
    else:
        slow.opened.set_exception(ending)
    (late,) = await first
    assert (late.state, late.retry) == (EffectState.IN_DOUBT, False)
    assert (await row_of(opened, "paper", batch.items[0])).lease_owner == "worker 2"
    answer.set()
    (asked,) = await second
    assert asked.state is EffectState.DONE
    assert await moves(opened, batch.items[0]) == ["intended", "in_doubt", "done"]


# Workers that die.


async def test_a_cancelled_run_leaves_what_it_had_begun_to_be_asked_about(
    opened: Installation, other: Installation, desk: Desk, clock: Clock
) -> None:
    batch = await placed(opened)
    slow = gate()
    working = asyncio.create_task(carry_out(slow.step, opened, batch))
    await slow.entered.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await carry_out(issuing(desk.connector), other, batch, "worker 2") == {"CZ5001": "intended"}
    clock.now += LEASE
    assert await carry_out(issuing(desk.connector), other, batch, "worker 2") == {"CZ5001": "done"}
    assert desk.asked == ["GET", "POST"]


def _killed_here(point: str, here: str) -> None:
    if point == here:
        os.kill(os.getpid(), signal.SIGKILL)


async def _carry_out_and_die(home: str, url: str, office: str, point: str, items: list[Any]) -> None:
    """Carry out a step as a worker of its own, up to the point where it is killed; without an office, our own step."""
    batch = Batch(tuple(Item(*item) for item in items))
    async with shop(Path(home), url=url) as opened:
        connector = OfficeConnector(office, headers={"X-Worker": str(os.getpid())})
        _killed_here(point, "before the claim")
        made = _papers(connector, point) if office else _shelf(point)
        await made.carry_out(opened, batch, owner="killed")
        _killed_here(point, "after the record")


def _taking(point: str) -> Callable[[Transaction], Awaitable[None]]:
    async def write(transaction: Transaction) -> None:
        await take_one(transaction)
        _killed_here(point, "in the record")

    return write


def _shelf(point: str = "") -> Step:
    """Make a step that takes tea from the shelf, in our own database alone, and that may be killed on the way."""

    @step("paper", local=True)
    async def act(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Take one from the shelf."""
        _killed_here(point, "after the claim")
        return Receipt(write=_taking(point))

    return act


def _papers(connector: OfficeConnector, point: str = "") -> Step:
    """Make a step that has a paper issued and takes tea from the shelf for it, and that may be killed on the way."""
    write = _taking(point)

    @step("paper")
    async def issue(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Have the office issue a paper."""
        _killed_here(point, "after the claim")
        reference = await connector.issue(order.number, key)
        _killed_here(point, "after the answer")
        return Receipt(reference=reference, write=write)

    @issue.lookup
    async def find(_order: Order, _rules: ChannelRules, key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - registered
        reference = await connector.find(key)
        return Receipt(reference=reference, write=write) if reference else None

    return issue


def _serve() -> None:
    """Carry out what stdin says, line by line, each in a process of its own; say how each ended."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                asyncio.run(_carry_out_and_die(**json.loads(line)))
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


Killing = Callable[..., Awaitable[int]]


@pytest.fixture(scope="module")
def workers() -> Generator[Killing]:
    """Start what makes workers; calling it runs one and returns how it ended. It is started once: Prefect is large."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as maker:
        assert maker.stdin is not None
        assert maker.stdout is not None
        told, said = maker.stdin, maker.stdout

        async def run(**told_: Any) -> int:
            told.write(json.dumps(told_) + "\n")
            told.flush()
            return int(await asyncio.to_thread(said.readline))

        yield run
        told.close()


def _kill_sender(request: Request) -> None:
    os.kill(int(request.headers["X-Worker"]), signal.SIGKILL)


def _lose(_request: Request) -> None:
    raise HTTPException(503)


def _kill_sender_and_do_nothing(request: Request) -> None:
    _kill_sender(request)
    _lose(request)


POINTS = {
    "before the claim": 0,
    "after the claim": 0,
    "as the request arrives": 0,
    "as the request was carried out": 1,
    "after the answer": 1,
    "in the record": 1,
    "after the record": 1,
}
"""Where a worker is killed, and how many papers there are by then."""


@pytest.mark.parametrize(
    ("url", "point"),
    [*(("sqlite", point) for point in POINTS), ("postgresql", "after the answer"), ("postgresql", "in the record")],
    indirect=["url"],
)
async def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    url: str, tmp_path: Path, opened: Installation, clock: Clock, workers: Killing, point: str
) -> None:
    batch = await placed(opened)
    (item,) = batch.items
    before = await on_hand(opened)
    office = Office()
    if point == "as the request arrives":
        office.on_arrival = _kill_sender_and_do_nothing
    if point == "as the request was carried out":
        office.on_issue = _kill_sender
    async with staffed(office) as desk:
        ended = await workers(home=str(tmp_path / "killed"), url=url, office=desk.system.url, point=point, items=[item])
        assert ended == -signal.SIGKILL
        assert len(office.issued) == POINTS[point]
        office.on_arrival = office.on_issue = lambda _request: None
        again = _papers(desk.connector)
        # Until its lease has run out, the worker may be alive.
        left_alone = point not in ("before the claim", "after the record")
        arrived = len(desk.asked)
        assert await carry_out(again, opened, batch) == {"CZ5001": "intended" if left_alone else "done"}
        if left_alone:
            assert len(desk.asked) == arrived
        clock.now = NOW + LEASE + timedelta(seconds=1)
        assert await carry_out(again, opened, batch) == {"CZ5001": "done"}
        assert await carry_out(again, opened, batch) == {"CZ5001": "done"}
    assert office.issued == [("CZ5001", (await row_of(opened, "paper", item)).key)]
    assert await on_hand(opened) == before - 1
    assert await moves(opened, item) == ["intended", "in_doubt", "done"] if left_alone else ["intended", "done"]


@pytest.mark.parametrize("point", ["after the claim", "in the record", "after the record"])
async def test_a_step_in_our_own_database_that_was_killed_takes_place_once(
    url: str, tmp_path: Path, opened: Installation, clock: Clock, workers: Killing, point: str
) -> None:
    batch = await placed(opened)
    before = await on_hand(opened)
    told: dict[str, Any] = {"home": str(tmp_path / "killed"), "url": url, "office": ""}
    assert await workers(**told, point=point, items=batch.items) == -signal.SIGKILL
    assert await on_hand(opened) == (before - 1 if point == "after the record" else before)
    clock.now = NOW + LEASE
    assert await carry_out(_shelf(), opened, batch) == {"CZ5001": "done"}
    assert await on_hand(opened) == before - 1


@EITHER_DATABASE
async def test_a_worker_killed_in_the_middle_of_a_batch_is_made_up_for(
    url: str, tmp_path: Path, opened: Installation, clock: Clock, workers: Killing
) -> None:
    batch = await placed(opened, 40)
    before = await on_hand(opened)
    office = Office()

    def kill_at_the_tenth(request: Request) -> None:
        if len(office.issued) == 10:
            _kill_sender(request)
            # The worker may have sent all the others by now; what it sent and was not carried out is lost with it.
            office.on_arrival = _lose

    office.on_issue = kill_at_the_tenth
    async with staffed(office) as desk:
        told: dict[str, Any] = {"home": str(tmp_path / "killed"), "url": url, "office": desk.system.url}
        assert await workers(**told, point="", items=batch.items) == -signal.SIGKILL
        assert len(office.issued) == 10
        office.on_arrival = office.on_issue = lambda _request: None
        clock.now = NOW + LEASE + timedelta(seconds=1)
        result = await carry_out(_papers(desk.connector), opened, batch)
    numbers = [item.number for item in batch.items]
    assert result == dict.fromkeys(numbers, "done")
    assert office.orders == numbers
    assert await on_hand(opened) == before - 40


async def test_a_worker_that_ends_by_itself_is_told_apart_from_one_that_was_killed(
    url: str, tmp_path: Path, opened: Installation, workers: Killing
) -> None:
    batch = await placed(opened)
    async with staffed(Office()) as desk:
        told: dict[str, Any] = {"home": str(tmp_path / "whole"), "url": url, "office": desk.system.url}
        assert await workers(**told, point="", items=batch.items) == 0
        assert desk.office.orders == ["CZ5001"]


if __name__ == "__main__":
    _serve()
