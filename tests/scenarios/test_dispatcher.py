"""The dispatcher: what is due is carried on, in batches that grow with the load, by one worker at a time."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from line import Line
from mail_server import mail_server
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Pending, Running, Scheduled
from shop_builders import (
    NOW,
    Clock,
    buy,
    change_rules,
    done_outside,
    order_of,
    pay,
    payment_of,
    payment_row,
    shop,
    stock_up,
    take_payments,
)
from step_builders import postgres

from connectors.smtp import Smtp, SmtpConfig
from deployments.dispatcher import BATCH, RUSH, Dispatcher
from deployments.reporter import READY, reporting
from flows.card import card_payment
from store import work
from tasks.installation import Installation, close_installation, open_installation
from tasks.pace import LEASE

ROOT = Path(__file__).parents[2]


async def runs_of(*workers: str) -> list[FlowRun]:
    """Return the flow runs that workers carried out, in the order in which they began."""
    found: list[FlowRun] = []
    async with get_client() as client:
        for worker in workers:
            tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"worker {worker}"]))
            found += await client.read_flow_runs(flow_run_filter=tagged, limit=200)
    return sorted(found, key=lambda run: run.start_time or run.created or NOW)


async def listed(worker: str) -> list[FlowRun]:
    """Return a worker's flow runs as the page Runs of Prefect's UI asks for them: of this week, the newest first."""
    now = datetime.now(UTC)
    shown = FlowRunFilter(
        start_time=FlowRunFilterStartTime.model_validate({"after_": now - timedelta(days=7), "before_": now}),
        tags=FlowRunFilterTags(all_=[f"worker {worker}"]),
    )
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=shown, sort=FlowRunSort.START_TIME_DESC, limit=100)


async def test_what_is_due_is_grouped_by_scenario_and_what_was_placed_goes_first(opened: Installation) -> None:
    for number in ("CZ5001", "CZ5002"):
        await buy(opened, number)
    await buy(opened, "CZ5003", "bank_transfer")
    await buy(opened, "CZ5004", "cash_on_delivery")
    await pay(opened, "CZ5003", method="bank_transfer")
    for number in ("CZ5001", "CZ5002"):
        await pay(opened, number)
    dispatcher = Dispatcher(opened)
    assert await dispatcher.work_off() == 7
    runs = await runs_of(opened.worker)
    assert [run.name for run in runs] == [
        "order placed · 3 orders",
        "dispatch unpaid · CZ5004",
        "card · 2 payments",
        "bank transfer · CZ5003",
    ]
    assert {run.state_name for run in runs} == {"Done"}
    assert await dispatcher.waiting() == 0
    assert (await done_outside(opened))["labels"] == 4
    assert await dispatcher.work_off() == 0


async def test_batches_are_as_large_as_what_is_due_and_never_too_large(opened: Installation) -> None:
    incoming = [payment_of(None, "10.00", text="no reference") for _ in range(BATCH + 50)]
    await take_payments(opened, *incoming)
    assert await Dispatcher(opened).work_off() == BATCH + 50
    assert [run.name for run in await runs_of(opened.worker)] == [f"card · {BATCH} payments", "card · 50 payments"]


@asynccontextmanager
async def at_work(dispatcher: Dispatcher) -> AsyncGenerator[None]:
    """Let a dispatcher run until the block ends."""
    stop = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def all_done(dispatcher: Dispatcher) -> None:
    """Wait until nothing is due any more, and Prefect was told."""
    async with asyncio.timeout(200):
        while await dispatcher.waiting() or dispatcher.busy:  # noqa: ASYNC110 - the database tells it, no event does
            await asyncio.sleep(0.02)


async def test_a_single_payment_is_carried_on_at_once_when_the_dispatcher_is_woken(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.dispatcher._IDLE_S", 3600)  # looking by itself would come too late
    order_id = await buy(opened)
    dispatcher = Dispatcher(opened)
    async with at_work(dispatcher):
        await all_done(dispatcher)
        await pay(opened)
        dispatcher.wake()
        await all_done(dispatcher)
        await pay(opened, None, text="without a reference")
        dispatcher.wake()
        await all_done(dispatcher)
    assert (await order_of(opened, order_id)).status == "paid"
    names = [run.name for run in await runs_of(opened.worker)]
    assert names[:2] == ["order placed · CZ5001", "card · CZ5001"]
    assert names[2].startswith("card · payment ")
    assert len(names) == 3


async def test_a_dispatcher_that_nobody_wakes_looks_by_itself(opened: Installation) -> None:
    dispatcher = Dispatcher(opened)
    async with at_work(dispatcher):
        payment = await pay(opened, None, text="from another process")
        await all_done(dispatcher)
    assert (await payment_row(opened, payment))["outcome"] == "unknown"


@asynccontextmanager
async def two_runs_under_way(opened: Installation, dispatcher: Dispatcher) -> AsyncGenerator[asyncio.Event]:
    """Have two runs wait for a mail server, until the event that is given is set."""
    goes_on, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def data(_server: SMTP, _session: Session, _envelope: Envelope) -> str:
        asked.release()
        await goes_on.wait()
        return "250 OK"

    async with mail_server(data) as port, asyncio.timeout(200):
        opened.connectors["post"] = Smtp(
            SmtpConfig(name="post", home=opened.home, host="127.0.0.1", port=port, security="none")
        )
        await change_rules(opened, {"connectors": {"messenger": "post"}})
        for number in ("CZ5001", "CZ5002"):
            await buy(opened, number)
            await all_done(dispatcher)
        for number in ("CZ5001", "CZ5002"):
            await pay(opened, number)
            dispatcher.wake()
            await asked.acquire()
        try:
            yield goes_on
        finally:
            goes_on.set()


async def begun(dispatcher: Dispatcher) -> None:
    """Wait until all that is due was taken."""
    async with asyncio.timeout(60):
        while await dispatcher.waiting() > 2:  # noqa: ASYNC110 - the database tells it, no event does
            await asyncio.sleep(0.02)


async def test_what_comes_in_a_rush_while_others_are_under_way_goes_together(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.dispatcher._GATHER_S", 3600)
    dispatcher = Dispatcher(opened)
    async with at_work(dispatcher), two_runs_under_way(opened, dispatcher) as goes_on:
        rush = await take_payments(opened, *(payment_of(None, "10.00", text="a rush") for _ in range(RUSH)))
        await begun(dispatcher)
        later = [await pay(opened, None, text="still a rush") for _ in range(3)]
        goes_on.set()
        await all_done(dispatcher)
    carried = [run.parameters["payments"] for run in await runs_of(opened.worker) if "payments" in run.parameters]
    assert [some for some in carried if later[0] in some] == [later]
    assert sum(id_ in some for some in carried for id_ in rush) == RUSH


async def test_a_rush_is_not_gathered_for_ever(opened: Installation) -> None:
    dispatcher = Dispatcher(opened)
    async with at_work(dispatcher), two_runs_under_way(opened, dispatcher):
        await take_payments(opened, *(payment_of(None, "10.00", text="a rush") for _ in range(RUSH)))
        await begun(dispatcher)
        alone = await pay(opened, None, text="one more")
        await begun(dispatcher)
        async with asyncio.timeout(60):
            while (await payment_row(opened, alone))["outcome"] is None:  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.02)


# What Prefect is told, beside the work.


async def test_a_run_that_was_made_ahead_of_its_payment_tells_as_much_as_any(opened: Installation) -> None:
    dispatcher = Dispatcher(opened)
    paid: list[int] = []
    async with at_work(dispatcher):
        for _ in range(2):
            paid.append(await pay(opened, None, text="without a reference"))
            dispatcher.wake()
            await all_done(dispatcher)
            await ready(opened.worker)
    first, second = await runs_of(opened.worker)
    assert [first.parameters, second.parameters] == [{"payments": [paid[0]]}, {"payments": [paid[1]]}]
    assert second.name == f"card · payment {paid[1]} · unknown"
    assert second.state_name == first.state_name == "Needs a person"
    assert second.start_time is not None
    assert await reported(second) == await reported(first)


async def test_the_list_of_runs_has_the_newest_payment_on_top_and_no_run_that_was_made_ahead(
    opened: Installation,
) -> None:
    await buy(opened)
    dispatcher = Dispatcher(opened)
    began = datetime.now(UTC)
    payment = 0
    async with at_work(dispatcher):
        await all_done(dispatcher)
        for number in ("CZ5001", None):  # a run made on the spot, and one that was made ahead
            payment = await pay(opened, number, text="no reference")
            dispatcher.wake()
            await all_done(dispatcher)
            await ready(opened.worker)
        seen = await listed(opened.worker)
    assert [run.name for run in seen] == [
        f"card · payment {payment} · unknown",
        "card · CZ5001",
        "order placed · CZ5001",
    ]
    # Each stands at the time when it began, and what was made ahead is not said to have begun late.
    times = [run.start_time for run in seen if run.start_time]
    assert [*times, began] == sorted([*times, began], reverse=True)
    assert (len(times), seen[0].estimated_start_time_delta) == (3, timedelta(0))


async def test_a_payment_that_needs_a_person_shows_as_failed_and_is_carried_on_once(
    opened: Installation, clock: Clock
) -> None:
    payment = await pay(opened, None, text="no reference")
    assert await Dispatcher(opened).work_off() == 1
    clock.forward(days=2)
    assert await Dispatcher(opened).work_off() == 0
    (run,) = await listed(opened.worker)
    assert run.state is not None
    assert (run.name, run.state.name, run.state.is_failed()) == (
        f"card · payment {payment} · unknown",
        "Needs a person",
        True,
    )
    assert run.run_count == 1


async def ready(worker: str) -> None:
    """Wait until a run was made ahead for a card payment, which on SQLite takes while Prefect is writing."""
    async with asyncio.timeout(200):
        while "card payment · next" not in [run.name for run in await runs_of(worker)]:  # noqa: ASYNC110 - Prefect tells it
            await asyncio.sleep(0.1)


async def reported(run: FlowRun) -> tuple[list[str], list[str | None]]:
    """Return the states that a run went through after its beginning, and its artifacts."""
    async with get_client() as client:
        states = await client.read_flow_run_states(run.id)
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        artifacts = await client.read_artifacts(artifact_filter=of_run)
    in_order = sorted(states, key=lambda state: state.timestamp)
    return [str(state.name) for state in in_order][1:], [artifact.key for artifact in artifacts]


async def test_what_prefect_refuses_to_take_is_left_out_and_the_rest_is_told() -> None:
    async with reporting(tags=["worker in a hurry"]) as reporter:
        gone, kept = [await reporter.create_flow_run(card_payment) for _ in range(2)]
        await reporter.delete_flow_run(gone.id)
        for run in (gone, kept):
            accepted = await reporter.set_flow_run_state(run.id, Completed(name="Done"))
            assert accepted.status is SetStateStatus.ACCEPT
        await reporter.keep_up(0)
    assert [(run.id, run.state_name) for run in await runs_of("in a hurry")] == [(kept.id, "Done")]


async def test_runs_that_were_made_ahead_and_never_used_are_taken_away_once_they_are_old(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with get_client() as client:
        left = [
            await client.create_flow_run(card_payment, state=state, tags=["worker long gone"])
            for state in (Scheduled(name=READY), Pending(name=READY))
        ]
    await Dispatcher(opened).work_off()
    assert [run.id for run in await runs_of("long gone")] == [run.id for run in left]
    monkeypatch.setattr("deployments.reporter._LEFT_OVER", timedelta(0))
    await Dispatcher(opened).work_off()
    assert await runs_of("long gone") == []


async def test_a_run_that_was_made_ahead_is_gone_before_it_would_show_as_late(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.reporter._SPARE_S", 0.5)
    dispatcher = Dispatcher(opened)
    async with at_work(dispatcher):
        payment = await pay(opened, None, text="without a reference")
        dispatcher.wake()
        await all_done(dispatcher)
        await ready(opened.worker)
        async with asyncio.timeout(200):
            while any(run.state_name == READY for run in await runs_of(opened.worker)):  # noqa: ASYNC110 - Prefect tells it
                await asyncio.sleep(0.1)
        # The next one gets a run of its own, on time.
        later = await pay(opened, None, text="without a reference")
        dispatcher.wake()
        await all_done(dispatcher)
    runs = [run for run in await runs_of(opened.worker) if run.state_name != READY]
    assert [run.name for run in runs] == [f"card · payment {one} · unknown" for one in (payment, later)]


# Several dispatchers.


@pytest.fixture(scope="module")
def postgres_url() -> Generator[str]:
    with postgres() as new:
        yield new()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None


@pytest.fixture
async def twice(url: str | None, tmp_path: Path, clock: Clock) -> AsyncGenerator[list[Installation]]:
    """Open one shop twice, as two processes do."""
    async with shop(tmp_path / "shop", url=url, clock=clock) as first:
        await stock_up(first)
        second = replace(await open_installation(tmp_path / "shop", database_url=url), clock=clock)
        yield [first, second]
        await close_installation(second)


async def test_two_dispatchers_never_carry_on_the_same_payment(
    twice: list[Installation], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = twice[0]
    numbers = [f"CZ{5001 + place}" for place in range(4)]
    for number in numbers:
        await buy(opened, number)
    await Dispatcher(opened).work_off()
    paid = [await pay(opened, number) for number in numbers]
    monkeypatch.setattr("deployments.dispatcher.BATCH", 1)
    counts = await asyncio.gather(*(Dispatcher(one).work_off() for one in twice))
    assert sum(counts) == len(paid)
    assert min(counts) > 0
    runs = await runs_of(*(one.worker for one in twice))
    assert sorted(id_ for run in runs for id_ in run.parameters.get("payments", [])) == paid
    assert await done_outside(opened) == {"documents": 4, "letters": 8, "labels": 4, "deductions": 4}


async def test_the_leases_of_a_dead_dispatcher_run_out_and_the_next_one_goes_on(
    opened: Installation, clock: Clock
) -> None:
    payment = await pay(opened, None, text="no reference")
    async with opened.store.write() as connection:
        taken = await work.take(connection, owner="the dead one", now=clock(), lease_until=clock() + LEASE, limit=BATCH)
    assert [due.subject_id for due in taken] == [payment]
    dispatcher = Dispatcher(opened)
    assert await dispatcher.work_off() == 0
    clock.now += LEASE - timedelta(seconds=1)
    assert await dispatcher.work_off() == 0
    clock.forward(seconds=1)
    assert await dispatcher.work_off() == 1
    assert (await payment_row(opened, payment))["outcome"] == "unknown"


# The log of those that died.


async def running_run(*tags: str) -> UUID:
    """Leave a flow run in Prefect that says that it is running."""
    async with get_client() as client:
        run = await client.create_flow_run(card_payment, parameters={"payments": [1]}, state=Running(), tags=tags)
    return run.id


async def state_names(ids: Sequence[UUID]) -> list[str | None]:
    async with get_client() as client:
        return [(await client.read_flow_run(id_)).state_name for id_ in ids]


async def test_runs_of_workers_that_are_gone_are_marked_as_crashed(opened: Installation, clock: Clock) -> None:
    gone, alive, foreign = [await running_run(*tags) for tags in (["worker gone"], ["worker alive"], [])]
    payment = await pay(opened, None, text="no reference")
    async with opened.store.write() as connection:
        await work.take(connection, owner="alive", now=clock(), lease_until=clock() + LEASE, limit=1)
    await Dispatcher(opened).work_off()
    # Who holds a lease is at work; a run without a worker's mark is a deployment's, which Prefect looks after.
    assert await state_names([gone, alive, foreign]) == ["Crashed", "Running", "Running"]
    async with get_client() as client:
        state = (await client.read_flow_run(gone)).state
    assert state is not None
    assert state.message == "the process that ran it is gone; what it had begun goes on in a new run"
    clock.now += LEASE
    assert await Dispatcher(opened).work_off() == 1
    assert await state_names([alive, foreign]) == ["Crashed", "Running"]
    assert (await payment_row(opened, payment))["outcome"] == "unknown"


_DISPATCHER = """
import asyncio, logging, signal, sys
from pathlib import Path
from deployments.dispatcher import Dispatcher
from tasks.installation import open_installation, working_on

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with working_on(await open_installation(Path(sys.argv[1]))) as opened:
        await Dispatcher(opened).run(stop)

asyncio.run(main())
"""


def line_to_prefect(*, stuck: bytes | None = None) -> Line:
    """Return a line to Prefect's server, which lets nothing through yet."""
    server = urlsplit(PREFECT_API_URL.value() or "")
    return Line(server.hostname or "", server.port or 0, stuck=stuck)


@asynccontextmanager
async def dispatcher_process(opened: Installation, line: Line) -> AsyncGenerator[Process]:
    """Have a dispatcher at work in a process of its own, which reaches Prefect over a line, until the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_API_URL": f"http://127.0.0.1:{line.port}/api", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    environment |= {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # its own patience would take minutes
    environment |= {"PREFECT_API_REQUEST_TIMEOUT": "600"}  # what gets stuck is stuck until the test lets it go
    command = [sys.executable, "-c", _DISPATCHER, str(opened.home)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stderr=PIPE)
    try:
        yield process
    finally:
        process.terminate()
        line.loose.set()
        await process.wait()
        line.cut()
    assert process.returncode == 0


async def said(process: Process, text: str) -> None:
    """Wait until a process has said something on its standard error."""
    assert process.stderr is not None
    async with asyncio.timeout(200):
        while line := await process.stderr.readline():
            if text in line.decode():
                return
    raise AssertionError(f"the process ended without saying “{text}”")


async def outcome(opened: Installation, payment: int) -> str | None:
    row = await payment_row(opened, payment)
    return row["outcome"]


async def carried_on(opened: Installation, payment: int) -> None:
    """Wait until another process has found nothing that a payment without a reference belongs to."""
    async with asyncio.timeout(100):
        while await outcome(opened, payment) is None:  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(0.1)
    assert await outcome(opened, payment) == "unknown"


async def test_while_prefect_is_away_the_dispatcher_waits_and_what_is_due_stays_due(
    opened: Installation, clock: Clock
) -> None:
    clock.now = datetime.now(UTC)  # the other process has a clock of its own
    first = await pay(opened, None, text="no reference")
    line = line_to_prefect()
    async with dispatcher_process(opened, line) as process:
        await said(process, "Prefect's server is not available")
        assert await outcome(opened, first) is None
        await line.mend()
        await carried_on(opened, first)
        line.cut()
        # Runs that were made ahead are used up first: of these the log has to be told later, or never.
        waits = asyncio.create_task(said(process, "a run of card payment could not be carried out"))
        last = first
        while not waits.done():
            last = await pay(opened, None, text="none either")
            while not waits.done() and await outcome(opened, last) is None:
                await asyncio.wait({waits}, timeout=0.1)
        await waits
        assert await outcome(opened, last) is None
    async with opened.store.read() as connection:
        due_at = await work.next_due(connection)
    assert due_at is not None
    assert due_at < datetime.now(UTC) + timedelta(seconds=31)


async def test_while_prefect_is_slow_to_tell_what_is_left_over_payments_are_carried_on(
    opened: Installation, clock: Clock
) -> None:
    clock.now = datetime.now(UTC)  # the other process has a clock of its own
    left_over = await running_run("worker gone")
    line = line_to_prefect(stuck=b"POST /api/flow_runs/filter ")
    await line.mend()
    async with dispatcher_process(opened, line):
        async with asyncio.timeout(100):
            await line.met.wait()
        await carried_on(opened, await pay(opened, None, text="no reference"))
        assert await state_names([left_over]) == ["Running"]
        line.loose.set()
        async with asyncio.timeout(100):
            while await state_names([left_over]) == ["Running"]:  # noqa: ASYNC110 - Prefect tells it, no event does
                await asyncio.sleep(0.1)
        assert await state_names([left_over]) == ["Crashed"]
