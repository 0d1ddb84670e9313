"""A long outage: the system that is down is hardly asked, all else goes on, and the backlog drains by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from shop_builders import NOW, Clock, buy, cancel, change_rules, pay, place, placed, shop, steps_of, stock_up
from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from step_builders import TEA, Office, OfficeConnector, moves, postgres, standings

from connectors.errors import Transient
from connectors.roles import Consignment, Shipment
from deployments.dispatcher import Dispatcher
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.orders import Order
from domain.rules import ChannelRules
from store import effects, outages, stock, work
from store.audit import audit
from store.effects import EffectState, Ending, Wanted
from store.journal import Actor
from store.outages import Down, Outage
from store.tables import EffectRow, OrderRow
from tasks.installation import Installation, close_installation, open_installation
from tasks.outage import ENOUGH, REST_AFTER, Watch
from tasks.pace import LEASE, PATIENCE
from tasks.step import CONCURRENT, Attempt, Batch, Item, Receipt, Step, step

CARRIER = "dove"


class Dove:
    """A carrier: the office issues its labels, and never notices a repeat."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._office = OfficeConnector(url, timeout_s=timeout_s)

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Order a label."""
        return Shipment(tracking_number=await self._office.issue(consignment.order_number, key))

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:
        """Ask for a label that may have been ordered."""
        del consignment
        reference = await self._office.find(key)
        return Shipment(tracking_number=reference) if reference else None

    async def cancel(self, tracking_number: str, key: str) -> None:
        """Cancel nothing: no test here asks for it."""
        raise AssertionError(tracking_number, key)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._office.aclose()


@dataclass
class Loft:
    """The carrier, and the stand-in that serves it."""

    office: Office
    system: StandIn

    @property
    def calls(self) -> int:
        """How many requests have arrived, questions counted in."""
        return len(self.system.requests)


@pytest.fixture
async def loft() -> AsyncGenerator[Loft]:
    office = Office()
    async with StandIn(office.app) as system:
        yield Loft(office, system)


async def use(opened: Installation, loft: Loft, *, timeout_s: float = 5.0) -> None:
    """Let the Czech channel send by the dove, and lay in enough tea."""
    opened.connectors[CARRIER] = Dove(loft.system.url, timeout_s=timeout_s)
    await change_rules(opened, {"connectors": {"carrier": CARRIER}})
    async with opened.store.write() as connection:
        await stock.count(connection, TEA, "Sencha", 10_000, now=opened.clock())


@pytest.fixture
async def sending(opened: Installation, loft: Loft) -> Installation:
    """Return a shop whose Czech channel sends by the dove."""
    await use(opened, loft)
    return opened


def numbers(count: int, first: int = 5001) -> list[str]:
    return [f"CZ{first + place}" for place in range(count)]


async def sell(opened: Installation, *some: str) -> None:
    """Let orders be placed and paid by card."""
    for number in some:
        await buy(opened, number)
    for number in some:
        await pay(opened, number)


async def work_off(opened: Installation) -> int:
    return await Dispatcher(opened).work_off()


async def down(opened: Installation) -> dict[str, Down]:
    """Return what people are told of systems that are down."""
    async with opened.store.read() as connection:
        return {one.system: one for one in await outages.listing(connection)}


async def next_probe(opened: Installation) -> datetime:
    return (await down(opened))[CARRIER].probe_at


async def counted(opened: Installation, *some: str) -> dict[str, Counter[str]]:
    """Count the states of each step of some orders that were paid."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(EffectRow.step, EffectRow.state)
            .join(OrderRow, OrderRow.id == EffectRow.order_id)
            .where(OrderRow.number.in_(some), EffectRow.cause.startswith("payment:"))
        )
    found: dict[str, Counter[str]] = {}
    for row in rows.all():
        found.setdefault(row.step, Counter())[row.state] += 1
    return found


async def findings(opened: Installation) -> list[str]:
    async with opened.store.read() as connection:
        return [f"{one.subject}: {one.said}" for one in await audit(connection, now=opened.clock())]


async def card_runs(opened: Installation) -> list[FlowRun]:
    """Return the runs of payments by card that this shop's worker carried out, in the order in which they began."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"worker {opened.worker}"]))
    async with get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=tagged, limit=200)
    return sorted((run for run in found if run.name.startswith("card")), key=lambda run: run.created or NOW)


async def test_a_carrier_that_is_down_is_hardly_asked_all_else_goes_on_and_the_backlog_drains(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    orders = numbers(200)
    loft.system.go_down()
    await sell(sending, *orders)
    other = await buy(sending, "RO7001", channel="ro", currency="RON", total="378.00")
    await pay(sending, "RO7001", currency="RON")
    await work_off(sending)

    # What had begun before the first answers came is all that was sent.
    assert ENOUGH <= loft.calls < CONCURRENT + ENOUGH
    found = await counted(sending, *orders)
    assert {name: found[name] for name in ("status", "invoice", "stock", "message")} == {
        name: {"done": 200} for name in ("status", "invoice", "stock", "message")
    }
    assert found["dispatch"]["in_doubt"] + found["dispatch"]["intended"] == 200
    assert (await steps_of(sending, other))["dispatch"]["state"] == "done"
    told = (await down(sending))[CARRIER]
    assert (told.waiting, told.since, told.reason) == (200, clock(), "office: answered 503")

    # Each probe is one order in a run of its own, and one question.
    probed: list[int] = []
    for _ in range(5):
        clock.now = await next_probe(sending)
        before = loft.calls
        assert await work_off(sending) == 1
        probed.append(loft.calls - before)
    assert probed == [1] * 5
    # If the probe is late, everything is due, and still only one is sent.
    clock.now = await next_probe(sending) + REST_AFTER + timedelta(minutes=1)
    before = loft.calls
    assert await work_off(sending) == 200
    assert loft.calls - before == 1
    assert (await down(sending))[CARRIER].waiting == 200

    loft.system.behave()
    clock.now = await next_probe(sending)
    runs = len(await card_runs(sending))
    assert await work_off(sending) == 200
    assert loft.office.orders == orders
    assert (await counted(sending, *orders))["dispatch"] == {"done": 200}
    assert await down(sending) == {}
    assert [run.state_name for run in (await card_runs(sending))[runs:]] == ["Done", "Done"]
    assert await findings(sending) == []


async def test_what_waits_says_why_since_when_and_until_when(sending: Installation, loft: Loft, clock: Clock) -> None:
    loft.system.go_down()
    await sell(sending, *numbers(CONCURRENT + 8))
    await work_off(sending)
    told = (await down(sending))[CARRIER]
    said = f"dove is down since {clock():%H:%M} UTC; it is tried again at {told.probe_at:%H:%M} UTC"
    async with sending.store.read() as connection:
        rows = await connection.execute(
            select(EffectRow.state, EffectRow.reason, EffectRow.due_at).where(EffectRow.step == "dispatch")
        )
    waiting = rows.all()
    assert {row.reason for row in waiting if row.state == EffectState.INTENDED} == {said}
    # One that was not begun yet is due for the probe, the others a little later.
    assert Counter((row.state, row.due_at) for row in waiting if row.due_at == told.probe_at) == {
        (EffectState.INTENDED, told.probe_at): 1
    }
    assert {row.due_at for row in waiting} == {told.probe_at, told.probe_at + REST_AFTER}
    (run,) = await card_runs(sending)
    assert run.state_name == "Will go on"


async def test_orders_that_come_while_a_carrier_is_down_send_it_nothing(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.system.go_down()
    await sell(sending, *numbers(5))
    await work_off(sending)
    before = loft.calls
    clock.forward(seconds=5)
    await sell(sending, "CZ6001")
    await work_off(sending)
    assert loft.calls == before
    assert (await counted(sending, "CZ6001"))["dispatch"] == {"intended": 1}
    loft.system.behave()
    clock.now = await next_probe(sending)
    await work_off(sending)
    assert loft.office.orders == [*numbers(5), "CZ6001"]


# One order's trouble.


def refusing(*poisoned: str) -> Callable[[Request], None]:
    """Answer 500 to some orders, whenever they are asked for."""

    def arrive(request: Request) -> None:
        asked: Any = getattr(request, "_json", {})
        if asked.get("order") in poisoned:
            raise HTTPException(500)

    return arrive


async def test_an_order_on_which_a_carrier_always_fails_stops_nobody_else(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.office.on_arrival = refusing("CZ5001")
    await sell(sending, *numbers(5))
    await work_off(sending)
    sent = numbers(4, first=5002)
    for _ in range(ENOUGH):
        assert loft.office.orders == sent
        assert await down(sending) == {}
        clock.forward(days=2)
        new = f"CZ{6001 + len(sent)}"
        await sell(sending, new)
        await work_off(sending)
        sent.append(new)
    assert loft.office.orders == sent


async def test_what_comes_up_again_is_not_closed_by_the_one_order_that_was_the_trouble(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.system.go_down()
    await sell(sending, *numbers(10))
    await work_off(sending)
    loft.system.behave()
    loft.office.on_arrival = refusing("CZ5001", "CZ5002", "CZ5003")
    for _ in range(4):  # at worst each of them is the probe once
        if CARRIER in await down(sending):
            clock.now = await next_probe(sending)
        await work_off(sending)
    assert loft.office.orders == numbers(7, first=5004)


# The same step, without a shop around it.


def papers(office: OfficeConnector) -> Step:
    """Make the step that has a paper issued, with the office as its system."""

    @step("paper", system=lambda _rules: "office")
    async def issue(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Have the office issue a paper."""
        return Receipt(reference=await office.issue(order.number, key))

    @issue.lookup
    async def find(_order: Order, _rules: ChannelRules, key: str) -> Receipt | None:  # pyright: ignore[reportUnusedFunction] - it is registered
        reference = await office.find(key)
        return Receipt(reference=reference) if reference else None

    return issue


@pytest.fixture
async def issue(loft: Loft, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Step]:
    # The step is tried again as often as ever, but at once.
    monkeypatch.setattr("tasks.step.RETRIES_IN_RUN_S", (0.02, 0.02, 0.02))
    connector = OfficeConnector(loft.system.url)
    yield papers(connector)
    await connector.aclose()


async def in_flow(act: Callable[[], Awaitable[Any]]) -> Any:
    @flow(name="scenario")
    async def scenario() -> Any:
        return await act()

    return await scenario()


def each(batch: Batch) -> list[Batch]:
    return [Batch((item,)) for item in batch.items]


async def test_single_orders_try_again_within_their_runs_until_the_system_is_called_down(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    singles = each(await placed(opened, ENOUGH + 2))
    loft.system.go_down()
    calls: list[int] = []
    for single in singles[:-1]:
        before = loft.calls
        await in_flow(lambda single=single: issue(single))
        calls.append(sum(seen.method == "POST" for seen in list(loft.system.requests)[before:]))
    # In doubt, only the question is repeated; here nothing but the first request of each is a request for a paper.
    assert calls == [1] * ENOUGH + [0]
    assert [*await down(opened)] == ["office"]
    assert await moves(opened, singles[ENOUGH - 1].items[0]) == ["intended", "in_doubt"]
    assert await moves(opened, singles[ENOUGH].items[0]) == ["intended", "to retry"]
    # The probe is one question, and none of the run's own repeats.
    before = loft.calls
    clock.now = (await down(opened))["office"].probe_at
    await in_flow(lambda: issue(singles[-1]))
    assert loft.calls == before + 1
    # When it is back, a run of one order tells, and the others are due.
    loft.system.behave()
    clock.now = (await down(opened))["office"].probe_at + REST_AFTER
    assert await in_flow(lambda: issue(singles[-1]))
    found = await standings(opened, Batch(tuple(item for single in singles[:-2] for item in single.items)))
    assert {one.due_at for one in found} == {clock()}


async def test_one_order_may_fail_for_ever_and_the_system_is_not_called_down(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    bad, good = each(await placed(opened, 2))
    loft.office.on_arrival = refusing("CZ5001")
    for _ in range(2 * ENOUGH):
        await issue.carry_out(opened, bad, owner="worker")
        clock.forward(days=2)
    assert await down(opened) == {}
    assert await in_flow(lambda: issue(good)) == good


async def test_a_success_in_between_begins_the_count_anew(opened: Installation, loft: Loft, issue: Step) -> None:
    singles = each(await placed(opened, 2 * ENOUGH))
    bad = [single.items[0].number for place, single in enumerate(singles) if place != ENOUGH - 1]
    loft.office.on_arrival = refusing(*bad)
    for single in singles[:-1]:
        await issue.carry_out(opened, single, owner="worker")
    assert await down(opened) == {}
    await issue.carry_out(opened, singles[-1], owner="worker")
    assert [*await down(opened)] == ["office"]


async def test_orders_that_are_refused_neither_close_a_system_nor_open_it(
    opened: Installation, loft: Loft, issue: Step
) -> None:
    batch = await placed(opened, 20)
    loft.system.misbehave(Misbehavior.STATUS_BEFORE, status=422, times=None)
    await issue.carry_out(opened, batch, owner="worker")
    assert loft.calls == 20
    assert await down(opened) == {}


async def test_who_is_asked_to_wait_waits_so_long_and_nothing_is_called_down(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    batch = await placed(opened, 100)
    loft.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, retry_after=7200, times=None)
    await issue.carry_out(opened, batch, owner="worker")
    assert loft.calls <= CONCURRENT
    assert await down(opened) == {}
    found = await standings(opened, batch)
    assert {one.due_at for one in found} == {clock() + timedelta(hours=2)}
    assert "office asks to wait until 11:00 UTC" in {one.reason for one in found}
    loft.system.behave()
    clock.forward(hours=2)
    await issue.carry_out(opened, batch, owner="worker")
    assert loft.office.orders == [item.number for item in batch.items]


async def test_a_system_that_says_when_it_is_back_is_not_probed_before(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    loft.system.misbehave(Misbehavior.STATUS_BEFORE, status=503, retry_after=7200, times=None)
    await issue.carry_out(opened, await placed(opened, 5), owner="worker")
    assert (await down(opened))["office"].probe_at == clock() + timedelta(hours=2)


async def test_an_order_in_doubt_may_be_the_probe_and_what_it_did_is_found(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    batch = await placed(opened, ENOUGH)
    loft.system.misbehave(Misbehavior.STATUS_AFTER, status=500, times=None)
    await issue.carry_out(opened, batch, owner="worker")
    assert {one.state for one in await standings(opened, batch)} == {EffectState.IN_DOUBT}
    loft.system.behave()
    clock.now = (await down(opened))["office"].probe_at + REST_AFTER
    await issue.carry_out(opened, batch, owner="worker")
    assert {one.state for one in await standings(opened, batch)} == {EffectState.DONE}
    assert loft.office.orders == [item.number for item in batch.items]
    assert await down(opened) == {}


async def test_an_order_that_tells_nothing_is_followed_by_another_probe(opened: Installation, clock: Clock) -> None:
    batch = await placed(opened, 10)
    is_back = False
    asked: list[str] = []

    @step("paper", system=lambda _rules: "office")
    async def act(order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Fail as if the office was closed, and later for the first order for a reason of its own."""
        if not is_back:
            raise Transient("the office is closed")
        asked.append(order.number)
        if len(asked) == 1:
            raise ValueError
        return Receipt()

    await act.carry_out(opened, batch, owner="worker")
    clock.now = (await down(opened))["office"].probe_at + REST_AFTER
    is_back = True
    await act.carry_out(opened, batch, owner="worker")
    assert Counter(one.state for one in await standings(opened, batch)) == {
        EffectState.DONE: 9,
        EffectState.IN_DOUBT: 1,
    }


async def test_of_one_batch_only_the_orders_wait_whose_system_is_down(opened: Installation) -> None:
    batch = await placed(opened, 40)
    other = [await place(opened, f"RO{7001 + n}", channel="ro", currency="RON") for n in range(40)]
    both = Batch((*batch.items, *(Item(id_, f"RO{7001 + n}", f"order:{id_}") for n, id_ in enumerate(other))))
    asked: list[str] = []

    @step("paper", system=lambda rules: rules.channel)
    async def act(order: Order, rules: ChannelRules, _key: str) -> Receipt:
        """Fail for one channel."""
        asked.append(order.number)
        if rules.channel == "cz":
            raise Transient("no connection")
        return Receipt()

    for _ in range(2):
        await act.carry_out(opened, both, owner="worker")
    assert sorted(number for number in asked if number.startswith("RO")) == [f"RO{7001 + n}" for n in range(40)]
    assert sum(number.startswith("CZ") for number in asked) < CONCURRENT + ENOUGH
    assert [*await down(opened)] == ["cz"]


async def test_what_is_recorded_as_waiting_after_the_system_came_up_is_due_all_the_same(
    opened: Installation, loft: Loft, issue: Step, clock: Clock
) -> None:
    *first, last = each(await placed(opened, ENOUGH + 1))
    loft.system.go_down()
    for one in first:
        await issue.carry_out(opened, one, owner="worker")
    (item,) = last.items
    actor, until = Actor(name="worker"), clock() + LEASE
    async with opened.store.write() as connection:
        wanted = [Wanted(item.order_id, item.cause, None, None, "office")]
        claims = await effects.claim(
            connection, "paper", wanted, owner="worker", lease_until=until, actor=actor, now=clock()
        )
        seen = await outages.of_systems(connection, ["office"])
    attempt = Attempt(item, claims[0])
    watch = Watch(opened, {attempt.claim.effect_id: "office"}, seen)

    async def begin(_attempt: Attempt) -> None:
        raise AssertionError

    await watch.carry_on([attempt], begin)
    async with opened.store.write() as connection:
        await outages.is_up(connection, "office", now=clock())
    async with opened.store.write() as connection:
        rows = await effects.lock(connection, [attempt.claim.effect_id])
        ending = Ending(
            effect_id=attempt.claim.effect_id,
            state=EffectState.INTENDED,
            before={},
            after={},
            due_at=attempt.due_at,
        )
        await effects.end(connection, "paper", [ending], rows, actor=actor, now=clock())
    (found,) = await standings(opened, last)
    assert found.due_at == attempt.due_at
    await watch.settle()
    (found,) = await standings(opened, last)
    assert found.due_at == clock()


async def test_failures_that_another_worker_saw_answered_meanwhile_keep_nobody_out(
    opened: Installation, clock: Clock
) -> None:
    batch = await placed(opened, 3)
    async with opened.store.write() as connection:
        claims = await effects.claim(
            connection,
            "paper",
            [Wanted(item.order_id, item.cause, None, None, "office") for item in batch.items],
            owner="worker",
            lease_until=clock() + LEASE,
            actor=Actor(name="worker"),
            now=clock(),
        )
    # This worker read, before the other's answer, that two others had failed.
    read = Outage("office", clock(), "closed", (101, 102), 0, None)
    watch = Watch(opened, {claim.effect_id: "office" for claim in claims}, {"office": read})
    first, *rest = [Attempt(item, claim) for item, claim in zip(batch.items, claims, strict=True)]

    async def begin(attempt: Attempt) -> None:
        if watch.keeps_out(attempt):
            return
        if attempt is first:
            attempt.end(EffectState.INTENDED, "closed", Transient("closed"))
        else:
            attempt.end(EffectState.DONE)
        watch.saw(attempt)

    await watch.carry_on([first, *rest], begin)
    assert {attempt.state for attempt in rest} == {EffectState.DONE}


# Several dispatchers, and those that die.


@pytest.fixture(scope="module")
def new_postgres() -> Generator[Callable[[], str]]:
    with postgres() as new:
        yield new


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("new_postgres")()) if request.param == "postgresql" else None


@pytest.fixture
async def twice(url: str | None, tmp_path: Path, clock: Clock, loft: Loft) -> AsyncGenerator[list[Installation]]:
    """Open one shop twice, as two processes do; its carrier is given up after two seconds."""
    async with shop(tmp_path / "twice", url=url, clock=clock) as first:
        await stock_up(first)
        await use(first, loft, timeout_s=2)
        second = replace(await open_installation(tmp_path / "twice", database_url=url), clock=clock)
        second.connectors[CARRIER] = first.connectors[CARRIER]
        yield [first, second]
        second.connectors.pop(CARRIER)
        await close_installation(second)


async def test_two_dispatchers_send_one_probe(
    twice: list[Installation], loft: Loft, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loft.system.go_down()
    await sell(twice[0], *numbers(12))
    await work_off(twice[0])
    monkeypatch.setattr("deployments.dispatcher.BATCH", 4)
    loft.system.behave()
    loft.system.misbehave(Misbehavior.HANG_BEFORE, times=None)
    clock.now = await next_probe(twice[0]) + REST_AFTER
    before = loft.calls
    counts = await asyncio.gather(*(work_off(one) for one in twice))
    assert (sum(counts), min(counts) > 0) == (12, True)
    assert loft.calls == before + 1
    loft.system.behave()
    clock.now = await next_probe(twice[0])
    await asyncio.gather(*(work_off(one) for one in twice))
    # A batch that the other one's probe kept waiting may be due a little later than what that woke.
    clock.now += REST_AFTER
    await asyncio.gather(*(work_off(one) for one in twice))
    assert loft.office.orders == numbers(12)
    assert await findings(twice[0]) == []


async def test_a_probe_whose_worker_died_is_taken_over_when_its_lease_has_ended(
    twice: list[Installation], loft: Loft, clock: Clock
) -> None:
    first, second = twice
    loft.system.go_down()
    await sell(first, *numbers(5))
    await work_off(first)
    clock.now = await next_probe(first)
    loft.system.behave()
    loft.system.misbehave(Misbehavior.HANG_BEFORE, times=None)
    before = loft.calls
    dying = asyncio.create_task(work_off(first))
    while loft.calls == before:  # noqa: ASYNC110 - the request is what is waited for
        await asyncio.sleep(0.01)
    dying.cancel()
    with suppress(asyncio.CancelledError):
        await dying
    loft.system.behave()
    await work_off(second)
    assert loft.calls == before + 1
    assert loft.office.orders == []
    clock.now += LEASE + timedelta(seconds=1)
    await work_off(second)
    assert loft.office.orders == numbers(5)
    assert await down(second) == {}


# An operator's item.


async def state_of_last_run(opened: Installation) -> State[Any]:
    state = (await card_runs(opened))[-1].state
    assert state is not None
    return state


async def test_what_waits_for_over_a_day_is_shown_to_an_operator_and_goes_on_by_itself_all_the_same(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.system.go_down()
    began = clock()
    await sell(sending, *numbers(10))
    await work_off(sending)
    assert (await state_of_last_run(sending)).name == "Will go on"
    # A probe shortly before the day is over; what it puts off is due when the day is over, not when the next one is.
    clock.now = began + PATIENCE - timedelta(minutes=1)
    await work_off(sending)
    assert (await state_of_last_run(sending)).name == "Will go on"
    clock.now = began + PATIENCE
    assert clock.now < await next_probe(sending)
    assert await work_off(sending) == 10
    state = await state_of_last_run(sending)
    assert (state.name, state.is_failed()) == ("Needs a person", True)
    assert state.message == "10 exact; 10 need a person"
    loft.system.behave()
    clock.now = await next_probe(sending) + REST_AFTER
    await work_off(sending)
    assert loft.office.orders == numbers(10)
    assert (await state_of_last_run(sending)).name == "Done"


async def test_what_is_retried_for_over_a_day_for_any_other_reason_is_shown_too(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.office.on_arrival = refusing("CZ5001")
    await sell(sending, "CZ5001", "CZ5002")
    await work_off(sending)
    assert (await state_of_last_run(sending)).name == "Will go on"
    clock.forward(days=1)
    await sell(sending, "CZ5003")
    await work_off(sending)
    state = await state_of_last_run(sending)
    assert (state.name, state.message) == ("Needs a person", "2 exact; 1 need a person")
    effect = (await steps_of(sending, (await order_id(sending, "CZ5001"))))["dispatch"]
    assert effect["due_at"] > clock()


async def order_id(opened: Installation, number: str) -> int:
    async with opened.store.read() as connection:
        found = await connection.scalar(select(OrderRow.id).where(OrderRow.number == number))
    assert found is not None
    return found


async def test_of_an_order_that_is_cancelled_while_its_step_waits_nothing_stays_due(
    sending: Installation, loft: Loft, clock: Clock
) -> None:
    loft.system.misbehave(Misbehavior.STATUS_BEFORE, status=429, retry_after=50)
    order_id = await buy(sending, "CZ5001", method="cash_on_delivery")
    await work_off(sending)
    assert (await steps_of(sending, order_id))["dispatch"]["state"] == "intended"
    await cancel(sending, order_id)
    clock.forward(minutes=1)
    assert await work_off(sending) == 1
    dispatch = (await steps_of(sending, order_id))["dispatch"]
    assert (dispatch["state"], dispatch["reason"]) == ("skipped", "the order is cancelled")
    async with sending.store.read() as connection:
        assert await work.next_due(connection) is None
    assert loft.office.orders == []
